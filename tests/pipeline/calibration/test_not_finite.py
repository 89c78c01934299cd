"""NaN and Inf in tensors that are counted: refused where they must be quantised, remembered where they may be."""

from dataclasses import replace

import numpy as np
import pytest

import qtool
from qtool.core.errors import DataError
from qtool.core.records.statistics import Flaw, load_statistics
from qtool.pipeline.calibration import calibrate as module
from qtool.pipeline.calibration.tensors import find_tensors
from tests.support.odd_models import OddModel, node, value
from tests.support.patterns import Net

RNG = np.random.default_rng(6)
X = np.abs(RNG.normal(size=(12, 3, 8, 8))).astype(np.float32) + 0.1
SPOILED = X.copy()
SPOILED[[7, 9]] *= -1


@pytest.fixture
def model(tmp_path):
    """Two convolutions with a logarithm between them, of which sample 7 and 9 have none."""
    net = Net(3, 8, 8)
    log = net("Log", "x", name="culprit")
    return net.save(tmp_path / "m.onnx", net.conv(net("Relu", net.conv(log, 3, 4, name="one")), 4, 4, name="two"))


@pytest.fixture
def lenient(monkeypatch):
    """As if a target of this machine left every tensor in float."""
    monkeypatch.setattr(module, "find_tensors", lambda prepared: replace(find_tensors(prepared), finite=frozenset()))


def test_what_must_be_quantised_is_refused_with_its_sample_and_layer(model):
    says = r"the arrays, sample 7: NaN or Inf is born in layer 'culprit' \(Log"
    with pytest.raises(DataError, match=says):
        qtool.calibrate(model, {"x": SPOILED})
    with pytest.raises(DataError, match=says):
        qtool.quantize(model, model.parent / "q.onnx", data={"x": SPOILED})


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("threads", [1, 3])
def test_what_may_stay_float_is_remembered_whatever_the_parts(model, tmp_path, threads):
    whole = qtool.calibrate(model, {"x": SPOILED}, tmp_path / "whole.calib", threads=threads).statistics
    flaw = Flaw(7, "the arrays, sample 7")
    assert whole.flaws and set(whole.flaws.values()) == {flaw}
    assert all(whole.tensors[name].count == 0 for name in whole.flaws)
    names = [tmp_path / f"{i}.calib" for i in (2, 1)]
    for name in names:
        qtool.calibrate(model, {"x": SPOILED}, name, shard=f"{name.stem}/2", threads=threads)
    qtool.merge(names, tmp_path / "sum.calib")
    assert (tmp_path / "sum.calib").read_bytes() == (tmp_path / "whole.calib").read_bytes()
    assert load_statistics(tmp_path / "sum.calib").flaws == whole.flaws


@pytest.mark.usefixtures("lenient")
def test_it_is_refused_where_it_is_quantised_after_all_and_the_remedy_works(model, tmp_path):
    qtool.calibrate(model, {"x": SPOILED}, tmp_path / "c")
    output = tmp_path / "q.onnx"
    with pytest.raises(DataError, match=r"sample 7: tensor .* for layer 'one', holds NaN or Inf; .*exclude='one'"):
        qtool.quantize(model, output, calibration=tmp_path / "c")
    assert not output.exists()
    kept = np.delete(SPOILED, [7, 9], axis=0)
    qtool.calibrate(model, {"x": kept}, tmp_path / "c")
    assert qtool.quantize(model, output, calibration=tmp_path / "c").verification.integer_layers == 2


def test_the_place_is_looked_for_behind_what_is_so_by_design(tmp_path):
    """A mask of -Inf is fed and used as such; the fault is elsewhere."""
    w = RNG.normal(size=(8, 8)).astype(np.float32)
    nodes = [
        node("Add", ["x", "mask"], ["a"]),
        node("Softmax", ["a"], ["s"]),
        node("Sub", ["s", "level"], ["d"]),
        node("Log", ["d"], ["l"], name="culprit"),
        node("MatMul", ["l", "w"], ["y"]),
    ]
    inputs = [value(name, ["N", 3, 8, 8]) for name in ("x", "mask")]
    constants = {"level": np.array(0.05, np.float32), "w": w}
    path = OddModel(nodes, [value("y", None)], {}, inputs, constants, trunk=False).save(tmp_path / "m.onnx")
    mask = np.where(RNG.random(X.shape) < 0.3, -np.inf, 0.0).astype(np.float32)
    mask[..., 0] = 0.0
    with pytest.raises(DataError, match="born in layer 'culprit'"):
        qtool.calibrate(path, {"x": X, "mask": mask})


def test_a_channel_that_is_never_seen_has_no_range(tmp_path):
    net = Net(3, 8)
    zero, axis = (net.const([number], dtype=np.int64) for number in (0, 1))
    cut = net("Slice", "x", zero, zero, axis)
    first, second = (net("MatMul", x, net.weight(8, 4, inputs=8)) for x in (cut, "x"))
    model = net.save(tmp_path / "m.onnx", net("Concat", first, second, axis=1))
    data = {"x": RNG.normal(size=(4, 3, 8)).astype(np.float32)}
    statistics = qtool.calibrate(model, data, tmp_path / "c").statistics
    assert list(statistics.channels) == ["x"]
    assert qtool.quantize(model, tmp_path / "q.onnx", calibration=tmp_path / "c").verification.integer_layers == 2
