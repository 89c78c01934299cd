"""An option that would be accepted and ignored is refused."""

import numpy as np
import pytest
from click.testing import CliRunner

import qtool
from qtool.cli import app, main
from qtool.core.errors import UsageError
from qtool.core.numerics.calibrators import CANDIDATES, MSE, Percentile
from tests.support.evaluation_models import linear
from tests.support.places import SHIPPED

MODEL, CALIB = str(SHIPPED / "digits_cnn.onnx"), str(SHIPPED / "digits_calib.npz")


@pytest.fixture
def refusal(capsys):
    """Runs `qtool ...`; asserts exit 2 and one line on stderr, and returns it."""

    def call(*words):
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert (caught.value.code, out, err.count("\n")) == (2, "", 1)
        return err

    return call


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["quantize", MODEL, "--data", CALIB, "--target", "tensorrt", "--scheme", "affine"], "only symmetric grids"),
        (["tune", MODEL, "--data", CALIB, "--target", "tensorrt", "--scheme", "affine"], "only symmetric grids"),
        (["tune", MODEL, "--data", CALIB, "--provider", "tensorrt", "--scheme", "affine"], "only symmetric grids"),
        (["eval", MODEL, MODEL, "--data", CALIB, "--latency-runs", "5"], "says nothing without --latency"),
        *(
            (["quantize", MODEL, "--data", CALIB, form, *option], f"{option[0]} says nothing to {form}, which has no")
            for form in ("--dynamic", "--weight-only")
            for option in (["--calibrator", "max"], ["--percentile", "99"], ["--scheme", "symmetric"])
        ),
        (
            ["quantize", MODEL, "--data", CALIB, "--dynamic", "--target", "tensorrt"],
            "--dynamic: target tensorrt has only",
        ),
        (["quantize", MODEL, "--data", CALIB, "--smoothing", "on", "--target", "tensorrt"], "--smoothing on: is for"),
        (["quantize", MODEL, "--weight-only", "--target", "tensorrt"], "--weight-only: target tensorrt has only"),
        (["quantize", MODEL, "--weight-only", "--calibrator", "max"], "--calibrator says nothing without data"),
        (["quantize", MODEL, "--weight-only", "--max-length", "9"], "--max-length says nothing without data"),
        (["quantize", MODEL, "--data", CALIB, "--plan", CALIB, "--include-op", "Conv"], "--include-op says nothing to"),
        (
            ["quantize", MODEL, "--data", CALIB, "--plan", CALIB, "--weight-only"],
            "--weight-only says nothing to --plan",
        ),
    ],
)
def test_it_is_refused_and_nothing_is_written(words, message, tmp_path, refusal):
    extra = ["-o", str(tmp_path / "q.onnx")] if words[0] in ("quantize", "tune") else []
    assert message in refusal(*words, *extra)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("forms", "message"),
    [
        (["--static", "--dynamic"], "--static and --dynamic contradict each other; leave only one of them"),
        (["--dynamic", "--weight-only"], "--dynamic and --weight-only contradict each other"),
        (["--weight-only", "--static", "--dynamic"], "--static and --dynamic and --weight-only contradict each other"),
    ],
)
def test_contradictory_forms_are_refused(forms, message, tmp_path, refusal):
    assert message in refusal("quantize", MODEL, "--data", CALIB, *forms, "-o", tmp_path / "q.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_form_of_the_command_line_wins_over_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qtool.toml").write_text("[quantize]\nweight-only = true\nstatic = false\n")
    seen = []

    def quantize(*_, form, **__):
        seen.append(form)
        raise UsageError("enough")

    monkeypatch.setattr("qtool.cli.quantize.quantize", quantize)
    for words in ([], ["--dynamic"], ["--static", "--data", CALIB]):
        answer = CliRunner().invoke(app, ["quantize", MODEL, "--config", "qtool.toml", *words])
        assert "enough" in str(answer.exception)
    assert seen == ["weight-only", "dynamic", "static"]


