"""Inputs and outputs that are not just finite tensors of numbers: what onnxruntime runs, every command takes."""

import json
import math
import warnings

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import qtool
from qtool.cli import main
from tests.support.odd_models import MODELS, UNFED, OddModel

FORMS = ("static", "dynamic", "weight-only")
COMPLAINTS = ("'type' of 'value_info'", "'shape' of 'type'")
"""Of onnx.checker about models that came so."""


@pytest.fixture(autouse=True)
def quiet():
    """No warning may stand beside what is printed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


def numbers(found: object) -> np.ndarray | None:
    """All real numbers in what onnxruntime gives for an output, in order; None where it holds others."""
    if found is None:
        return np.zeros(0)
    if isinstance(found, dict):
        return numbers([np.asarray(found[key]) for key in sorted(found)])
    if isinstance(found, list):
        parts = [part for one in found if (part := numbers(one)) is not None]
        return np.concatenate([np.zeros(0), *parts])
    return found.reshape(-1).astype(np.float64) if found.dtype.kind == "f" else None


def feeds(odd: OddModel) -> list[dict[str, np.ndarray]]:
    """What a session takes, sample by sample."""
    if not isinstance(odd.data, dict):
        return list(odd.data)
    count = len(next(iter(odd.data.values())))
    rows = [{name: array[i : i + 1] for name, array in odd.data.items()} for i in range(count)]
    return [{n: a.astype(object) if a.dtype.kind == "U" else a for n, a in row.items()} for row in rows]


def expected_sqnr(odd: OddModel, models: list[str]) -> float | None:
    """The worst real output's over all samples, entries left out that are equal and not finite."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    runs = [[s.run(None, feed) for feed in feeds(odd)] for s in (ort.InferenceSession(m, options) for m in models)]
    worst = None
    for place in range(len(runs[0][0])):
        pair = [[numbers(outputs[place]) for outputs in run] for run in runs]
        if any(part is None for part in pair[0]):
            continue
        x, y = (np.concatenate(parts) for parts in pair)
        known = np.isfinite(x)
        assert np.array_equal(known, np.isfinite(y))
        if not known.any():
            continue
        x, y = x[known].astype(np.longdouble), y[known].astype(np.longdouble)
        noise = ((x - y) ** 2).sum()
        found = math.inf if noise == 0 else float(10 * np.log10((x**2).sum() / noise))
        worst = found if worst is None else min(worst, found)
    return worst


