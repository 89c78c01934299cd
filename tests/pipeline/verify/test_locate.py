"""A preparation that changes what a model computes, or the shape of it, is told with the node where that begins."""

import numpy as np
import pytest

import qtool
from qtool.core.errors import VerificationError
from qtool.graph import edit
from qtool.pipeline.prepare import residual_sum
from tests.support.patterns import Net


def network(net: Net) -> str:
    return net("Relu", net.conv(net("LeakyRelu", net.conv("x", 3, 8), name="odd"), 8, 4))


@pytest.mark.parametrize("damage", ["values", "shape"])
def test_what_the_preparation_changed_is_named(damage, tmp_path, monkeypatch):
    def apply(model: edit.Model) -> int:
        for node in model.graph:
            if damage == "values" and node.name == "odd":
                edit.set_attribute(node, "alpha", 0.75)
            if damage == "shape" and node.op_type == "Relu":
                node.op_type = "Flatten"
        return 0

    monkeypatch.setattr(residual_sum, "apply", apply)
    net = Net()
    source = net.save(tmp_path / "m.onnx", network(net))
    message = {
        "values": r"preparation changed output 'Relu_3_out' .*; it begins at node 'odd' \(LeakyRelu\)",
        "shape": r"preparation changed the shape of output 'Relu_3_out' \(\[\d, 4, 8, 8\] became \[\d, 256\]\)",
    }[damage]
    with pytest.raises(VerificationError, match=message):
        qtool.quantize(source, tmp_path / "q.onnx", data=net.samples(), calibrator="max")
    assert not (tmp_path / "q.onnx").exists()


@pytest.mark.parametrize("low", [14.0, 17.0])
@pytest.mark.parametrize("form", ["weight-only", "auto"])
def test_what_any_rounding_changes_is_not_held_against_the_preparation(low, form, tmp_path):
    """Probabilities that are 0 but for their last bits, as of a page without text: Sub folds into the Conv."""
    net = Net()
    hidden = net("Mul", net.conv(net("Relu", net.conv("x", 3, 8)), 8, 4), net.const(np.full((4, 1, 1), 0.3)))
    source = net.save(tmp_path / "m.onnx", net("Sigmoid", net("Sub", hidden, net.const(np.full((4, 1, 1), low)))))
    result = qtool.quantize(source, tmp_path / "q.onnx", data=net.samples(), form=form)
    assert result.verification.preparation_sqnr_db < 50


def test_a_raised_opset_that_nothing_can_check_is_refused(tmp_path):
    """Made-up inputs are random numbers, which are no indices of the table; --data is the remedy."""
    net = Net(4, opset=11, ir_version=6)
    table = net.weight(300, 12, inputs=1)
    rows = net("Gather", table, net("Cast", net("Mul", "x", net.const(1e9)), to=7))
    source = net.save(tmp_path / "m.onnx", net("MatMul", rows, net.weight(12, 4, inputs=12)))
    with pytest.raises(VerificationError, match="opset was raised to 13"):
        qtool.quantize(source, tmp_path / "q.onnx", form="weight-only")
    fed = {"x": np.full((2, 4), 1e-7, np.float32)}
    qtool.quantize(source, tmp_path / "q.onnx", form="weight-only", data=fed)
