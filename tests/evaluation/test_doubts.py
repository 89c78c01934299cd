"""Data that makes figures doubtful is warned of, each time with what to check; sound data is not."""

import json

import numpy as np
import onnx
import pytest

import qtool
from qtool.cli import main
from qtool.core.numerics.calibrators import Max
from qtool.evaluation.doubts import Spread, input_grids
from tests.support.evaluation_models import linear
from tests.support.patterns import Net

RNG = np.random.default_rng(11)
PICTURES = RNG.uniform(0, 1, (40, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    """A small network, calibrated on pictures from 0 to 1, and on normalised ones."""
    folder = tmp_path_factory.mktemp("doubts")
    net = Net(3, 8, 8)
    net.save(folder / "m.onnx", net.conv("x", 3, 4))
    for name, data in (("plain", PICTURES), ("normalised", (PICTURES - 0.45) / 0.22)):
        result = qtool.quantize(folder / "m.onnx", folder / f"{name}.onnx", data={"x": data[:20]}, calibrator="max")
        assert result.warnings == ()
    return folder


def warnings(folder, name, data):
    return qtool.evaluate(folder / "m.onnx", folder / f"{name}.onnx", {"x": data.astype(np.float32)}).warnings


def test_the_grid_of_an_input(quantised):
    ((name, (low, high)),) = input_grids(quantised / "normalised.onnx").items()
    assert name == "x"
    assert (low, high) == pytest.approx((-0.45 / 0.22, 0.55 / 0.22), rel=0.02)
    assert input_grids(quantised / "m.onnx") == input_grids(quantised / "nothing.onnx") == {}


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("plain", lambda x: 255 * x, "most values lie outside of it"),
        ("plain", lambda x: x / 255, "much of it is not used"),
        ("plain", lambda x: (x - 0.45) / 0.22, "most values lie outside of it"),
        ("normalised", lambda x: x, "much of it is not used"),
        ("normalised", lambda x: 255 * x, "most values lie outside of it"),
        ("plain", lambda x: x, None),
        ("plain", lambda x: np.clip(1.3 * x - 0.15, 0, 1), None),
        ("plain", lambda x: 0.7 * x, None),
        ("normalised", lambda x: (x - 0.45) / 0.22, None),
    ],
)
def test_another_preprocess_than_at_calibration(quantised, name, change, what):
    found = warnings(quantised, name, change(PICTURES[20:]))
    if what is None:
        assert found == ()
        return
    (line,) = found
    assert line.startswith(f"{name}.onnx: input 'x' was calibrated for ") and what in line
    assert "check that it is preprocessed as for calibration" in line


def test_a_grid_that_holds_0_without_need_is_no_fault(tmp_path):
    """Temperatures in kelvin; and a symmetric grid of what is never negative."""
    net = Net(8)
    net.save(tmp_path / "m.onnx", net.gemm("x", 8, 4))
    warm = RNG.uniform(280, 300, (30, 8)).astype(np.float32)
    for scheme in ("affine", "symmetric"):
        result = qtool.quantize(
            tmp_path / "m.onnx", tmp_path / "q.onnx", data={"x": warm}, scheme=qtool.Scheme(scheme), calibrator="max"
        )
        assert qtool.evaluate(tmp_path / "m.onnx", tmp_path / "q.onnx", {"x": warm}).warnings == result.warnings == ()


def test_values_that_are_not_finite_or_huge_have_a_spread():
    spread = Spread.of(np.array([np.nan, 1.0, -3.0, np.inf], np.float32))
    assert (spread.low, spread.high, spread.count) == (-3.0, 1.0, 2)
    assert Spread.of(np.full(4, 3e38, np.float32)).squares == pytest.approx(4 * 9e76)
    assert Spread.of(np.full(4, np.nan, np.float32)).count == 0


def labelled(tmp_path, classes, shift):
    """A model that says which of its inputs is largest, and labels that are `shift` beside that."""
    model = linear(tmp_path / "m.onnx", np.eye(classes))
    x = RNG.normal(size=(200, classes)).astype(np.float32)
    return model, x, np.clip(x.argmax(axis=1) + shift, 0, classes - 1)


@pytest.mark.parametrize(("shift", "word"), [(1, "less"), (-1, "more"), (0, None)])
def test_labels_that_are_off_by_one(tmp_path, shift, word):
    model, x, labels = labelled(tmp_path, 10, shift)
    found = qtool.evaluate(model, model, {"x": x, "labels": labels}, metrics=["top1"]).warnings
    if word is None:
        assert found == ()
        return
    (line,) = found
    assert f"if each is one {word}: its classes are counted from another number; correct the labels" in line
    (few,) = qtool.evaluate(model, model, {"x": x[:10], "labels": labels[:10]}, metrics=["top1"]).warnings
    assert few.endswith("correct the labels")
    assert qtool.evaluate(model, model, {"x": x[:7], "labels": labels[:7]}, metrics=["top1"]).warnings == ()


def test_tune_says_what_is_odd_about_the_data_that_calibrates(tmp_path):
    model, x, labels = labelled(tmp_path, 10, 1)
    odd = {"x": np.repeat(x[:1], 40, axis=0), "labels": np.repeat(labels[:1], 40)}
    found = qtool.tune(model, odd, tmp_path / "q.onnx", calibrators=[Max()]).evaluation.warnings
    assert "all 20 examples of the 20 samples are identical" in found[0]
    assert found[1].endswith("correct the labels") and len(found) == 2


