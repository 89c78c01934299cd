"""The page of a model of the size of ResNet-50: random weights, its own layers."""

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.report.html.conftest import run
from tests.report.html.test_page import Read

pytestmark = pytest.mark.slow
STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))


class Builder:
    """The layers of ResNet-50 (He et al. 2015, table 1), batch norms folded."""

    def __init__(self):
        self.rng, self.nodes, self.weights = np.random.default_rng(0), [], []

    def add(self, op, *inputs, **attributes):
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def conv(self, x, before, after, kernel, stride=1, *, relu=True):
        scale = np.sqrt(2 / (before * kernel**2))
        weight = (self.rng.standard_normal((after, before, kernel, kernel)) * scale).astype(np.float32)
        names = [f"w{len(self.weights)}", f"b{len(self.weights)}"]
        self.weights += [numpy_helper.from_array(weight, names[0])]
        self.weights += [numpy_helper.from_array(np.zeros(after, np.float32), names[1])]
        y = self.add("Conv", x, *names, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4)
        return self.add("Relu", y) if relu else y

    def blocks(self) -> Iterator[tuple[int, int, int]]:
        for count, wide in STAGES:
            yield from ((wide, number, 2 if number == 0 and wide > 64 else 1) for number in range(count))


def resnet(path):
    net = Builder()
    x, before = net.add("MaxPool", net.conv("x", 3, 64, 7, 2), kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), 64
    for wide, number, stride in net.blocks():
        y = net.conv(net.conv(x, before, wide, 1), wide, wide, 3, stride)
        y = net.conv(y, wide, 4 * wide, 1, relu=False)
        short = net.conv(x, before, 4 * wide, 1, stride, relu=False) if number == 0 else x
        x, before = net.add("Relu", net.add("Add", y, short)), 4 * wide
    flat = net.add("Flatten", net.add("GlobalAveragePool", x))
    net.weights.append(numpy_helper.from_array(net.rng.standard_normal((2048, 1000)).astype(np.float32), "fc"))
    y = net.add("MatMul", flat, "fc")
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 3, 64, 64]), (y, [1, 1000]))
    ]
    graph = helper.make_graph(net.nodes, "resnet50", values[:1], values[1:], net.weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_a_page_of_resnet_50_is_small_and_whole(tmp_path):
    pytest.importorskip("jinja2")
    resnet(tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(1).standard_normal((4, 3, 64, 64)).astype(np.float32))
    model, calibration, page = (str(tmp_path / name) for name in ("m.onnx", "m.calib", "p.html"))
    run("calibrate", model, "--data", str(tmp_path / "d.npz"), "-o", calibration)
    words = ("--calibration", calibration, "--calibrator", "max", "--bias-correction", "off")
    run("quantize", model, *words, "-o", str(tmp_path / "q.onnx"), "--html", page)
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert len(text) < 5 * 2**20
    shown = Read(text)
    assert len(shown.table("Layers, in the order of the network")) == 1 + 54
    assert len([one for one in shown.all("svg") if one.get("aria-label", "").startswith("Histogram of ")]) > 60
