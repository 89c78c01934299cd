"""Constants of one element, or of more dimensions than what they meet, leave every pass with the same output shape."""

import math

import numpy as np
import pytest

import qtool
from qtool.graph import model_io
from qtool.pipeline.prepare import prepare
from tests.support.patterns import Net
from tests.support.runs import Build, operators, prepared

CONSTANTS = {"[]": (), "[1]": (1,), "[1, 1, 1]": (1, 1, 1), "[1] * 5": (1,) * 5}


def hard_swish(where: str) -> dict[str, Build]:
    """x * clip(x + 3, 0, 6) / 6 with one constant of that shape."""

    def build(shape: tuple[int, ...]) -> Build:
        def made(net: Net) -> str:
            def number(value: float, place: str) -> str:
                return net.const(np.full(shape if place == where else (), value))

            x = net("Sigmoid", "x")
            gate = net("Clip", net("Add", x, number(3.0, "add")), net.const(0.0), net.const(6.0))
            if where == "mul":
                return net("Mul", net("Mul", gate, number(1 / 6, "mul")), x)
            return net("Div", net("Mul", x, gate), number(6.0, "div"))

        return made

    return {f"hard swish, {where} {name}": build(shape) for name, shape in CONSTANTS.items()}


def layer(kind: str, op: str, shape: tuple[int, ...]) -> Build:
    def made(net: Net) -> str:
        if kind == "conv":
            h = net.conv("x", net.shape[0], 1)
        elif kind == "gemm":
            h = net.gemm(net("Flatten", "x"), int(np.prod(net.shape)), 1)
        else:
            h = net("MatMul", net("Flatten", "x"), net.weight(int(np.prod(net.shape)), 5, inputs=16))
        return net(op, h, net.const(np.full(shape, 0.5)))

    return made


LAYERS = {
    f"{kind}, {op.lower()} {name}": layer(kind, op, shape)
    for kind in ("conv", "gemm", "matmul")
    for op in ("Mul", "Add")
    for name, shape in CONSTANTS.items()
}
SWISHES = hard_swish("add") | hard_swish("mul") | hard_swish("div")


@pytest.mark.parametrize("name", SWISHES | LAYERS)
def test_shapes_are_kept(name, tmp_path):
    """`prepared` compares shapes and values."""
    net = Net(2, 4, 4)
    prepared(net, net("Softplus", (SWISHES | LAYERS)[name](net)), tmp_path)


@pytest.mark.parametrize(("constant", "rewritten"), [((), True), ((1, 1), True), ((1, 1, 1), False)])
def test_hard_swish_is_found_where_the_rank_stays(constant, rewritten, tmp_path):
    net = Net(8)
    gate = net("Clip", net("Add", "x", net.const(np.full(constant, 3.0))), net.const(0.0), net.const(6.0))
    result = prepared(net, net("Div", net("Mul", "x", gate), net.const(6.0)), tmp_path)
    assert ("HardSigmoid" in operators(result)) == rewritten


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("negative variance", None),
        ("no variance", "where depends on how onnxruntime optimises it"),
        ("factors that only together fit", "but only as onnxruntime optimises it"),
    ],
)
def test_what_would_not_be_finite_is_not_folded(kind, message, tmp_path, recwarn):
    net = Net(3, 8, 8)
    if kind == "factors that only together fit":
        weight = net.const(net.rng.normal(size=(4, 3, 3, 3)) * 1e20)
        made = net("Mul", net("Conv", net("Mul", "x", net.const(1e-30)), weight), net.const(np.full((4, 1, 1), 1e20)))
    else:
        spread = net.const(np.full(4, -1.0 if kind == "negative variance" else 0.0))
        parameters = (net.bias(4), net.bias(4), net.bias(4), spread)
        made = net("BatchNormalization", net.conv("x", 3, 4), *parameters, epsilon=0.0)
    source = net.save(tmp_path / "m.onnx", made)
    assert "fold_affine" not in prepare(model_io.load(source)).changes
    if message is None:
        proof = qtool.quantize(
            source, tmp_path / "q.onnx", data=net.samples(), calibrator="max", form="static"
        ).verification
        assert proof.sqnr_db_by_output == {made: None} and math.isnan(proof.output_sqnr_db)
    else:
        with pytest.raises(qtool.QtoolError, match=message):
            qtool.quantize(source, tmp_path / "q.onnx", data=net.samples(), calibrator="max", form="static")
    assert not recwarn.list
