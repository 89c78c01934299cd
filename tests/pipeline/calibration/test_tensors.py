"""Which tensors a calibration observes: those of every target in the table, whatever it is called."""

from dataclasses import replace

from qtool.graph import model_io
from qtool.pipeline.calibration.tensors import observed_tensors
from qtool.pipeline.prepare import prepare
from qtool.targets.rules import OpRule
from qtool.targets.tables import TARGETS
from tests.support.patterns import Net


def test_a_target_of_any_name_finds_its_statistics(tmp_path, monkeypatch):
    """The tensor between Abs and Sqrt is 8-bit on a target that knows both, and on no other."""
    net = Net()
    inner = net("Abs", net.conv("x", net.shape[0], 4), name="first")
    middle = net.conv(net("Sqrt", inner), 4, 4)
    prepared = prepare(model_io.load(net.save(tmp_path / "m.onnx", middle)))
    before = observed_tensors(prepared)
    assert inner not in before
    rules = TARGETS["x86"].rules | {op: OpRule("elementwise", (f"Npu{op}",)) for op in ("Abs", "Sqrt")}
    monkeypatch.setitem(TARGETS, "npu", replace(TARGETS["x86"], name="npu", rules=rules))
    after = observed_tensors(prepared)
    assert inner in after and set(before) <= set(after)
