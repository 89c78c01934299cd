"""ResNet-50 with random weights: the shape of the real one, since time and memory do not depend on the numbers.

Source: He et al. 2015, "Deep Residual Learning for Image Recognition", table 1; the stride is on the 3x3 convolution,
as in torchvision. Batch normalisations are folded, as exporters do.
"""

from pathlib import Path

import numpy as np

from tests.support.patterns import Net

BLOCKS = (3, 4, 6, 3)


def resnet50(path: Path) -> Path:
    """Write the model: `x` [N, 3, 224, 224] -> scores [N, 1000]; activations stay near unit variance."""
    net = Net(3, 224, 224)
    y = net("Relu", _conv(net, "x", 3, 64, 7, 2))
    y = net("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    before = 64
    for stage, blocks in enumerate(BLOCKS):
        width = 64 << stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            y = _bottleneck(net, y, before, width, stride)
            before = 4 * width
    pooled = net("Flatten", net("GlobalAveragePool", y))
    return net.save(path, net.gemm(pooled, before, 1000))


def _bottleneck(net: Net, x: str, before: int, width: int, stride: int) -> str:
    y = net("Relu", _conv(net, x, before, width, 1, 1))
    y = net("Relu", _conv(net, y, width, width, 3, stride))
    # halved, so that the sum over a residual does not grow
    y = _conv(net, y, width, 4 * width, 1, 1, gain=0.5)
    beside = x if before == 4 * width and stride == 1 else _conv(net, x, before, 4 * width, 1, stride)
    return net("Relu", net("Add", y, beside))


def _conv(net: Net, x: str, before: int, after: int, kernel: int, stride: int, gain: float = 1.0) -> str:
    """He et al. 2015, "Delving Deep into Rectifiers": variance 2 / inputs keeps the variance behind a Relu."""
    inputs = before * kernel**2
    weight = net.const(net.rng.normal(size=(after, before, kernel, kernel)) * gain * np.sqrt(2.0 / inputs))
    pads = [kernel // 2] * 4
    return net("Conv", x, weight, net.bias(after), kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)
