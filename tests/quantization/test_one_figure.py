"""The SQNR of the outputs is one figure in every place: the worst output's, over all its elements and samples."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import qtool
from qtool.cli import main
from qtool.core.records.examples import chosen, halves, row_of
from tests.support.patterns import Net

SAMPLES = np.random.default_rng(3).normal(size=(6, 3, 8, 8)).astype(np.float32)
_PLACES = [run["place"] for run in chosen(row_of(i, ({"place": np.array(i)},)) for i in range(2 * len(SAMPLES)))]
TWICE = np.empty((2 * len(SAMPLES), *SAMPLES.shape[1:]), np.float32)
for half in halves(_PLACES):
    TWICE[list(half)] = SAMPLES


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A loud output, and one that is a thousandth of it."""
    monkeypatch.chdir(tmp_path)
    net = Net(3, 8, 8)
    hidden = net("Relu", net.conv("x", 3, 8, name="first"))
    loud = net.conv(hidden, 8, 4, name="loud")
    quiet = net("Mul", net.conv(net("Sigmoid", hidden), 8, 4), net.const(np.float32(1e-3)))
    # the same twice: what chooses is what reports
    np.savez("c.npz", x=TWICE)
    np.savez("d.npz", x=SAMPLES)
    return net.save(tmp_path / "m.onnx", loud, quiet)


def test_all_say_the_same(model):
    calibration = qtool.calibrate(model, "c.npz", "c.calib").statistics
    result = qtool.quantize(model, "q.onnx", calibration=calibration)
    (candidate,) = qtool.evaluate(model, "q.onnx", "d.npz", min_sqnr=1.0).candidates
    by_output = dict(candidate.sqnr_db_by_output)
    assert len(by_output) == 2
    assert candidate.sqnr_db == min(by_output.values()) < max(by_output.values())
    assert result.verification.output_sqnr_db == pytest.approx(candidate.sqnr_db, abs=1e-3)
    assert result.verification.sqnr_db_by_output == pytest.approx(by_output, abs=1e-3)
    assert result.trials[0].sqnr_db == pytest.approx(candidate.sqnr_db, abs=1e-3)
    ranked = qtool.sensitivity(model, "d.npz", calibration=calibration, views="without", threads=1)
    assert ranked.quantized.sqnr_db == pytest.approx(candidate.sqnr_db, abs=1e-3)
    middle = candidate.sqnr_db
    gates = [qtool.evaluate(model, "q.onnx", "d.npz", min_sqnr=middle + more).passed for more in (-0.01, 0.01)]
    assert gates == [True, False]


def test_outputs_that_differ_are_named(model, capsys):
    with pytest.raises(SystemExit):
        main(["quantize", "m.onnx", "--data", "c.npz", "--json", "j", "-o", "q.onnx"])
    line = next(line for line in capsys.readouterr().out.splitlines() if "accuracy" in line)
    found = json.loads(Path("j").read_text())["verification"]
    shown = sorted(found["sqnr_db_by_output"].items(), key=lambda pair: pair[1])
    named = ", ".join(f"{name} {db:.1f}" for name, db in shown)
    assert f"outputs {found['output_sqnr_db']:.1f} dB ({named}) SQNR" in line
    with pytest.raises(SystemExit):
        main(["eval", "m.onnx", "q.onnx", "--data", "d.npz"])
    assert f"q.onnx: SQNR of each output in dB ({named})" in capsys.readouterr().out
    assert model.exists()


@pytest.mark.parametrize("factor", [1e-15, 1e-22, 1e-27])
def test_tiny_outputs_are_not_exact(tmp_path, factor, capsys):
    """Their squares are too small for float32."""
    net = Net(3, 8, 8)
    hidden = net("Relu", net.conv("x", 3, 8))
    last = net.conv(hidden, 8, 4)
    weight = list(net.constants)[-2 if net.constants[list(net.constants)[-1]].ndim == 1 else -1]
    net.constants = {n: (a * factor if n == weight or a.shape == (4,) else a) for n, a in net.constants.items()}
    model = net.save(tmp_path / "m.onnx", last)
    result = qtool.quantize(model, tmp_path / "q.onnx", data={"x": TWICE}, calibrator="max")
    (candidate,) = qtool.evaluate(model, tmp_path / "q.onnx", {"x": SAMPLES}).candidates
    assert np.isfinite([result.verification.output_sqnr_db, candidate.sqnr_db]).all()
    assert result.verification.output_sqnr_db == pytest.approx(candidate.sqnr_db, abs=1e-3)
    assert not re.search(r"\binf\b", repr(result.verification))
    assert capsys.readouterr().err == ""


def test_a_shape_that_the_values_decide_is_not_measured(tmp_path, monkeypatch, capsys):
    """The two models choose other entries: there is nothing to subtract."""
    monkeypatch.chdir(tmp_path)
    for name, level in (("a.onnx", 0.0), ("b.onnx", 0.4)):
        net = Net(8)
        product = net("MatMul", "x", net.const(np.eye(8), name="w"))
        chosen = net(
            "Compress",
            product,
            net("Reshape", net("Greater", product, net.const(level)), net.const([-1], dtype=np.int64)),
        )
        net.save(tmp_path / name, product, chosen)
    np.savez("d.npz", x=np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32))
    found = qtool.evaluate("a.onnx", "b.onnx", "d.npz", min_sqnr=5.0)
    values = [db for _, db in found.candidates[0].sqnr_db_by_output]
    assert None in values and found.candidates[0].sqnr_db == np.inf and found.passed
    document = found.to_dict()["candidates"][0]
    assert None in document["sqnr_db_by_output"].values()
    with pytest.raises(SystemExit):
        main(["eval", "a.onnx", "b.onnx", "--data", "d.npz", "--metric", "cosine", "--metric", "mse"])
    assert "not measured: another shape than float's" in capsys.readouterr().out
