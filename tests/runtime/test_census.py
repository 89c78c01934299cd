"""The census finds a layer by its name, whatever a user called it and whatever onnxruntime appends to that."""

import time

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import qtool
from qtool.core.errors import DataError
from qtool.runtime.census import take_census
from qtool.runtime.session import Session
from tests.support.patterns import Net

# what onnxruntime appends to names itself, qtool's own mark, and both on top of each other and of the plain name
NAMES = [
    "conv", "conv_nchwc", "conv_token_0", "conv_token_1", "conv_token_1_token_2", "conv/duplicated",
    "conv/duplicated_token_3", "conv_quant", "conv_dequant", "conv|", "conv|3|", "|", "_nchwc", "_token_1", "",
]  # fmt: skip


def chain(names, *, last="fc"):
    """One convolution a name, then a Gemm, all of 4 channels. A name may be empty."""
    net = Net(3, 6, 6)
    value, channels = "x", 3
    for name in names:
        value, channels = net("Relu", net.conv(value, channels, 4)), 4
        net.nodes[-2].name = name
    pooled = net("Flatten", net("GlobalAveragePool", value))
    made = net.gemm(pooled, 4, 3)
    net.nodes[-1].name = last
    return net, made


def test_names_that_end_as_those_that_onnxruntime_makes(tmp_path):
    net, made = chain(NAMES, last="fc_token_0")
    source = net.save(tmp_path / "m.onnx", made)
    excluded = ["conv_nchwc", "conv_token_1", "conv|3|"]
    options = {"calibrator": "max", "bias_correction": "off", "smoothing": "off", "optimize_for": "size"}
    all_of_it = qtool.quantize(source, tmp_path / "q.onnx", data=net.samples(), target="x86", **options)
    part = qtool.quantize(source, tmp_path / "p.onnx", data=net.samples(), target="x86", exclude=excluded, **options)
    assert (all_of_it.verification.integer_layers, all_of_it.verification.layers) == (16, 16)
    assert set(part.verification.float_layers) == set(excluded)
    kernels = part.verification.kernels
    assert (kernels["QLinearConv"], kernels["Conv"], kernels["QGemm"]) == (12, 3, 1)


@pytest.mark.parametrize("last", ["fc_token_0", "fc_token_1_token_2", "fc/duplicated", "fc|"])
def test_dynamic_layers(last, tmp_path):
    net = Net(5)
    made = net("MatMul", net.gemm("x", 5, 8), net.weight(8, 3, inputs=8), name=last)
    net.nodes[0].name = "fc"
    proof = qtool.quantize(net.save(tmp_path / "m.onnx", made), tmp_path / "q.onnx", form="dynamic").verification
    assert (proof.integer_layers, proof.layers) == (2, 2)


@pytest.mark.parametrize(
    "name", ["/duplicated_token_1" * 40 + "!", "_nchwc" * 100_000 + "!", "/duplicated" * 50_000, "x" * 600_000]
)
def test_long_names_take_no_time(name, tmp_path):
    last = f"{name}fc"
    net, made = chain([name], last=last)
    source = net.save(tmp_path / "m.onnx", made)
    start = time.process_time()
    _, census = take_census(source.read_bytes())
    assert census.runs_as(last, ("Gemm",))
    # seconds at most on a busy machine; what it guards against takes minutes
    assert time.process_time() - start < 20


def test_a_long_name_in_a_message():
    name = "/a.cc" * 100_000
    node = helper.make_node("Reshape", ["x", "shape"], ["y"], name=name)
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "xy")
    shape = numpy_helper.from_array(np.array([7], np.int64), "shape")
    graph = helper.make_graph([node], "g", [x], [y], [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    start = time.process_time()
    with pytest.raises(DataError, match="cannot run it") as caught:
        Session(model.SerializeToString()).run({"x": np.zeros(3, np.float32)})
    assert len(str(caught.value)) < 600
    assert time.process_time() - start < 20
