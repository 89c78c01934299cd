"""prepare: what becomes Gemm, the best form of a classifier's last layer, and what must not."""

import numpy as np
import pytest

from tests.support.patterns import Net
from tests.support.runs import Build, operators, prepared


def ints(net: Net, *values: int) -> str:
    return net.const(values, dtype=np.int64)


def product(net: Net) -> str:
    return net("MatMul", "x", net.weight(12, 8, inputs=12))


GEMM, APART, BOTH = {"Gemm"}, {"Add"}, {"Gemm", "Add"}
MATMULS: dict[str, tuple[Build, tuple[int, ...], set[str]]] = {
    "vector": (lambda n: n("Add", product(n), n.bias(8)), (12,), GEMM),
    "row": (lambda n: n("Add", product(n), n.const(n.rng.normal(size=(1, 8)))), (12,), GEMM),
    "on the left": (lambda n: n("Add", n.bias(8), product(n)), (12,), GEMM),
    "rank 3": (lambda n: n("Add", product(n), n.bias(8)), (5, 12), APART),
    "scalar": (lambda n: n("Add", product(n), n.const(0.5)), (12,), GEMM),
    "one each sample": (lambda n: n("Add", product(n), n.const(n.rng.normal(size=(3, 1)))), (12,), BOTH),
    "more dimensions": (lambda n: n("Add", product(n), n.const(n.rng.normal(size=(1, 1, 8)))), (12,), APART),
    "computed": (lambda n: n("Add", product(n), n("Relu", product(n))), (12,), BOTH),
    "read elsewhere": (lambda n: [p := product(n), (n("Add", p, n.bias(8)), n("Relu", p))][1], (12,), APART),
}  # fmt: skip


@pytest.mark.parametrize("name", MATMULS)
def test_matmul_and_add(name, tmp_path):
    build, shape, left = MATMULS[name]
    net = Net(*shape, batch=3)
    found = operators(prepared(net, build(net), tmp_path))
    assert {"Gemm", "Add"} & found.keys() == left


def pointwise(
    net: Net, after: str, *, size: int = 1, kernel: int = 1, group: int = 1, pads: int = 0, bias: bool = True
) -> str:
    """A pool to 1x1 (or larger) maps, a convolution with 6 channels, and what makes a matrix of it."""
    x = (
        net("GlobalAveragePool", net.conv("x", 3, 8))
        if size == 1
        else net("MaxPool", "x", kernel_shape=[4, 4], strides=[4, 4])
    )
    before = 8 if size == 1 else 3
    weight = net.weight(6, before // group, kernel, kernel, inputs=before)
    made = net("Conv", x, weight, *([net.bias(6)] if bias else []), group=group, pads=[pads] * 4)
    if after == "flatten":
        return net("Flatten", made)
    if after == "squeeze":
        return net("Squeeze", made, ints(net, -1, 2))
    return net("Reshape", made, ints(net, *map(int, after.split())))


@pytest.mark.parametrize("after", ["flatten", "squeeze", "0 -1", "-1 6", "0 6"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_pointwise_head_becomes_gemm(after, bias, tmp_path):
    net = Net()
    found = operators(prepared(net, pointwise(net, after, bias=bias), tmp_path))
    assert found == {"Conv": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}


@pytest.mark.parametrize(
    ("after", "options"),
    [
        ("flatten", {"size": 2}),
        ("flatten", {"kernel": 3, "pads": 1}),
        ("flatten", {"group": 2}),
        ("flatten", {"pads": 1}),
        ("-1 6 1", {}),
        ("-1 2", {}),
    ],
)
def test_other_heads_stay_convolutions(after, options, tmp_path):
    net = Net()
    assert "Gemm" not in operators(prepared(net, pointwise(net, after, **options), tmp_path))
