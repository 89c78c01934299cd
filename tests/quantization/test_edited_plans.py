"""A plan that somebody edited is refused in one line, or gives a model that verifies; and it needs no data."""

import copy
import itertools
import json
import math
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import qtool
from qtool.cli import main
from qtool.core.errors import QtoolError, UsageError
from qtool.core.records.plan import load_plan
from qtool.report.quantize import quantized_text
from tests.support.patterns import Net
from tests.support.since import has
from tests.support.token_models import encoder, recurrent, sentences

FIELDS = ("activations", "constants", "weights", "biases", "shifts", "dynamic", "stored")
EDITS, MORE_EDITS, MANY_EDITS = 4, 12, 300
"""Of each plan, beside rows that stand in the wrong field."""


def _convolutions() -> Net:
    """With all that a static plan can hold: a residual, a constant operand, a pass-through, a Relu, a Clip, a Gemm."""
    net = Net(3, 8, 8)
    first = net("Relu", net.conv("x", 3, 8, name="first"))
    joined = net("Add", net.conv(first, 8, 8, name="second"), first, name="joined")
    moved = net("MaxPool", net("Mul", joined, net.const(0.7, name="factor")), kernel_shape=(2, 2), strides=(2, 2))
    kept = net("Clip", net.conv(moved, 8, 8, name="kept"), net.const(0.0), net.const(2.0))
    net.gemm(net("Flatten", net.conv(kept, 8, 4, kernel=(1, 1), name="last")), 64, 5, trans=1)
    return net


def _source(kind: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """A model, and what `quantize` makes the plan from."""
    path = folder / f"{kind}.onnx"
    if kind in ("static", "tensorrt", "equalized"):
        net = _convolutions()
        net.save(path, f"Gemm_{len(net.nodes) - 1}_out")
        if kind == "equalized":
            return path, {"data": net.samples(), "equalize": True, "absorb_biases": True}
        exclude = ("kept",) if kind == "static" else ()
        scheme = qtool.Scheme(exclude=exclude)
        target = "auto" if kind == "static" else kind
        return path, {
            "data": net.samples(),
            "scheme": scheme,
            "target": target,
            "bias_correction": "on",
            "form": "static",
        }
    if kind == "lstm":
        recurrent("LSTM").save(path, "y_out")
        return path, {"form": "dynamic"}
    onnx.save(encoder(vocabulary=2200), path)
    if kind == "smoothed":
        data = [
            {name: array[:, :4] for name, array in batch.items()}
            for batch in sentences(4, padded=True, vocabulary=2200)
        ]
        stacked = {name: np.concatenate([batch[name] for batch in data]) for name in ("ids", "mask")}
        return path, {"data": stacked, "smoothing": "on"}
    return path, {"form": kind}


KINDS = ("static", "tensorrt", "equalized", "dynamic", "weight-only", "lstm", "smoothed")


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    """kind -> the model, its int8 form, and the JSON of the plan."""

    @cache
    def made(kind: str) -> tuple[Path, bytes, Any]:
        folder = tmp_path_factory.mktemp("plans")
        path, options = _source(kind, folder)
        if "form" not in options:
            options = {"calibrator": "max", **options}
        qtool.quantize(path, folder / "q.onnx", save_plan=folder / "p.json", **options)
        return path, (folder / "q.onnx").read_bytes(), json.loads((folder / "p.json").read_text())

    return made


def _places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*path, key))


def _chosen_places(document: Any) -> list[tuple]:
    """One of each kind of place: `weights[3].params.scale[7]` is of the kind of all scales of weights."""
    alike: dict[tuple, list[tuple]] = {}
    for path in _places(document):
        named = path[0] in ("integer", "skipped") or path[0] == "preparation"
        kind = tuple(
            "*" if isinstance(key, int) or (named and i == len(path[:2]) - 1) else key for i, key in enumerate(path)
        )
        alike.setdefault(kind, []).append(path)
    pick = random.Random(7)
    return [pick.choice(group) for group in alike.values()]


