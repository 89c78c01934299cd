"""The error of a layer that is written with more channels than it has is that of its own channels."""

import pytest

import qtool
from qtool.report.inspect import inspection_text
from tests.support.patterns import Net


@pytest.mark.parametrize("act", [True, False])
def test_its_own_channels_are_compared(tmp_path, act):
    net = Net(3, 48, 48)
    y = net.conv(net("Relu", net.conv("x", 3, 64, name="first")), 64, 3, name="few")
    y = net("Relu", y) if act else y
    path = net.save(tmp_path / "m.onnx", net.conv(y, 3, 16, name="behind"))
    options = {"calibrator": "max", "target": "x86", "partial": False, "form": "static"}
    plan = qtool.quantize(path, tmp_path / "q.onnx", data=net.samples(2), **options).plan
    assert [row.layer for row in plan.wider] == ["few"]
    result = qtool.inspect_model(tmp_path / "q.onnx", float_model=path, data=net.samples(2))
    layers = {layer.name: layer for layer in result.layers}
    assert 25.0 < layers["few"].sqnr_db < layers["few"].alone_db and layers["behind"].sqnr_db > 25.0
    assert not any("of another shape" in line for line in result.not_measured)
    assert "few" in inspection_text(result)
