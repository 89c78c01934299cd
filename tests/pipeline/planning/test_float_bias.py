"""Biases that a target keeps in float, and that the CPU kernels, which prove the model, round to 32 bits."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import qtool
from tests.support.patterns import Net


@pytest.mark.parametrize("target", ["tensorrt", "x86"])
@pytest.mark.parametrize("size", [0.0, 1e-9])
def test_the_bias_of_a_dead_channel_fits(target, size, tmp_path):
    net = Net(3, 8, 8)
    first = net("Relu", net.conv("x", 3, 8, name="first"))
    model = net.model(net("Relu", net.conv(first, 8, 8, name="second")))
    for stored in model.graph.initializer:
        array = numpy_helper.to_array(stored).copy()
        # the third channel of every layer makes one number
        array[2] = array[2] * size if array.ndim == 4 else 0.37
        stored.CopyFrom(numpy_helper.from_array(array, stored.name))
    onnx.save(model, tmp_path / "m.onnx")
    result = qtool.quantize(
        tmp_path / "m.onnx", tmp_path / "q.onnx", data=net.samples(16), target=target, calibrator="max"
    )
    assert result.verification.integer_layers == 2
    assert result.verification.output_sqnr_db > 30.0
    weights = [row.params.scale for row in result.plan.weights]
    assert all(np.isfinite(scales).all() and len(scales) == 8 for scales in weights)
