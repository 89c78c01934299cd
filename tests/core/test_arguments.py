"""Arguments of another type than a public function takes are one line that names them, before anything is done."""

import numpy as np
import pytest

import qtool
from qtool.core.arguments import check_type
from qtool.core.errors import QtoolError
from qtool.core.records.options import Names

NAN, INF = float("nan"), float("inf")
WRONG = {
    qtool.calibrate: {
        "samples": (2.5, "2", True, NAN), "batch_size": (1.5, None), "threads": ("2", 1.5),
        "checkpoint": (NAN, INF, "x"),
        "shard": (2, ["1/2"]), "equalize": ("no", 1), "provider": (5, None), "executor": (5,), "progress": (None,),
        "preprocess": (5,), "tokenizer": (5,), "max_length": ("5", 2.5), "trim": (5,),
        "state": (5, [5]), "output": (5,),
    },
    qtool.quantize: {
        "calibrator": (5, ["max"]), "scheme": ("affine",), "exclude": (None, 5, [1]),
        "include_ops": ({},), "target": (None,),
        "form": (None, 5), "smoothing": (True,), "plan": ({},), "calibration": ({}, 5), "save_plan": (5, "a\0b"),
    },
    qtool.evaluate: {
        "metrics": (5,), "max_drop": (True, [1], NAN), "min_sqnr": ("20", True, NAN, INF), "latency_runs": (1.5,),
        "candidates": (5, None, [5]),
    },
    qtool.sensitivity: {"metric": (["top1"], 5), "views": (5,), "memory": (NAN, "1"), "threads": (1.5,)},
    qtool.tune: {
        "metric": (["top1"],), "time_budget": (NAN, INF, "90s"), "max_float_macs": (NAN, None), "calibrators": (5,),
        "tell": (5,),
    },
}  # fmt: skip
GIVEN = {
    "model": "m.onnx", "data": "d.npz", "output": "o", "calibration": "c", "float_model": "m.onnx",
    "candidates": "m.onnx",
}  # fmt: skip


@pytest.mark.parametrize(
    ("function", "name", "value"),
    [(function, name, value) for function, rows in WRONG.items() for name, values in rows.items() for value in values],
    ids=lambda value: getattr(value, "__name__", None) or repr(value),
)
def test_the_message_names_the_argument(function, name, value):
    required = {"calibrate": "model data", "quantize": "model output", "evaluate": "float_model candidates data",
                "sensitivity": "model data calibration", "tune": "model data output"}[function.__name__]  # fmt: skip
    with pytest.raises(QtoolError, match=f"^{name}[ =]") as caught:
        function(**{**{key: GIVEN[key] for key in required.split()}, name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda: qtool.Workers(1.5),
        lambda: qtool.Workers(True),
        lambda: qtool.Cluster(5),
        lambda: qtool.Scheme(exclude=None),
        lambda: qtool.Scheme(exclude=[["a"]]),
        lambda: qtool.MaxDrop("1", relative=True),
        lambda: qtool.merge([5], "o"),
        lambda: qtool.load_plan(5),
        lambda: qtool.load_statistics(None),
    ],
)
def test_other_public_names(call):
    with pytest.raises(QtoolError, match=r"^(count|address|exclude|value|calibrations|path)[ =]"):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: qtool.calibrate("m.onnx", "d.npz", foo=1),
        lambda: qtool.quantize("m.onnx", "o", foo=1),
        lambda: qtool.evaluate("m.onnx", "m.onnx", "d.npz", foo=1),
        lambda: qtool.sensitivity("m.onnx", "d.npz", calibration="c", foo=1),
        lambda: qtool.tune("m.onnx", "d.npz", "o", foo=1),
    ],
)
def test_an_unknown_argument_is_named_as_python_does(call):
    with pytest.raises(TypeError, match=r"^[a-z]+\(\) got an unexpected keyword argument 'foo'"):
        call()


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (np.int64(3), int),
        (np.float32(0.5), float),
        (3, float),
        (np.True_, bool),
        ({"a"}, Names),
    ],
)
def test_what_serves_as_well(value, hint):
    check_type("x", value, hint)
