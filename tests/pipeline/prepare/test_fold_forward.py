"""fold_forward: constants behind activations go into the layers that read, where these compute the same then."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from qtool.graph import model_io
from tests.support.patterns import Net
from tests.support.runs import operators, prepared, run, sqnr, steps_apart

Build = Callable[[Net], str | tuple[str, ...]]


def lab(net: Net, x: str, factor: object = 0.02, shift: object = -0.7) -> str:
    """The learned scale and shift of PP-LCNet."""
    return net("Add", net("Mul", net.const(factor), x), net.const(shift))


def act(net: Net, x: str = "x") -> str:
    return net("Elu", net.conv(x, 3, 8))


def plain(net: Net, x: str, after: int = 4, **attributes: object) -> str:
    """A convolution without padding."""
    group = int(str(attributes.get("group", 1)))
    weight = net.weight(after, 8 // group, 3, 3, inputs=72 // group)
    return net("Conv", x, weight, net.bias(after), **attributes)


def transposed(net: Net, x: str) -> str:
    return net("ConvTranspose", x, net.weight(8, 3, 2, 2, inputs=8), strides=[2, 2], output_shape=[16, 16])


def channels(low: float, high: float) -> np.ndarray:
    return np.linspace(low, high, 8).reshape(8, 1, 1)


def headed(net: Net, x: str) -> str:
    return net("Flatten", net("GlobalAveragePool", x))


def two_layers(net: Net) -> str:
    x = lab(net, act(net))
    return net("Concat", plain(net, x), net("Conv", x, net.weight(4, 8, 3, 3, inputs=72)), axis=1)


def shared_weight(net: Net) -> str:
    x, y, weight = lab(net, act(net)), net("Relu", net.conv("x", 3, 8)), net.weight(4, 8, 3, 3, inputs=72)
    return net("Concat", net("Conv", x, weight), net("Conv", y, weight), axis=1)


def same_weight(net: Net) -> str:
    x, weight = net("Mul", act(net), net.const(0.3)), net.weight(8, 8, 3, 3, inputs=72)
    return net("Concat", net("Conv", x, weight), net("Conv", x, weight, dilations=[2, 2], pads=[1] * 4), axis=1)


def standardised(net: Net) -> str:
    mean, spread = np.reshape([0.4, 0.5, 0.6], (3, 1, 1)), np.reshape([0.2, 0.25, 0.3], (3, 1, 1))
    return net("Div", net("Sub", "x", net.const(mean)), net.const(spread))


def gated(net: Net) -> str:
    x = net.conv("x", 3, 8)
    return net("Mul", x, net("Sigmoid", x))


def gelu(net: Net) -> str:
    x = net("Transpose", net.conv("x", 3, 8), perm=[0, 2, 3, 1])
    grown = net("Add", net("Erf", net("Div", x, net.const(1.41421356))), net.const(1.0))
    return net("MatMul", net("Mul", net("Mul", x, grown), net.const(0.5)), net.weight(8, 4, inputs=8))


FOLDED: dict[str, tuple[Build, dict[str, int]]] = {
    "scale and shift": (lambda n: plain(n, lab(n, act(n))), {"Conv": 2, "Elu": 1}),
    "a padded layer": (lambda n: n.conv(lab(n, act(n)), 8, 4), {"Conv": 2, "Elu": 1, "Add": 1}),
    "negative": (lambda n: plain(n, lab(n, act(n), -3.0, 0.1)), {"Conv": 2, "Elu": 1}),
    "Div, Sub": (
        lambda n: n.conv(n("Sub", n("Div", act(n), n.const(-0.4)), n.const([[2.0]])), 8, 4),
        {"Conv": 2, "Elu": 1, "Sub": 1},
    ),
    "a shift, then a scale": (
        lambda n: plain(n, n("Mul", n("Add", act(n), n.const(0.3)), n.const(2.0))), {"Conv": 2, "Elu": 1}
    ),
    "a number a channel": (
        lambda n: plain(n, lab(n, act(n), channels(1.0, 1.9), channels(-3, 3))), {"Conv": 2, "Elu": 1}
    ),
    "groups": (
        lambda n: plain(n, lab(n, act(n), channels(1.0, 1.9), channels(-3, 3)), 6, group=2), {"Conv": 2, "Elu": 1}
    ),
    "depthwise, valid": (lambda n: plain(n, lab(n, act(n)), 8, group=8, auto_pad="VALID"), {"Conv": 2, "Elu": 1}),
    "depthwise, same": (
        lambda n: plain(n, lab(n, act(n), channels(1.9, 1.0)), 8, group=8, auto_pad="SAME_UPPER"),
        {"Conv": 2, "Elu": 1, "Add": 1},
    ),
    "two layers": (two_layers, {"Conv": 3, "Elu": 1, "Concat": 1}),
    "two layers, one weight": (same_weight, {"Conv": 3, "Elu": 1, "Concat": 1}),
    "transposed": (lambda n: transposed(n, lab(n, act(n))), {"Conv": 1, "Elu": 1, "ConvTranspose": 1, "Add": 1}),
    "a Gemm": (
        lambda n: n.gemm(lab(n, headed(n, n("Relu", n.conv("x", 3, 8)))), 8, 4, trans=1, alpha=0.5),
        {"Conv": 1, "Relu": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1},
    ),
    "a picture": (lambda n: n.conv(standardised(n), 3, 4), {"Conv": 1, "Sub": 1}),
    "a gate": (lambda n: plain(n, lab(n, gated(n))), {"Conv": 2, "Sigmoid": 1, "Mul": 1}),
    "past a Relu": (
        lambda n: n("Tanh", n("Mul", n("Relu", n.conv("x", 3, 8)), n.const(channels(0.01, 9)))),
        {"Conv": 1, "Relu": 1, "Tanh": 1},
    ),
    "past a LeakyRelu": (
        lambda n: n("Tanh", n("Div", n("LeakyRelu", n.conv("x", 3, 8)), n.const(0.3))),
        {"Conv": 1, "LeakyRelu": 1, "Tanh": 1},
    ),
}  # fmt: skip
LEFT: dict[str, tuple[Build, str, int]] = {
    "read by something else": (lambda n: (plain(n, (y := lab(n, act(n)))), n("Tanh", y)), "Mul", 1),
    "an output": (lambda n: (plain(n, (y := lab(n, act(n)))), y), "Mul", 1),
    "the product is an output": (
        lambda n: (n.conv(n("Add", (y := n("Mul", act(n), n.const(0.1))), n.const(0.3)), 8, 4), y), "Mul", 1
    ),
    "a weight that others read": (shared_weight, "Mul", 1),
    "a number a place": (lambda n: plain(n, n("Mul", act(n), n.const(n.rng.uniform(1, 2, (8, 8))))), "Mul", 1),
    "a channel that is nothing": (lambda n: plain(n, n("Mul", act(n), n.const(channels(0, 1)))), "Mul", 1),
    "channels far apart": (lambda n: plain(n, n("Mul", act(n), n.const(channels(1, 9)))), "Mul", 1),
    "GELU": (gelu, "Gelu", 1),
    "negative, past a Relu": (lambda n: n("Tanh", n("Mul", n("Relu", n.conv("x", 3, 8)), n.const(-1.5))), "Mul", 1),
    "a shift past a Relu": (lambda n: n("Tanh", n("Add", n("Relu", n.conv("x", 3, 8)), n.const(1.5))), "Add", 1),
    "a Relu that is read twice": (
        lambda n: n("Add", (y := n("Relu", n.conv("x", 3, 8))), n("Tanh", n("Mul", y, n.const(3.0)))), "Mul", 1
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDED)
def test_constants_go_into_layers(name, tmp_path):
    build, expected = FOLDED[name]
    net = Net(opset=14)
    outputs = build(net)
    assert isinstance(outputs, str)
    result = prepared(net, outputs, tmp_path)
    assert operators(result) == expected
    if name == "depthwise, valid" and onnx.__version__ < "1.23":
        pytest.skip("ONNX's reference evaluator has computed auto_pad of groups since 1.23; onnxruntime agrees")
    fed = net.samples(2)
    wanted = ReferenceEvaluator(net.model(outputs)).run(None, fed)[0]
    found = ReferenceEvaluator(onnx.load_from_string(model_io.to_bytes(result.model))).run(None, fed)[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LEFT)
def test_constants_stay(name, tmp_path):
    build, operator, count = LEFT[name]
    net = Net(opset=14)
    result = prepared(net, build(net), tmp_path)
    assert operators(result)[operator] == count
    assert "fold_forward" not in result.changes


def test_one_weight_stays_one(tmp_path):
    net = Net(opset=14)
    result = prepared(net, same_weight(net), tmp_path)
    assert len({node.inputs[1] for node in result.model.graph if node.op_type == "Conv"}) == 2


def test_nothing_stands_between_integer_layers(tmp_path):
    net = Net(opset=14)
    x = net("Relu", plain(net, lab(net, net("Relu", net.conv("x", 3, 8))), 8))
    made = run(net, (plain(net, lab(net, x, 0.5, 0.25)),), tmp_path)
    assert {op: n for op, n in made.kernels.items() if op != "Transpose"} == {
        "QLinearConv": 3, "QuantizeLinear": 1, "DequantizeLinear": 1,
    }  # fmt: skip
    assert steps_apart(made) < 1.5
    assert sqnr(made) > 20
