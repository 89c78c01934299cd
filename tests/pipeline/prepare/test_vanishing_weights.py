"""Numbers that no sum in float32 tells from zero are zero in what is prepared, and in what is written."""

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

import qtool
from tests.support.patterns import Net
from tests.support.runs import prepared

SMALL = np.float32([1e-45, -1e-39, 1e-31])
KEPT = np.float32([1e-29, -1e-20])


def weights(net, shape):
    """Of a dead channel, among others that are not."""
    found = np.float32(net.rng.normal(size=shape))
    found.reshape(-1)[: len(SMALL) + len(KEPT)] = [*SMALL, *KEPT]
    return found


def initializers(model):
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


def test_vanishing_weights_become_zero_once(tmp_path):
    """Two layers share them: one new weight, whose other numbers are the same."""
    net = Net(8, 4, 4)
    array = weights(net, (8, 8, 1, 1))
    shared = net.const(array)
    out = net("Conv", net("Relu", net("Conv", "x", shared)), shared)
    result = prepared(net, out, tmp_path)
    assert result.changes["vanishing_weights"] == 1
    (found,) = initializers(result.model).values()
    assert (found.reshape(-1)[:3] == 0.0).all()
    np.testing.assert_array_equal(found.reshape(-1)[3:], array.reshape(-1)[3:])


def test_a_weight_that_is_small_throughout_stays(tmp_path):
    net = Net(8, 4, 4)
    array = np.float32(net.rng.normal(size=(8, 8, 1, 1)) * 1e-31)
    scaled = net("Mul", net("Tanh", net("Conv", "x", net.const(array))), net.const(np.float32(1e30)))
    assert "vanishing_weights" not in prepared(net, scaled, tmp_path).changes


def test_what_is_left_in_float_has_none(tmp_path):
    """onnxruntime computes exactly what it did, without denormal numbers."""
    net = Net(8, 4, 4)
    hidden = net("Relu", net("Conv", "x", net.const(weights(net, (16, 8, 1, 1))), name="first"))
    model = net.save(tmp_path / "m.onnx", net.conv(hidden, 16, 8, name="last"))
    qtool.quantize(
        model, tmp_path / "q.onnx", data=net.samples(), calibrator="max", bias_correction="off", exclude=("first",)
    )
    left = [numpy_helper.to_array(t) for t in onnx.load(tmp_path / "q.onnx").graph.initializer if t.data_type == 1]
    assert all((np.abs(a[a != 0.0]) >= np.finfo(np.float32).tiny).all() for a in left)
    session = ort.InferenceSession(model)
    assert np.isfinite(session.run(None, {"x": net.samples()["x"][:1]})[0]).all()
