"""The tensors of a calibration: those of every target, found once, before the data, and kept until its end."""

from dataclasses import replace

import pytest

import qtool
from qtool.core.compute import HERE
from qtool.core.errors import DataError, NothingToQuantizeError
from qtool.core.records.recipe import ABSORB_BIASES, EQUALIZE
from qtool.feeds import open_for_model
from qtool.graph import model_io
from qtool.pipeline.calibration import tensors as module
from qtool.pipeline.calibration.run import with_steps
from qtool.pipeline.calibration.tensors import find_tensors
from qtool.pipeline.prepare import prepare
from qtool.targets.rules import OpRule
from qtool.targets.tables import TARGETS
from tests.support.patterns import BRIDGES, PATTERNS, Net


@pytest.mark.parametrize("name", [*PATTERNS, *BRIDGES])
def test_steps_change_none_of_them(name, tmp_path):
    net, outputs = (PATTERNS | BRIDGES)[name].net()
    prepared = prepare(model_io.load(net.save(tmp_path / "m.onnx", *outputs)))
    feeds = open_for_model(prepared.model, net.samples())
    changed = with_steps(prepared, (EQUALIZE, ABSORB_BIASES), feeds, HERE)
    assert changed.recipe.steps == (EQUALIZE, ABSORB_BIASES)
    assert find_tensors(changed) == find_tensors(prepared)


@pytest.mark.parametrize("options", [{}, {"equalize": True}, {"threads": 2}])
def test_they_are_found_once(folder, monkeypatch, options):
    """With a checkpoint, whose tensors are compared, too."""
    placed = []
    place = module.place
    monkeypatch.setattr(module, "place", lambda *given, **more: placed.append(given) or place(*given, **more))
    qtool.calibrate("m.onnx", "good.npz", folder / "new.calib", checkpoint=0, **options)
    targets = [target.name for _, target, _ in placed]
    assert targets and len(set(targets)) == len(targets)


def test_a_model_with_nothing_to_quantise_is_refused_before_data_is_read(tmp_path):
    net = Net(3, 8, 8)
    model = net.save(tmp_path / "m.onnx", net("Relu", "x"))
    for call in (
        lambda: qtool.calibrate(model, "none.npz"),
        lambda: qtool.quantize(model, tmp_path / "q.onnx", data="none.npz"),
        lambda: qtool.tune(model, "none.npz", tmp_path / "q.onnx"),
    ):
        with pytest.raises(NothingToQuantizeError):
            call()


@pytest.mark.usefixtures("folder")
def test_data_that_is_not_there_is_refused_before_steps_are_decided(monkeypatch):
    monkeypatch.setattr("qtool.pipeline.calibration.run.decide", lambda *_: pytest.fail("decided"))
    with pytest.raises(DataError, match=r"none\.npz"):
        qtool.calibrate("m.onnx", "none.npz", equalize=True)


def test_a_target_of_any_name_finds_its_statistics(tmp_path, monkeypatch):
    """The tensor between Abs and Sqrt is 8-bit on a target that knows both, and on no other."""
    net = Net()
    inner = net("Abs", net.conv("x", net.shape[0], 4), name="first")
    middle = net.conv(net("Sqrt", inner), 4, 4)
    prepared = prepare(model_io.load(net.save(tmp_path / "m.onnx", middle)))
    before = find_tensors(prepared).tensors
    assert inner not in before
    rules = TARGETS["x86"].rules | {op: OpRule("elementwise", (f"Npu{op}",)) for op in ("Abs", "Sqrt")}
    monkeypatch.setitem(TARGETS, "npu", replace(TARGETS["x86"], name="npu", rules=rules))
    after = find_tensors(prepared).tensors
    assert inner in after and set(before) <= set(after)