@pytest.mark.parametrize("classes", [2, 10])
def test_labels_of_other_data(tmp_path, classes):
    model, x, labels = labelled(tmp_path, classes, 0)
    mixed = np.roll(labels, 1)
    (line,) = qtool.evaluate(model, model, {"x": x, "labels": mixed}, metrics=["top1"]).warnings
    assert f"no better than guessing among {classes} classes; check that the labels are of this data" in line
    assert qtool.evaluate(model, model, {"x": x[:8], "labels": mixed[:8]}, metrics=["top1"]).warnings == ()


def test_calibration_on_one_sample_or_on_identical_ones(tmp_path):
    net = Net(3, 8, 8)
    net.save(tmp_path / "m.onnx", net.conv("x", 3, 4))
    one = qtool.calibrate(tmp_path / "m.onnx", {"x": PICTURES[:1]}, tmp_path / "one.calib")
    assert "one sample calibrated" in one.warnings[0] and one.to_dict()["warnings"] == list(one.warnings)
    same = qtool.quantize(
        tmp_path / "m.onnx", tmp_path / "q.onnx", data={"x": PICTURES[[3, 3, 3, 3]]}, calibrator="max"
    )
    assert "all 4 examples of the 4 samples are identical" in same.warnings[0]
    assert same.to_dict()["warnings"] == list(same.warnings)
    proof = qtool.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", calibration=one.statistics).verification
    assert not proof.held_out and same.verification.held_out


def test_an_input_that_8_bits_hardly_hold(tmp_path):
    """A few values of one sample are not divided by 255; or many lie where the plan cuts them off."""
    net = Net(3, 8, 8)
    net.save(tmp_path / "m.onnx", net.conv("x", 3, 4))
    odd = PICTURES.copy()
    odd[7, 0, 0, :3] *= 255
    (line,) = qtool.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", data={"x": odd}, calibrator="max").warnings
    assert line.startswith("input 'x': 99.9 % of its values lie between 0 and ") and "no sample is unlike" in line
    cut = qtool.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", data={"x": PICTURES}, calibrator="percentile:60")
    assert "of its values are clipped to 0 to 0.79" in cut.warnings[0]
    sparse = np.where(RNG.uniform(size=PICTURES.shape) < 0.001, PICTURES, 0).astype(np.float32)
    assert qtool.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", data={"x": sparse}, calibrator="max").warnings == ()


def test_they_are_printed_on_standard_error_also_when_quiet(quantised, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(quantised)
    np.savez(tmp_path / "d.npz", x=255 * PICTURES)
    with pytest.raises(SystemExit):
        main(["eval", "m.onnx", "plain.onnx", "--data", str(tmp_path / "d.npz"), "--quiet", "--json", "j"])
    assert capsys.readouterr().err.startswith("warning: plain.onnx: input 'x' was calibrated for 0 to 0.9")
    assert len(json.loads((quantised / "j").read_text())["warnings"]) == 1
    with pytest.raises(SystemExit):
        main(["quantize", "m.onnx", "--data", str(tmp_path / "d.npz"), "--samples", "1", "-o", "one.onnx"])
    found = capsys.readouterr()
    assert "on 1 calibration sample that also chose" in found.out
    assert found.err.startswith("warning: one sample calibrated")


@pytest.mark.parametrize("command", ["quantize", "tune"])
def test_an_input_that_stays_float_is_known_too(tmp_path, command):
    """What calibration saw is in the metadata of the model, which computes the same; with a grid there is no need."""
    net = Net(3, 8, 8)
    hidden = net("Relu", net.conv("x", 3, 8, name="first"))
    net.save(tmp_path / "m.onnx", net.conv(hidden, 8, 4, name="last"))
    data = {"x": PICTURES[:20]}
    if command == "quantize":
        qtool.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", data=data, calibrator="max", exclude=["first"])
        seen = PICTURES[:20]
    else:
        words = {"min_sqnr": 5.0, "exclude": ["first"]}
        qtool.tune(tmp_path / "m.onnx", data, tmp_path / "q.onnx", calibrators="max", **words)
        seen = None
    noted = {entry.key: entry.value for entry in onnx.load(tmp_path / "q.onnx").metadata_props}
    assert list(noted) == ["qtool.float", "qtool.made", "qtool.calibrated.x"]
    low, high = map(float, noted["qtool.calibrated.x"].split(","))
    assert input_grids(tmp_path / "q.onnx") == {"x": (low, high)}
    assert seen is None or (low, high) == (seen.min(), seen.max())
    assert warnings(tmp_path, "q", PICTURES[20:]) == ()
    (line,) = warnings(tmp_path, "q", 255 * PICTURES[20:])
    assert f"q.onnx: input 'x' was calibrated for {low:.4g} to {high:.4g}" in line
    qtool.quantize(tmp_path / "m.onnx", tmp_path / "grid.onnx", data=data, calibrator="max")
    assert [entry.key for entry in onnx.load(tmp_path / "grid.onnx").metadata_props] == ["qtool.float", "qtool.made"]