@pytest.mark.parametrize("name", MODELS)
def test_it_is_calibrated_quantised_and_measured(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odd = MODELS[name]()
    odd.save(tmp_path / "m.onnx")
    form = FORMS[list(MODELS).index(name) % 3]
    if name == "dimensions of -1":
        form = "static"
    calibrated = qtool.calibrate("m.onnx", odd.data, "c.calib")
    assert calibrated.statistics.samples == len(feeds(odd))
    chosen = {"calibrator": "max"} if form == "static" else {"bias_correction": "off", "smoothing": "off"}
    result = qtool.quantize("m.onnx", "q.onnx", calibration="c.calib", form=form, **chosen)
    assert result.verification.integer_layers or form == "weight-only"
    (candidate,) = qtool.evaluate("m.onnx", "q.onnx", odd.data).candidates
    assert candidate.nan is None
    if name == "bfloat16":
        # NumPy has no such type
        assert candidate.sqnr_db > 30.0
        return
    expected = expected_sqnr(odd, ["m.onnx", "q.onnx"])
    if expected is None and candidate.sqnr_db is not None:
        assert dict(candidate.sqnr_db_by_output).keys() == {"y"}, "whole numbers, where there are no others"
    else:
        assert candidate.sqnr_db == (None if expected is None else pytest.approx(expected, abs=1e-3))
    try:
        onnx.checker.check_model("q.onnx")
    except onnx.checker.ValidationError as error:
        assert any(words in str(error) for words in COMPLAINTS), error


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name != "dimensions of -1"])
def test_every_command_takes_it(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    odd = MODELS[name]()
    odd.save(tmp_path / "m.onnx")
    data = "data"
    if isinstance(odd.data, dict):
        data = "data.npz"
        np.savez(data, **odd.data)
    else:
        (tmp_path / data).mkdir()
        for i, sample in enumerate(odd.data):
            np.savez(tmp_path / data / f"{i}.npz", **sample)
    measured = name not in ("strings alone", "truth values")
    aim = ["--min-sqnr", "-1000"] if measured else []
    commands = [
        ["calibrate", "m.onnx", "--data", data, "-o", "c"],
        ["quantize", "m.onnx", "--calibration", "c", "-o", "q.onnx"],
        *(["quantize", "m.onnx", "--data", data, f"--{form}", "-o", f"{form}.onnx"] for form in FORMS),
        *(["quantize", "m.onnx", f"--{form}", "-o", f"{form}.onnx"] for form in FORMS[1:]),
        ["quantize", "m.onnx", "--data", data, "--calibrator", "entropy", "-o", "e.onnx"],
        ["eval", "m.onnx", "q.onnx", "dynamic.onnx", "--data", data, "--metric", "cosine", "--metric", "mse"],
        ["eval", "m.onnx", "q.onnx", "--data", data, "--json", "e.json"],
    ]
    if measured and name != "everything is NaN":
        commands.append(["sensitivity", "m.onnx", "--data", data, "--calibration", "c"])
    if name not in ("one sample", "everything is NaN"):
        commands.append(["tune", "m.onnx", "--data", data, *aim, "-o", "t.onnx"])
    for command in commands:
        with pytest.raises(SystemExit) as caught:
            main(command)
        said = capsys.readouterr()
        assert caught.value.code == 0, (command, said)
        assert "Warning" not in said.err + said.out
        assert "nan" not in said.out.lower().split()
    json.loads((tmp_path / "e.json").read_text())


@pytest.mark.parametrize("name", UNFED)
@pytest.mark.parametrize("form", FORMS[1:])
def test_inputs_that_are_no_tensors_can_be_quantised_without_data(name, form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    UNFED[name]().save(tmp_path / "m.onnx")
    x = np.random.default_rng(1).normal(size=(1, 8)).astype(np.float32)
    with pytest.raises(qtool.QtoolError, match="only tensors can be fed; make it a tensor, or quantise without data"):
        qtool.calibrate("m.onnx", {"x": x})
    result = qtool.quantize("m.onnx", "q.onnx", form=form)
    assert result.verification.examples == 0
    feed = {"m": dict(enumerate(map(float, x[0])))} if name == "maps" else {"s": [x]}
    exact, found = (ort.InferenceSession(model).run(None, feed)[0] for model in ("m.onnx", "q.onnx"))
    assert np.abs(exact - found).max() < 0.05 * np.abs(exact).max()
    onnx.checker.check_model("q.onnx")


def test_maps_keep_their_type(tmp_path):
    MODELS["maps of an old opset"]().save(tmp_path / "m.onnx")
    qtool.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", form="dynamic")
    before, after = (onnx.load(tmp_path / name).graph.output for name in ("m.onnx", "q.onnx"))
    assert [(v.name, v.type.SerializeToString(deterministic=True)) for v in before if v.name == "prob"] == [
        (v.name, v.type.SerializeToString(deterministic=True)) for v in after if v.name == "prob"
    ]


def masked(path, *, numbers=False):
    """A layer over x and an infinite mask, whose output is truth values, or numbers; then x has no shape."""
    rng = np.random.default_rng(0)
    weights = onnx.numpy_helper.from_array(rng.standard_normal((8, 8)).astype(np.float32), "w")
    tensor = onnx.helper.make_tensor_value_info
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["m"], "fc"),
        onnx.helper.make_node("Add", ["m", "mask"], ["a"], "masked"),
    ]
    outputs = [tensor("a", onnx.TensorProto.FLOAT, ["n", 8])]
    if not numbers:
        nodes.append(onnx.helper.make_node("IsInf", ["a"], ["y"], "hidden"))
        outputs = [tensor("y", onnx.TensorProto.BOOL, ["n", 8])]
    inputs = [
        tensor("x", onnx.TensorProto.FLOAT, None if numbers else ["n", 8]),
        tensor("mask", onnx.TensorProto.FLOAT, ["n", 8]),
    ]
    graph = onnx.helper.make_graph(nodes, "g", inputs, outputs, [weights])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    mask = np.where(rng.random((12, 8)) > 0.7, -np.inf, 0).astype(np.float32)
    return {"x": rng.standard_normal((12, 8)).astype(np.float32), "mask": mask}


def test_what_has_no_sqnr_is_not_measured_and_remedies_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("d.npz", **masked("m.onnx"))
    statistics = qtool.calibrate("m.onnx", "d.npz", "m.calib").statistics
    made = qtool.quantize("m.onnx", "q.onnx", calibration=statistics)
    assert len(made.trials) > 1
    assert {trial.sqnr_db for trial in made.trials} == {None}
    with pytest.raises(SystemExit, match="0"):
        main(["quantize", "m.onnx", "--calibration", "m.calib", "-o", "q.onnx"])
    assert "candidates (no output has an SQNR to compare them by)" in capsys.readouterr().out
    with pytest.raises(qtool.QtoolError, match="no output holds numbers, so SQNR is not measured; give labels"):
        qtool.sensitivity("m.onnx", "d.npz", calibration=statistics)
    with pytest.raises(qtool.QtoolError, match=r"no output holds numbers, so SQNR is not measured; leave it out"):
        qtool.tune("m.onnx", "d.npz", "t.onnx", min_sqnr=20.0)
    assert qtool.tune("m.onnx", "d.npz", "t.onnx", calibrators=("max",)).met


def test_sensitivity_and_tune_read_data_as_the_others_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("d.npz", **masked("m.onnx", numbers=True))
    statistics = qtool.calibrate("m.onnx", "d.npz").statistics
    ranked = qtool.sensitivity("m.onnx", "d.npz", calibration=statistics)
    assert ranked.quantized.sqnr_db == pytest.approx(
        qtool.evaluate("m.onnx", [qtool.quantize("m.onnx", "q.onnx", calibration=statistics).output], "d.npz")
        .candidates[0]
        .sqnr_db,
        abs=1.0,
    )
    assert qtool.tune("m.onnx", "d.npz", "t.onnx", min_sqnr=20.0, calibrators=("max",)).met


def test_a_model_that_does_not_load_is_refused_before_calibration(tmp_path):
    data = masked(tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    for node in model.graph.node:
        node.name = "same"
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(qtool.QtoolError, match=r"onnxruntime cannot load it.*same node name"):
        qtool.calibrate(tmp_path / "m.onnx", data)
