"""Weights in blocks, of models of other kinds: which are in blocks, which by channel instead, and why."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qtool
from qtool.core.numerics.sqnr import signal_to_noise
from qtool.core.records.plan import load_plan
from qtool.runtime.session import Session

WIDTH, HIDDEN = 64, 48


def weight(name: str, *shape: int, seed: int = 0, kind: type = np.float32) -> onnx.TensorProto:
    rng = np.random.default_rng(seed)
    return numpy_helper.from_array((rng.standard_normal(shape) / np.sqrt(shape[-2])).astype(kind), name)


def saved(
    path: Path, nodes: list[onnx.NodeProto], initializers: list[onnx.TensorProto], kind: int = TensorProto.FLOAT
) -> Path:
    """With input x, [batch, 3, WIDTH], and output y."""
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", kind, ["batch", 3, WIDTH])],
        [helper.make_tensor_value_info("y", kind, None)],
        initializers,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def noise_db(exact: Path, other: Path) -> float:
    x = np.random.default_rng(1).standard_normal((4, 3, WIDTH))
    kind = np.float16 if onnx.load(exact).graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16 else "f4"
    return signal_to_noise(*(Session(path).run({"x": x.astype(kind)})["y"] for path in (exact, other)))


def loop_behind_a_product(path: Path) -> Path:
    """A product, and one in the body of a Loop that runs twice on what it makes."""
    none = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "inner"], ["moved"], name="inside"),
            helper.make_node("Tanh", ["moved"], ["next"], name="bend"),
            helper.make_node("Identity", ["go"], ["go_on"], name="same"),
        ],
        "body",
        [
            none("step", TensorProto.INT64, []),
            none("go", TensorProto.BOOL, []),
            none("state", TensorProto.FLOAT, ["batch", 3, HIDDEN]),
        ],
        [none("go_on", TensorProto.BOOL, []), none("next", TensorProto.FLOAT, ["batch", 3, HIDDEN])],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "outer"], ["first"], name="around"),
        helper.make_node("Loop", ["twice", "yes", "first"], ["y"], name="loop", body=body),
    ]
    more = [numpy_helper.from_array(np.array(2), "twice"), numpy_helper.from_array(np.array(True), "yes")]
    return saved(path, nodes, [weight("outer", WIDTH, HIDDEN), weight("inner", HIDDEN, HIDDEN, seed=1), *more])


@pytest.mark.parametrize("written", ["operators", pytest.param("qdq", marks=pytest.mark.long)])
def test_what_stands_in_a_body_is_stored_by_channel(tmp_path, written):
    model = loop_behind_a_product(tmp_path / "loop.onnx")
    saved_plan = tmp_path / "plan.json"
    form = {"weights": "int4"} if written == "operators" else {"weights": "int4", "weight_format": "qdq"}
    result = qtool.quantize(model, tmp_path / "int4.onnx", save_plan=saved_plan, **form)
    plan = load_plan(saved_plan)
    assert [row.tensor for row in plan.blocks] == ["outer"] and [row.tensor for row in plan.stored] == ["inner"]
    reason = "weight-only, 8 bits by channel: it is in a body of If, Loop or Scan"
    assert result.verification.float_layers == {"inside": reason}
    assert noise_db(model, result.output) > 15.0
    again = qtool.quantize(model, tmp_path / "again.onnx", plan=saved_plan)
    assert again.output.read_bytes() == result.output.read_bytes()


def two_products(path: Path, kind: type) -> Path:
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["first"], name="first"),
        helper.make_node("Tanh", ["first"], ["bent"], name="bend"),
        helper.make_node("MatMul", ["bent", "b"], ["y"], name="second"),
    ]
    initializers = [weight("a", WIDTH, HIDDEN, kind=kind), weight("b", HIDDEN, WIDTH, seed=1, kind=kind)]
    return saved(path, nodes, initializers, helper.np_dtype_to_tensor_dtype(np.dtype(kind)))


def test_float16_is_in_blocks_as_its_float32_twin_is(tmp_path):
    figures = {}
    for kind in (np.float16, np.float32):
        model = two_products(tmp_path / f"{kind.__name__}.onnx", kind)
        result = qtool.quantize(model, tmp_path / "int4.onnx", weights="int4")
        assert result.verification.kernels["MatMulNBits"] == 2 and not result.verification.float_layers
        assert not [i.name for i in onnx.load(result.output).graph.initializer if i.dims == [WIDTH, HIDDEN]]
        figures[kind] = noise_db(model, result.output)
    assert figures[np.float16] == pytest.approx(figures[np.float32], abs=0.5) and figures[np.float16] > 15.0
