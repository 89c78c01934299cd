"""Old models: opsets 7 to 12 are raised to 13, and compute the same there."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from qtool.core.errors import ModelError
from qtool.graph import model_io
from qtool.graph.edit import Model
from qtool.pipeline.prepare import prepare
from qtool.runtime.session import Session
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
    "hardmax 7": (lambda n: n.conv(n("Hardmax", n.conv("x", 3, 8)), 8, 4), 7),
    "hardmax 9, axis 2": (lambda n: n.conv(n("Hardmax", n.conv("x", 3, 8), axis=2), 8, 4), 9),
    "hardmax 11, axis -2": (lambda n: n.conv(n("Hardmax", n.conv("x", 3, 8), axis=-2), 8, 4), 11),
    "log softmax 11, axis 0": (lambda n: n.conv(n("LogSoftmax", n.conv("x", 3, 8), axis=0), 8, 4), 11),
    "mask of dropout 10": (
        lambda n: n("Where", n("Dropout", "x", outputs=2)[1], n.const(2.0), n.conv("x", 3, 3)), 10
    ),
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
    [
        ("Upsample", 9, [1, 1, 2, 2]),
        ("Upsample", 9, [1, 1, 1.3, 1.7]),
        *[("Resize", 10, [1, 1, *scales]) for scales in ((2, 2), (0.5, 0.5), (0.7, 0.7), (1.3, 0.6), (1.3, 1.7))],
    ],
)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_old_resizing_computes_the_same(mode, op, opset, scales, tmp_path):
    """Before opset 11 a Resize counted its samples from the corner (asymmetric); since then from the middle."""
    net = Net(opset=opset)
    made = net(op, net.conv("x", 3, 8), net.const(scales), mode=mode)
    prepared(net, net.conv(made, 8, 4), tmp_path)


def test_a_resize_by_computed_scales_computes_the_same(tmp_path):
    """One axis grows and one shrinks; which one, no constant says."""
    net = Net(opset=10)
    size = net("Cast", net("Shape", "x"), to=TensorProto.FLOAT)
    scales = net("Div", net.const([1, 3, 5, 13]), net("Max", size, net.const([1, 1, 1, 1])))
    scales = net(
        "Concat", net.const([1, 1]), net("Slice", scales, *(net.const([n], dtype=np.int64) for n in (2, 4))), axis=0
    )
    prepared(net, net("Resize", net.conv("x", 3, 3), scales), tmp_path)


def raised(tmp_path: Path, opset: int, *nodes: onnx.NodeProto) -> tuple[Path, Model]:
    """A model of x [2, 3, 4, 4] that ends with y, of which nothing but the type is said, and what is prepared of it."""
    fed = onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4, 4])
    made = onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(nodes, "g", [fed], [made])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=4)
    onnx.save(model, tmp_path / "m.onnx")
    return tmp_path / "m.onnx", prepare(model_io.load(tmp_path / "m.onnx")).model


EXPERIMENTAL = {
    "Affine": {"alpha": 2.0, "beta": 0.5},
    "ImageScaler": {"scale": 2.0, "bias": [1.0, -2.0, 3.0]},
    "ParametricSoftplus": {"alpha": 2.0, "beta": 0.5},
    "ScaledTanh": {"alpha": 2.0, "beta": 0.5},
}


@pytest.mark.parametrize("op", EXPERIMENTAL)
def test_experimental_operators_that_onnxruntime_runs(op, tmp_path):
    source, model = raised(tmp_path, 8, onnx.helper.make_node(op, ["x"], ["y"], **EXPERIMENTAL[op]))
    fed = {"x": np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)}
    wanted, got = (Session(given).run(fed)["y"] for given in (source, model_io.to_bytes(model)))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_an_operator_that_later_opsets_lack_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"'crop' is a Crop of opset 8.*export the model with opset 13 or later"):
        raised(tmp_path, 8, onnx.helper.make_node("Crop", ["x"], ["y"], name="crop", border=[1, 1, 1, 1]))


def test_newer_opsets_stay_what_they_are(tmp_path):
    for opset in (13, 17, 21):
        net = Net(opset=opset)
        result = prepared(net, net("Relu", net.conv("x", 3, 8)), tmp_path)
        assert result.model.opset_imports[""] == opset and "opset" not in result.changes