_SCALARS: dict[type, Callable[[Any], list[Any]]] = {
    bool: lambda value: [not value, 1],
    int: lambda value: [value + 1, value - 1, -1, 10**30, 1.5],
    float: lambda value: [0.0, -value, value * 2, value / 1000, value * 1000, 1e-37, 3e38, 1e400, "1"],
    type(None): lambda _: [0, 1, "x"],
}


def _instead(value: Any, pick: random.Random, names: list[str]) -> list[Any]:
    """What may stand in the place of a value."""
    if type(value) in _SCALARS:
        return _SCALARS[type(value)](value)
    if isinstance(value, str):
        return ["nowhere", pick.choice(names), pick.choice(names), None]
    if isinstance(value, dict):
        renamed = dict(value)
        if value:
            renamed[pick.choice(names)] = renamed.pop(next(iter(value)))
        return [{}, [], renamed, {**value, "more": ["QLinearConv"]}, {**value, pick.choice(names): "why"}]
    changed: list[Any] = [[], {}, value * 2, value[:-1], value[1:], value[::-1]]
    return [*changed, [*value, pick.choice(names)], [*value, *value[:1]]]


def _at(document: Any, path: tuple) -> Any:
    for key in path:
        document = document[key]
    return document


def _edits(document: Any, most: int) -> Iterator[tuple[str, Any]]:
    """What was edited, and the whole document with it."""
    pick = random.Random(7)
    names = sorted({key for path in _places(document) for key in path if isinstance(key, str)})
    names += sorted({row["tensor"] for field in ("activations", "weights", "dynamic") for row in document[field]})
    names += [*document["layers"], *document["integer"]] * 3
    found = [(path, value) for path in _chosen_places(document) for value in _instead(_at(document, path), pick, names)]
    for path, value in pick.sample(found, min(most, len(found))):
        edited = copy.deepcopy(document)
        _at(edited, path[:-1])[path[-1]] = value
        if edited != document:
            yield f"{'.'.join(map(str, path))} = {str(value)[:60]}", edited
    for field, other in itertools.permutations(FIELDS, 2):
        if document[field]:
            edited = copy.deepcopy(document)
            edited[other].append(edited[field].pop())
            yield f"a row of {field} among {other}", edited


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "edits",
    [EDITS, pytest.param(MORE_EDITS, marks=pytest.mark.long), pytest.param(MANY_EDITS, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("kind", KINDS)
def test_every_edit_is_refused_in_a_line_or_gives_a_model_that_verifies(plans, tmp_path, kind, edits):
    model, _, document = plans(kind)
    plan, output = tmp_path / "p.json", tmp_path / "q.onnx"
    count = refused = 0
    unclear = []
    for what, edited in _edits(document, edits):
        plan.write_text(json.dumps(edited))
        count += 1
        try:
            qtool.quantize(model, output, plan=plan)
        except QtoolError as error:
            refused += 1
            assert "\n" not in str(error) and not output.exists(), what
            if not (isinstance(error, UsageError) and str(error).startswith(f"{plan}: ")):
                unclear.append(f"{what}: {error}")
        except BaseException as error:
            raise AssertionError(what) from error
        else:
            output.unlink()
    assert count >= EDITS and 0.7 * count < refused
    # that other numbers make another float graph, or that fewer kernels do not run, only the verification finds
    assert [line for line in unclear if not line.startswith(("preparation.", "integer."))] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_alone_gives_the_same_bytes(plans, tmp_path, kind):
    model, wanted, document = plans(kind)
    (tmp_path / "p.json").write_text(json.dumps(document))
    result = qtool.quantize(model, tmp_path / "q.onnx", plan=tmp_path / "p.json")
    assert (tmp_path / "q.onnx").read_bytes() == wanted
    proof = result.verification
    # of weights alone onnxruntime multiplies some in blocks of integers
    by_channel = 7 if has("blocks-by-channel") else 0
    planned = len(set(document["layers"]) & set(document["integer"]))
    assert proof.integer_layers == (by_channel if kind == "weight-only" else planned)
    # made-up inputs have been through every layer, and say nothing of accuracy
    assert proof.macs > 0 and len(proof.tensors) == len(document["activations"])
    assert proof.examples == 0 and all(
        math.isnan(x) for x in (proof.output_sqnr_db, *(t.sqnr_db for t in proof.tensors))
    )
    assert "accuracy    not measured" in quantized_text(result)
    assert qtool.quantize(model, tmp_path / "q.onnx", plan=result.plan).plan == result.plan


def test_a_plan_alone_on_the_command_line(plans, tmp_path, capsys):
    model, wanted, document = plans("dynamic")
    plan, output = tmp_path / "p.json", tmp_path / "q.onnx"
    plan.write_text(json.dumps(document))

    def said(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as caught:
            main(["quantize", str(model), "--plan", str(plan), "-o", str(output), *arguments])
        out, err = capsys.readouterr()
        return caught.value.code, out + err

    for option in ("--dynamic", "--weight-only", "--static"):
        says = f"qtool: {option} says nothing to --plan, which has decided it; leave one of them out\n"
        assert said(option) == (2, says)
    assert said("--threads", "2") == (2, "qtool: --threads says nothing without data; give --data or --calibration\n")
    assert not output.exists()
    code, text = said()
    assert code == 0 and "accuracy    not measured" in text and output.read_bytes() == wanted


def test_a_plan_that_python_made_is_looked_at_too(plans, tmp_path):
    model, _, document = plans("lstm")
    (tmp_path / "p.json").write_text(json.dumps(document))
    plan = load_plan(tmp_path / "p.json")
    row = replace(plan.dynamic[0], params=replace(plan.dynamic[0].params, scale=(0.0,) * 96))
    for odd, says in (
        (replace(plan, dynamic=(row,)), r"the plan: damaged plan \(dynamic\[0\]\.params\.scale: positive"),
        (replace(plan, scheme="odd"), r"the plan: damaged plan \(scheme: one of"),
        (replace(plan, dynamic=plan.dynamic[:1]), "the plan: dynamic: not all weights of node 'recurrent'"),
        (replace(plan, layers=None), r"the plan: damaged plan \(layers: a list is needed, not null"),
    ):
        with pytest.raises(UsageError, match=says):
            qtool.quantize(model, tmp_path / "q.onnx", plan=odd)
    assert not (tmp_path / "q.onnx").exists()


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        ("static", {"target": "x86-avx2"}, "can overflow 16 bits on target x86-avx2; double its scale"),
        ("dynamic", {"target": "x86-avx2"}, "can overflow 16 bits on target x86-avx2; double its scale"),
        ("tensorrt", ("weights", 2, {"scale": 3e38}), "is smaller than a step of its scale"),
        ("weight-only", ("stored", 0, {"scale": 8e13}), "is smaller than a step of its scale"),
        ("dynamic", ("dynamic", 0, {"scale": 1e30}), "is smaller than a step of its scale"),
        ("static", ("activations", 1, {"zero_point": 1}), "must lie within [0, inf], in whose place it stands"),
    ],
)
def test_edits_that_only_a_proof_would_find(plans, tmp_path, kind, change, says):
    model, _, document = plans(kind)
    edited = copy.deepcopy(document)
    if isinstance(change, dict):
        edited.update(change)
    else:
        field, row, grid = change
        params = edited[field][row]["params"]
        params.update({key: [value] * len(params["scale"]) for key, value in grid.items()})
    (tmp_path / "p.json").write_text(json.dumps(edited))
    with pytest.raises(UsageError, match=re.escape(says)):
        qtool.quantize(model, tmp_path / "q.onnx", plan=tmp_path / "p.json")


def test_a_plan_for_seven_bits_is_taken(plans, tmp_path):
    """The remedy: twice the scale, which the bias has a part in."""
    model, _, document = plans("static")
    edited = copy.deepcopy(document) | {"target": "x86-avx2"}
    for row in (*edited["weights"], *edited["biases"]):
        grid = row.get("params", row)
        grid["scale"] = [2 * scale for scale in grid["scale"]]
    (tmp_path / "p.json").write_text(json.dumps(edited))
    assert qtool.quantize(model, tmp_path / "q.onnx", plan=tmp_path / "p.json").plan.target == "x86-avx2"
