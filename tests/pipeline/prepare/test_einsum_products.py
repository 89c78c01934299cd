"""An Einsum that is one product with a constant is a MatMul, in whatever order its letters are."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qtool
from qtool.core.numerics.sqnr import signal_to_noise
from qtool.graph import model_io
from qtool.pipeline.prepare import prepare
from qtool.runtime.session import Session

SIZES = {"b": 2, "t": 5, "d": 32, "h": 4, "k": 8, "e": 3}


def einsum(path: Path, equation: str, *, constant: int = 1) -> Path:
    """x with free axes b and t, and a constant, by the equation; `constant`: which of both it is."""
    letters = equation.replace(" ", "").partition("->")[0].split(",")
    rng = np.random.default_rng(0)
    held = rng.standard_normal([SIZES[letter] for letter in letters[constant]]).astype(np.float32)
    names = ["x", "w"] if constant else ["w", "x"]
    fed = [letter if letter in "bt" else SIZES[letter] for letter in letters[1 - constant]]
    graph = helper.make_graph(
        [helper.make_node("Einsum", names, ["y"], name="einsum", equation=equation)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, fed)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(held, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize(
    ("equation", "constant", "operators"),
    [
        ("btd,dhk->bthk", 1, ["MatMul", "Reshape"]),
        ("btd, dhk -> btkh", 1, ["MatMul", "Reshape"]),
        ("bthk,hkd->btd", 1, ["Reshape", "MatMul"]),
        ("bthk,khd->btd", 1, ["Reshape", "MatMul"]),
        ("bthk,khde->btde", 1, ["Reshape", "MatMul", "Reshape"]),
        ("dk,btd->btk", 0, ["MatMul"]),
    ],
)
def test_it_is_a_product(tmp_path, equation, constant, operators):
    model = einsum(tmp_path / "model.onnx", equation, constant=constant)
    prepared = prepare(model_io.load(model))
    assert [node.op_type for node in prepared.model.graph] == operators
    letters = equation.replace(" ", "").partition("->")[0].split(",")[1 - constant]
    x = np.random.default_rng(1).standard_normal([SIZES[letter] for letter in letters]).astype(np.float32)
    result = qtool.quantize(model, tmp_path / "int8.onnx", form="dynamic")
    assert result.verification.integer_share == 1.0
    exact, found = (Session(path).run({"x": x})["y"] for path in (model, result.output))
    assert signal_to_noise(exact, found) > 30.0
    with_blocks = qtool.quantize(model, tmp_path / "int4.onnx", weights="int4")
    assert with_blocks.verification.kernels["MatMulNBits"] == 1


@pytest.mark.parametrize(
    ("equation", "constant"),
    [
        ("bthk,hkd->bthd", 1),
        ("btd,dk->tbk", 1),
        ("bdt,dk->btk", 1),
        ("btd,d->bt", 1),
        ("btd,bdk->btk", 1),
    ],
    ids=["a matrix a head", "turned", "summed in the middle", "a vector", "a matrix a sample"],
)
def test_it_declines(tmp_path, equation, constant):
    model = einsum(tmp_path / "model.onnx", equation, constant=constant)
    prepared = prepare(model_io.load(model))
    assert "einsum_products" not in prepared.changes
    assert [node.op_type for node in prepared.model.graph] == ["Einsum"]
