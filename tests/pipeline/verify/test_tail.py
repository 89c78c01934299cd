"""The float outputs behind the last 8-bit tensor: optimised layers against unoptimised ones."""

import numpy as np
import pytest

import qtool
from qtool.core.errors import LayerError
from qtool.core.numerics.sqnr import SignalToNoise
from qtool.graph import model_io
from qtool.pipeline.prepare import prepare
from qtool.pipeline.verify.measure import Measured
from tests.support.patterns import Net


@pytest.mark.parametrize(("rounding_db", "wrong"), [(120.0, True), (20.0, False)])
def test_one_wrong_place_of_many_is_a_wrong_layer(rounding_db, wrong, tmp_path):
    """But where another rounding of the same float function changes as much."""
    net = Net(8)
    output = net.gemm("x", 8, 64)
    model = net.save(tmp_path / "m.onnx", output)
    plan = qtool.quantize(model, tmp_path / "q.onnx", data=net.samples(), calibrator="max", form="static").plan
    said = np.random.default_rng(0).normal(size=(4, 64))
    found = said.copy()
    found[:, 5] += 1.0
    tail = SignalToNoise()
    tail.add(said, found)
    measured = Measured(tail={output: tail})
    graph = prepare(model_io.load(model)).model
    if not wrong:
        measured.check(graph, plan, lambda: {output: rounding_db})
        return
    with pytest.raises(LayerError, match=output) as caught:
        measured.check(graph, plan, lambda: {output: rounding_db})
    assert set(caught.value.layers) == set(plan.quantized)
