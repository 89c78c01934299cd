"""Embeddings that the last product reads too, turned or as they are: one set of integers in the file, in every form."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qtool
from qtool.core.numerics.sqnr import signal_to_noise
from qtool.runtime.session import Session

WORDS, WIDTH = 1200, 64
FEEDS = [{"ids": np.random.default_rng(n).integers(0, WORDS, (1, 6))} for n in range(8)]
HEADS = ("turned", "gemm", pytest.param("copied", marks=pytest.mark.long))


def tied(path: Path, head: str) -> Path:
    """Words -> scores of each word. head: a Transpose of the table, a Gemm that turns it, or a copy that is turned."""
    rng = np.random.default_rng(0)
    table = (rng.standard_normal((WORDS, WIDTH)) * 0.3).astype(np.float32)
    constants = {"table": table, "w": (rng.standard_normal((WIDTH, WIDTH)) / 8).astype(np.float32)}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], name="embedding"),
        helper.make_node("MatMul", ["rows", "w"], ["mixed"], name="mix"),
        helper.make_node("Tanh", ["mixed"], ["bent"], name="bend"),
    ]
    if head == "gemm":
        constants["flat"] = np.array([-1, WIDTH])
        nodes.append(helper.make_node("Reshape", ["bent", "flat"], ["flattened"], name="flatten"))
        nodes.append(helper.make_node("Gemm", ["flattened", "table"], ["scores"], name="head", transB=1))
    else:
        if head == "turned":
            nodes.append(helper.make_node("Transpose", ["table"], ["columns"], name="turn", perm=[1, 0]))
        else:
            constants["columns"] = np.ascontiguousarray(table.T)
        nodes.append(helper.make_node("MatMul", ["bent", "columns"], ["scores"], name="head"))
    graph = helper.make_graph(
        nodes,
        "tied",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "words"])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def noise_db(exact: Path, other: Path) -> float:
    runs = ([Session(path).run(feed)["scores"].reshape(-1, WORDS) for feed in FEEDS] for path in (exact, other))
    return signal_to_noise(*map(np.concatenate, runs))


FORMS = {
    "int4": ({"weights": "int4"}, 0.62, 14.0),
    "int4 in blocks that end in padding": ({"weights": "int4", "block": 128}, 0.56, 14.0),
    "int8": ({"weights": "int8"}, 1.17, 33.0),
    "dynamic": ({"form": "dynamic"}, 1.07, 30.0),
    "weight-only": ({"form": "weight-only"}, 1.07, 33.0),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("form", FORMS)
def test_the_integers_are_in_the_file_once(tmp_path, head, form):
    model = tied(tmp_path / "model.onnx", head)
    asked, share, least = FORMS[form]
    result = qtool.quantize(model, tmp_path / "small.onnx", save_plan=tmp_path / "plan.json", **asked)
    numbers = WORDS * WIDTH + WIDTH * WIDTH
    assert result.size < share * numbers + 9000
    assert result.verification.integer_layers == (1 if (form, head) == ("weight-only", "gemm") else 2)
    assert noise_db(model, result.output) > least
    again = qtool.quantize(model, tmp_path / "again.onnx", plan=tmp_path / "plan.json")
    assert again.output.read_bytes() == result.output.read_bytes()


@pytest.mark.parametrize(("head", "target"), [("turned", "x86"), ("gemm", "x86"), ("turned", "portable")])
def test_calibrated_layers_share_them_too(tmp_path, head, target):
    """Nothing is smoothed or refined that would need other integers; the table takes the 7 bits of the layer's."""
    model = tied(tmp_path / "model.onnx", head)
    seen = qtool.calibrate(model, FEEDS).statistics
    result = qtool.quantize(model, tmp_path / "small.onnx", calibration=seen, form="static", target=target)
    assert result.verification.integer_layers == 2
    assert result.size < 1.07 * (WORDS * WIDTH + WIDTH * WIDTH) + 12000
    assert noise_db(model, result.output) > 27.0


def test_a_table_whose_numbers_a_float_layer_reads_stays_float(tmp_path):
    model = tied(tmp_path / "model.onnx", "gemm")
    result = qtool.quantize(model, tmp_path / "small.onnx", form="dynamic", exclude=["head"])
    assert result.plan.skipped["embedding"] == "its table is used for something else"
    stored = {i.name: i.data_type for i in onnx.load(result.output).graph.initializer if WORDS in i.dims}
    assert stored == {"table": TensorProto.FLOAT}