@pytest.mark.parametrize("share", ["500%", "101%", "-1%", "1.5", "lots", "nan", "", "5 %%"])
def test_a_share_of_float_layers_is_a_share(share, tmp_path, refusal):
    line = refusal("tune", MODEL, "--data", CALIB, "--max-float-macs", share, "-o", tmp_path / "q.onnx")
    assert "'--max-float-macs'" in line and "drop" not in line
    assert not share or f"a share of '{share}' makes no sense; give 0% to 100%" in line


def test_options_become_values(tmp_path, monkeypatch):
    """argv -> what `tune` is called with."""
    seen = {}

    def tune(*_, **values):
        seen.update(values)
        raise UsageError("enough")

    monkeypatch.setattr("qtool.cli.tune.tune", tune)
    words = ["--max-float-macs", "0.25", "--time-budget", "1.5m", "--max-drop", "2%"]
    CliRunner().invoke(app, ["tune", MODEL, "--data", CALIB, "--calibrators", "mse,percentile:99.9", *words])
    assert seen["max_float_macs"] == 0.25
    assert seen["time_budget"] == 90.0
    assert (seen["max_drop"].value, seen["max_drop"].relative) == (0.02, True)
    assert seen["calibrators"] == (MSE(), Percentile(99.9))
    (tmp_path / "c.toml").write_text("[tune]\nmax-float-macs = '50%'\ntime-budget = '2h'\n")
    CliRunner().invoke(app, ["tune", MODEL, "--data", CALIB, "--config", str(tmp_path / "c.toml")])
    assert (seen["max_float_macs"], seen["time_budget"], seen["calibrators"]) == (0.5, 7200.0, CANDIDATES)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--time-budget", "0s", "'0s' is no time; write 90s, 30m or 2h"),
        ("--time-budget", "soon", "'soon' is no time"),
        ("--calibrators", "max,best", "unknown calibrator 'best'"),
        ("--calibrators", "max:1", "calibrator 'max:1' makes no sense; write max"),
        ("--max-drop", "1", "--max-drop 1: would pass every model"),
        ("--max-drop", "100%", "--max-drop 100%: would pass every model"),
        ("--min-sqnr", "nan", "'--min-sqnr': nan is no finite number"),
    ],
)
def test_targets_of_tuning_that_make_no_sense(option, value, message, tmp_path, refusal):
    assert message in refusal("tune", MODEL, "--data", CALIB, option, value, "-o", tmp_path / "q.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_plan_names_the_grids_that_it_has(tmp_path):
    for target, scheme in (("tensorrt", "symmetric"), ("x86", "affine")):
        result = qtool.quantize(
            MODEL, tmp_path / "q.onnx", data=CALIB, samples=4, target=target, calibrator="max", bias_correction="off"
        )
        assert result.plan.scheme == scheme


def test_a_size_that_is_asked_for_needs_no_data(tmp_path, capsys):
    """No dynamic layer stays float for speed, so that what is asked for is what is made."""
    for name, more in (("plain", []), ("size", ["--optimize-for", "size"])):
        with pytest.raises(SystemExit) as caught:
            main(["quantize", MODEL, "--dynamic", *more, "-o", str(tmp_path / name)])
        assert (caught.value.code, capsys.readouterr().err) == (0, "")
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "size").read_bytes()
    with pytest.raises(SystemExit):
        main(["quantize", MODEL, "--dynamic", "--optimize-for", "latency", "-o", str(tmp_path / "q")])
    assert "--optimize-for says nothing without data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["quantize", "--smoothing", "on"], "smoothing was asked for, and changes nothing: no layer over tokens"),
        (["quantize", "--equalize"], "equalize was asked for, and changes nothing: no two layers follow each other"),
        (["calibrate", "--absorb-biases"], "absorb-biases was asked for, and changes nothing: no channel in front"),
    ],
)
def test_what_finds_nothing_to_do_says_so(tmp_path, run, words, says):
    linear(tmp_path / "m.onnx", np.eye(4, 3, dtype=np.float32), output_name="logits")
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(5).normal(size=(32, 4)).astype(np.float32))
    command, *options = words
    data = (tmp_path / "m.onnx", "--data", tmp_path / "d.npz", "-o", tmp_path / "out", "-q")
    code, out, err = run(command, *data, *options)
    assert (code, out) == (0, "") and f"warning: {says}" in err, err
    assert "changes nothing" not in run(command, *data)[2]
