"""What `quantize` prints of its proof."""

from dataclasses import replace

import pytest

import qtool
from qtool.report.quantize import quantized_text
from tests.support.patterns import Net
from tests.support.refusals import network


def test_the_line_of_integers_names_their_kernels_alone(tmp_path):
    net = Net()
    hidden = net.conv(net("Relu", net.conv("x", net.shape[0], 8)), 8, 8)
    y = net.gemm(net("Flatten", net("GlobalAveragePool", hidden)), 8, 5)
    result = qtool.quantize(net.save(tmp_path / "m.onnx", y), tmp_path / "q.onnx", data=[net.samples(4)])
    (line,) = [line for line in quantized_text(result).splitlines() if line.startswith("  integer")]
    assert line.endswith("in integer kernels: 1 QGemm, 2 QLinearConv, 1 QLinearGlobalAveragePool")
    proof = result.to_dict()["verification"]
    assert proof["kernels"].keys() > {"QGemm", "QLinearConv", "QuantizeLinear"} and "integer_kernels" not in proof


@pytest.mark.parametrize(
    ("was", "now", "changes", "words"),
    [
        (3000, 1000, {}, "(3.0x smaller)"),
        (1000, 980, {}, "(about as large)"),
        (1000, 1040, {}, "(about as large)"),
        (1000, 2000, {}, "(2.0x larger: scales and Q/DQ nodes take more than its few weights give back)"),
        (1000, 2000, {"computed from less": 1}, "(2.0x larger: what it computes from less is stored where it is quant"),
        (1000, 1900, {"widened": 3}, "(1.9x larger: what was float16 and stays float is float32)"),
    ],
)
def test_the_size_is_said_as_it_is(tmp_path, was, now, changes, words):
    made = qtool.quantize(network(tmp_path / "m.onnx"), tmp_path / "q.onnx", form="weight-only")
    result = replace(made, float_size=was, size=now, changes=changes)
    assert words in quantized_text(result).splitlines()[0]


def test_weights_alone_have_no_kernels_to_name(tmp_path):
    model = network(tmp_path / "m.onnx")
    result = qtool.quantize(model, tmp_path / "q.onnx", form="weight-only")
    assert ", run in integer kernels: none\n" in quantized_text(result)
