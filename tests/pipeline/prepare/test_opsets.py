"""Old models: opsets 7 to 12 are raised to 13, and compute the same there."""

import pytest

from tests.support.patterns import Net
from tests.support.runs import Build, prepared


def batch_norm(net: Net, x: str, channels: int) -> str:
    spread = net.const(net.rng.uniform(0.5, 2.0, channels))
    return net("BatchNormalization", x, net.bias(channels), net.bias(channels), net.bias(channels), spread)


PADS = (0, 0, 1, 2, 0, 0, 3, 0)
OLD: dict[str, tuple[Build, int]] = {
    "batch norm 7": (lambda n: n("Relu", batch_norm(n, n.conv("x", 3, 8), 8)), 7),
    "batch norm 9": (lambda n: n("Relu", batch_norm(n, n.conv("x", 3, 8), 8)), 9),
    "dropout 7": (lambda n: n("Relu", n("Dropout", n.conv("x", 3, 8), ratio=0.3)), 7),
    "upsample 7": (lambda n: n.conv(n("Upsample", n.conv("x", 3, 8), scales=[1.0, 1.0, 2.0, 2.0]), 8, 4), 7),
    "upsample 9": (lambda n: n.conv(n("Upsample", n.conv("x", 3, 8), n.const([1, 1, 3, 2])), 8, 4), 9),
    "pad 7": (lambda n: n.conv(n("Pad", "x", pads=PADS), 3, 4), 7),
    "reflecting pad 9": (lambda n: n.conv(n("Pad", "x", pads=PADS, mode="reflect"), 3, 4), 9),
    "clip 7": (lambda n: n.conv(n("Clip", n.conv("x", 3, 8), min=0.0, max=1.0), 8, 4), 7),
    "clip 9, maximum alone": (lambda n: n.conv(n("Clip", n.conv("x", 3, 8), max=0.5), 8, 4), 9),
    "slice 7": (lambda n: n.conv(n("Slice", "x", starts=[1, -6], ends=[6, 7], axes=[2, 3]), 3, 4), 7),
    "split 11": (lambda n: tuple(n("Split", n.conv("x", 3, 8), outputs=2, axis=1, split=[3, 5])), 11),
    "squeeze 11": (lambda n: n.gemm(n("Squeeze", n("GlobalAveragePool", n.conv("x", 3, 8)), axes=[2, 3]), 8, 4), 11),
    "unsqueeze 11": (lambda n: n("Unsqueeze", n.conv("x", 3, 8), axes=[0, 3]), 11),
    "softmax 9": (lambda n: n("Softmax", n.conv("x", 3, 8)), 9),
    "mean 11": (lambda n: n.gemm(n("ReduceMean", n.conv("x", 3, 8), axes=[2, 3], keepdims=0), 8, 4), 11),
    "gemm 7": (lambda n: n.gemm(n("Flatten", "x"), 192, 8, trans=1), 7),
    "max pool 7": (lambda n: n.conv(n("MaxPool", n.conv("x", 3, 8), kernel_shape=[3, 3], strides=[2, 2]), 8, 4), 7),
    "nearest resize 10": (lambda n: n("Resize", n.conv("x", 3, 8), n.const([1, 1, 2, 2])), 10),
}  # fmt: skip


@pytest.mark.parametrize("name", OLD)
def test_old_opsets_compute_the_same(name, tmp_path):
    build, opset = OLD[name]
    net = Net(opset=opset, ir_version=3 if opset == 7 else 6)
    result = prepared(net, build(net), tmp_path)
    assert result.changes["opset"] == 13 == result.model.opset_imports[""]
    assert result.changes.get("inputs made constant", 0) == (len(net.constants) if opset == 7 else 0)
    assert [v.name for v in result.model.graph.inputs] == ["x"]


@pytest.mark.parametrize(
    ("op", "opset", "scales"),
    [("Upsample", 9, [1, 1, 2, 2]), ("Resize", 10, [1, 1, 2, 2]), ("Resize", 10, [1, 1, 0.5, 0.5])],
)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_old_resizing_computes_the_same(mode, op, opset, scales, tmp_path):
    """Before opset 11 a Resize counted its samples from the corner (asymmetric); since then from the middle."""
    net = Net(opset=opset)
    made = net(op, net.conv("x", 3, 8), net.const(scales), mode=mode)
    prepared(net, net.conv(made, 8, 4), tmp_path)


def test_newer_opsets_stay_what_they_are(tmp_path):
    for opset in (13, 17, 21):
        net = Net(opset=opset)
        result = prepared(net, net("Relu", net.conv("x", 3, 8)), tmp_path)
        assert result.model.opset_imports[""] == opset and "opset" not in result.changes
