"""Nodes that hand on what they read go, and nothing else does."""

import numpy as np
import pytest
from onnx import TensorProto

from tests.support.patterns import Net
from tests.support.runs import Build, operators, prepared


def ints(net: Net, *values: int) -> str:
    return net.const(values, dtype=np.int64)


def both(first: Build, second: Build) -> Build:
    """The second node over the first, each given as a function of the net and a value."""
    return lambda n: second(n, first(n))


# of x [N, 3, 8, 8]
GOES: dict[str, Build] = {
    "cast": lambda n: n("Cast", "x", to=TensorProto.FLOAT),
    "cast like": lambda n: n("CastLike", "x", n.const([1.0])),
    "two casts": lambda n: n("Cast", n("Cast", "x", to=TensorProto.FLOAT), to=TensorProto.FLOAT),
    "dropout": lambda n: n("Dropout", "x"),
    "reshape, all said": lambda n: n("Reshape", "x", ints(n, -1, 3, 8, 8)),
    "reshape, copied": lambda n: n("Reshape", "x", ints(n, 0, 0, 0, -1)),
    "reshape there and back": lambda n: n("Reshape", n("Reshape", "x", ints(n, -1, 192)), ints(n, -1, 3, 8, 8)),
    "squeezed and back": lambda n: n("Squeeze", n("Unsqueeze", "x", ints(n, 2)), ints(n, 2)),
    "transpose": lambda n: n("Transpose", "x", perm=[0, 1, 2, 3]),
    "transpose there and back": lambda n: n("Transpose", n("Transpose", "x", perm=[0, 2, 3, 1]), perm=[0, 3, 1, 2]),
    "reversed twice": lambda n: n("Transpose", n("Transpose", "x")),
    "pad": lambda n: n("Pad", "x", ints(n, *[0] * 8)),
    "slice": lambda n: n("Slice", "x", ints(n, 0), ints(n, 2**63 - 1), ints(n, 2)),
    "slice of the known size": lambda n: n("Slice", "x", ints(n, 0, 0), ints(n, 3, 9), ints(n, 1, -1), ints(n, 1, 1)),
    "concat": lambda n: n("Concat", "x", axis=1),
    "sum": lambda n: n("Sum", "x"),
    "max": lambda n: n("Max", "x"),
    "min": lambda n: n("Min", "x"),
    "mean": lambda n: n("Mean", "x"),
    "x * 1": lambda n: n("Mul", "x", n.const(1.0)),
    "1 * x": lambda n: n("Mul", n.const(np.ones((3, 1, 8))), "x"),
    "x / 1": lambda n: n("Div", "x", n.const([1.0])),
    "x + 0": lambda n: n("Add", "x", n.const(np.zeros((1, 3, 1, 1)))),
    "0 + x": lambda n: n("Add", n.const(0.0), "x"),
    "x - 0": lambda n: n("Sub", "x", n.const(0.0)),
    "x ** 1": lambda n: n("Pow", "x", n.const(1.0)),
    "expand": lambda n: n("Expand", "x", ints(n, 3, 1, 8)),
    "tile": lambda n: n("Tile", "x", ints(n, 1, 1, 1, 1)),
    "clip": lambda n: n("Clip", "x"),
}
STAYS: dict[str, Build] = {
    "cast": lambda n: n("Cast", n("Cast", "x", to=TensorProto.DOUBLE), to=TensorProto.FLOAT),
    "reshape": lambda n: n("Reshape", "x", ints(n, -1, 8, 3, 8)),
    "reshape of another free dimension": lambda n: n("Reshape", "x", ints(n, 3, -1, 8, 8)),
    "two reshapes": lambda n: n("Reshape", n("Reshape", "x", ints(n, -1, 192)), ints(n, -1, 8, 3, 8)),
    "transpose": lambda n: n("Transpose", "x", perm=[0, 1, 3, 2]),
    "two transposes": lambda n: n("Transpose", n("Transpose", "x", perm=[0, 2, 3, 1]), perm=[0, 2, 3, 1]),
    "pad": lambda n: n("Pad", "x", ints(n, 0, 0, 0, 0, 0, 0, 0, 1)),
    "slice": lambda n: n("Slice", "x", ints(n, 1), ints(n, 99), ints(n, 2)),
    "slice by steps": lambda n: n("Slice", "x", ints(n, 0), ints(n, 99), ints(n, 2), ints(n, 2)),
    "slice with an end": lambda n: n("Slice", "x", ints(n, 0), ints(n, 2), ints(n, 1)),
    "x * 1, more dimensions": lambda n: n("Mul", "x", n.const(np.ones((1, 1, 1, 1, 1)))),
    "x + 0, which grows": lambda n: n("Add", n("GlobalAveragePool", "x"), n.const(np.zeros((1, 3, 2, 2)))),
    "0 - x": lambda n: n("Sub", n.const(0.0), "x"),
    "1 / x": lambda n: n("Div", n.const(1.0), n("Exp", "x")),
    "expand": lambda n: n("Expand", "x", ints(n, 2, 1, 1, 1, 1)),
    "tile": lambda n: n("Tile", "x", ints(n, 1, 1, 1, 2)),
    "clip": lambda n: n("Clip", "x", n.const(0.0)),
}


@pytest.mark.parametrize("name", GOES)
def test_what_does_nothing_goes(name, tmp_path):
    net = Net(opset=18)
    result = prepared(net, net("Relu", GOES[name](net)), tmp_path)
    assert operators(result) == {"Relu": 1} and result.changes["no_ops"] >= 1


@pytest.mark.parametrize("name", STAYS)
def test_what_does_something_stays(name, tmp_path):
    net = Net(opset=18)
    made = net("Softplus", STAYS[name](net))
    result = prepared(net, made, tmp_path)
    assert sum(operators(result).values()) == len(net.nodes) and "no_ops" not in result.changes


def test_an_output_keeps_its_name(tmp_path):
    net = Net()
    made = net("Cast", net.conv("x", 3, 8), to=TensorProto.FLOAT, name="scores")
    result = prepared(net, made, tmp_path)
    assert operators(result) == {"Conv": 1} and result.model.graph.outputs[0].name == "scores_out"
