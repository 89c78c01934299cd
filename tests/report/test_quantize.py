"""What `quantize` prints of its proof."""

import qtool
from qtool.report.quantize import quantized_text
from tests.support.patterns import Net


def test_the_line_of_integers_names_their_kernels_alone(tmp_path):
    net = Net()
    hidden = net.conv(net("Relu", net.conv("x", net.shape[0], 8)), 8, 8)
    y = net.gemm(net("Flatten", net("GlobalAveragePool", hidden)), 8, 5)
    result = qtool.quantize(net.save(tmp_path / "m.onnx", y), tmp_path / "q.onnx", data=[net.samples(4)])
    (line,) = [line for line in quantized_text(result).splitlines() if line.startswith("  integer")]
    assert line.endswith("in integer kernels: 1 QGemm, 2 QLinearConv, 1 QLinearGlobalAveragePool")
    proof = result.to_dict()["verification"]
    assert proof["kernels"].keys() > {"QGemm", "QLinearConv", "QuantizeLinear"} and "integer_kernels" not in proof
