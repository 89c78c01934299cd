"""A product with a stack of matrices is one with each: experts, and heads with a matrix of their own."""

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

EXPERTS, WIDTH, HIDDEN = 3, 128, 160


def mixture(path: Path, *, hidden: int = HIDDEN, spread: bool = True) -> Path:
    """x [batch, experts or 1, 5, WIDTH] through two stacks of matrices, with a Relu between; the sum over experts."""
    rng = np.random.default_rng(0)
    stacks = {"up": (EXPERTS, WIDTH, hidden), "down": (EXPERTS, hidden, WIDTH)}
    constants = {
        name: (rng.standard_normal(shape) / np.sqrt(shape[1])).astype(np.float32) for name, shape in stacks.items()
    }
    nodes = [
        helper.make_node("MatMul", ["x", "up"], ["wide"], name="up"),
        helper.make_node("Relu", ["wide"], ["active"], name="relu"),
        helper.make_node("MatMul", ["active", "down"], ["each"], name="down"),
        helper.make_node("ReduceSum", ["each", "axis"], ["y"], name="sum", keepdims=0),
    ]
    fed = ["batch", 1 if spread else EXPERTS, 5, WIDTH]
    graph = helper.make_graph(
        nodes,
        "mixture",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, fed)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in {**constants, "axis": np.array([1])}.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def fed(spread: bool = True) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((2, 1 if spread else EXPERTS, 5, WIDTH)).astype(np.float32)}


@pytest.mark.parametrize("spread", [True, False])
def test_every_form_reaches_the_matrices(tmp_path, spread):
    model = mixture(tmp_path / "model.onnx", spread=spread)
    exact = Session(model).run(fed(spread))["y"]
    numbers = EXPERTS * 2 * WIDTH * HIDDEN
    for name, form, share in (("int4", {"weights": "int4"}, 0.66), ("dynamic", {"form": "dynamic"}, 1.08)):
        result = qtool.quantize(model, tmp_path / f"{name}.onnx", **form)
        proof = result.verification
        assert proof.integer_layers == proof.layers == 2 * EXPERTS and proof.integer_share == 1.0
        assert result.size < share * numbers + 6000
        assert signal_to_noise(exact, Session(result.output).run(fed(spread))["y"]) > (14.0 if name == "int4" else 30.0)


def test_it_is_excluded_by_its_own_name(tmp_path):
    model = mixture(tmp_path / "model.onnx")
    result = qtool.quantize(model, tmp_path / "dynamic.onnx", form="dynamic", exclude=["up"])
    assert result.verification.integer_layers == EXPERTS
    assert set(result.verification.float_layers) == {f"up_of_{i}" for i in range(EXPERTS)}


def test_it_declines_small_matrices_and_an_axis_of_unknown_size(tmp_path):
    small = prepare(model_io.load(mixture(tmp_path / "small.onnx", hidden=120)))
    assert "stacked_products" not in small.changes
    assert [node.op_type for node in small.model.graph] == ["MatMul", "Relu", "MatMul", "ReduceSum"]
    model = onnx.load(mixture(tmp_path / "model.onnx"))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "experts"
    onnx.save(model, tmp_path / "free.onnx")
    free = prepare(model_io.load(tmp_path / "free.onnx"))
    # what the first one makes has as many as there are matrices
    assert free.changes["stacked_products"] == 1 and "up" in {node.name for node in free.model.graph}
