"""Where weights get their scales from."""

from tests.support.patterns import Net
from tests.support.runs import run, sqnr


def test_a_grouped_transposed_convolution_has_one_scale(tmp_path):
    net = Net(4, 5, 5)
    up = net("ConvTranspose", "x", net.weight(4, 3, 2, 2, inputs=2), net.bias(6), group=2, strides=[2, 2])
    done = run(net, (net.conv(up, 6, 4),), tmp_path, "tensorrt")
    assert sorted(len(weight.params.scale) for weight in done.result.plan.weights) == [1, 4]
    assert sqnr(done) > 30.0
