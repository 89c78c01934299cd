"""The remedy that a message names works: each is tried by the test that provokes the message."""

import re
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest

from qtool.cli import main
from tests.support.refusals import SAMPLES, network
from tests.tuning.test_search import recurrent


@pytest.fixture
def accepted(folder, capsys):  # noqa: ARG001
    """Runs `qtool ...`, which must do what it is asked."""

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(a) for a in arguments])
        assert caught.value.code == 0, capsys.readouterr().err
        capsys.readouterr()

    return call


def _other_plan(accepted, refused):  # noqa: ARG001
    network(Path("other.onnx"), weights=2.0)
    accepted("quantize", "other.onnx", "--data", "good.npz", "--save-plan", "p.json")


def _folder(*_):
    Path("models").mkdir()
    network(Path("models/m.onnx"))


def _gru(*_):
    recurrent(Path("gru.onnx"), "GRU", 3)
    np.savez("steps.npz", x=np.zeros((5, 1, 4), np.float32))


def _config(*_):
    Path("c.toml").write_text("max-float-macs = '20%'\n")


def _named(*_):
    Path("c.toml").write_text("[tune]\nmin_sqnrr = 10\n")


TUNE = ["tune", "m.onnx", "--data", "good.npz", "--calibrators", "max", "-o", "q.onnx"]
QUANTIZE = ["quantize", "m.onnx", "-o", "q.onnx"]
CASES = {
    "nothing to calibrate with": (None, QUANTIZE, "--calibration, --data", [*QUANTIZE, "--calibration", "m.calib"]),
    "or a form without": (None, QUANTIZE, "only --dynamic, --weight-only", [*QUANTIZE, "--weight-only"]),
    "both kinds of data": (
        None,
        [*QUANTIZE, "--data", "good.npz", "--calibration", "m.calib"],
        "and not both",
        [*QUANTIZE, "--data", "good.npz"],
    ),
    "a form that the model has nothing for": (
        None,
        [*QUANTIZE, "--dynamic"],
        "leave --dynamic out and give --data, or use it as it is",
        [*QUANTIZE, "--data", "good.npz"],
    ),
    "data as the model": (
        None,
        ["calibrate", "good.npz", "--data", "m.onnx", "-o", "c"],
        "good.npz: is NumPy data, not an ONNX model; give it as --data, and the ONNX model in its place",
        ["calibrate", "m.onnx", "--data", "good.npz", "-o", "c"],
    ),
    "the model as data": (
        None,
        ["calibrate", "m.onnx", "--data", "m.onnx", "-o", "c"],
        "m.onnx: is a model, not data; give it as MODEL",
        ["calibrate", "m.onnx", "--data", "good.npz", "-o", "c"],
    ),
    "a calibration as the model": (
        None,
        ["quantize", "m.calib", "--calibration", "m.onnx", "-o", "q"],
        "m.calib: is a calibration file, not an ONNX model; give it as --calibration",
        ["quantize", "m.onnx", "--calibration", "m.calib", "-o", "q"],
    ),
    "a calibration as data": (
        None,
        [*QUANTIZE, "--data", "m.calib"],
        "m.calib: is a calibration file; give it as --calibration to `qtool quantize`",
        [*QUANTIZE, "--calibration", "m.calib"],
    ),
    "data as the calibration": (
        None,
        [*QUANTIZE, "--calibration", "good.npz"],
        "is data, not a calibration file; calibrate with it as --data",
        ["calibrate", "m.onnx", "--data", "good.npz", "-o", "new.calib"],
    ),
    "the model as the calibration": (
        None,
        [*QUANTIZE, "--calibration", "m.onnx"],
        "is a model, not a calibration file; make one with `qtool calibrate`",
        ["calibrate", "m.onnx", "--data", "good.npz", "-o", "new.calib"],
    ),
    "a folder as the model": (
        _folder,
        ["eval", "models", "m.onnx", "--data", "good.npz"],
        "models: is a folder; give the model in it, such as models/m.onnx",
        ["eval", "models/m.onnx", "m.onnx", "--data", "good.npz"],
    ),
    "another model's plan": (
        _other_plan,
        [*QUANTIZE, "--plan", "p.json"],
        "make it again with --save-plan",
        [*QUANTIZE, "--data", "good.npz", "--save-plan", "p.json"],
    ),
    "an option beside a plan": (
        _other_plan,
        ["quantize", "other.onnx", "--plan", "p.json", "--exclude", "last", "-o", "q.onnx"],
        "--exclude says nothing to --plan, which has decided it; leave one of them out",
        ["quantize", "other.onnx", "--plan", "p.json", "-o", "q.onnx"],
    ),
    "only weights": (
        _gru,
        ["calibrate", "gru.onnx", "--data", "steps.npz", "-o", "c"],
        "quantise it with --weight-only, which needs no data",
        ["quantize", "gru.onnx", "--weight-only", "-o", "q.onnx"],
    ),
    "all is excluded": (
        None,
        [*QUANTIZE, "--calibration", "m.calib", "--exclude", "*"],
        "exclude less",
        [*QUANTIZE, "--calibration", "m.calib"],
    ),
    "nothing to aim at": (None, TUNE, "give --min-sqnr", [*TUNE, "--min-sqnr", "10"]),
    "no labels to aim at": (
        None,
        [*TUNE, "--metric", "pearson", "--min-sqnr", "10"],
        "use --metric sqnr",
        [*TUNE, "--metric", "sqnr", "--min-sqnr", "10"],
    ),
    "a key outside of a table": (_config, [*TUNE, "--config", "c.toml"], "write it below [tune]", None),
    "a misspelt key": (
        _named,
        [*TUNE, "--config", "c.toml"],
        "unknown key 'min_sqnrr' in [tune] (did you mean 'min-sqnr'?)",
        None,
    ),
    "an unknown command": (
        None,
        ["quantise", "m.onnx", "--calibration", "m.calib", "-o", "q.onnx"],
        "No such command 'quantise'. Did you mean 'quantize'?",
        [*QUANTIZE, "--calibration", "m.calib"],
    ),
    "an argument that is an option's": (
        None,
        [*QUANTIZE, "m.calib"],
        "unexpected extra argument (m.calib); name the option that it is for",
        [*QUANTIZE, "--calibration", "m.calib"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_remedy_works(case, accepted, refused):
    prepare, words, says, remedy = CASES[case]
    if prepare is not None:
        prepare(accepted, refused)
    refused(*words, says=[says])
    if remedy is not None:
        accepted(*remedy)


@pytest.mark.parametrize(
    "array",
    [
        SAMPLES.transpose(0, 2, 3, 1),
        SAMPLES.transpose(0, 3, 2, 1)[:, :, :, :],
        SAMPLES[0],
        SAMPLES.reshape(12, -1),
        (SAMPLES * 9).astype(np.uint8),
        (SAMPLES * 9).astype(np.int64),
        SAMPLES > 0,
    ],
    ids=["NHWC", "NWHC", "no batch axis", "flat", "uint8", "int64", "bool"],
)
def test_arrays_of_another_layout_or_type(array, refused, accepted):
    """The remedy is an expression: it is evaluated."""
    np.savez("d.npz", x=array)
    line = refused("calibrate", "m.onnx", "--data", "d.npz", "-o", "c", says=["d.npz: 'x' is "])
    remedy = re.search(r"(\.transpose\(.*?\)|\[None\]|\.reshape\(.*?\)|\.astype\('\w+'\))", line)[1]
    np.savez("d.npz", x=eval(f"array{remedy}", {"array": array}))
    accepted("calibrate", "m.onnx", "--data", "d.npz", "-o", "c")


@pytest.mark.parametrize("array", [np.array(["a"]), SAMPLES.astype(np.complex64)], ids=["text", "complex"])
def test_what_no_cast_makes_an_input_is_not_to_be_cast(array, refused):
    np.savez("d.npz", x=array)
    line = refused("calibrate", "m.onnx", "--data", "d.npz", "-o", "c", says=["give real numbers"])
    assert "astype" not in line


@pytest.mark.parametrize(
    "words",
    [
        "calibrate ~/m.onnx --data good.npz",
        "eval m.onnx ~/q.onnx --data good.npz",
        "calibrate m.onnx --data ~/d.npz",
        "quantize m.onnx --calibration ~/m.calib",
        "quantize m.onnx --calibration m.calib -o ~/q.onnx",
    ],
)
def test_a_tilde_that_no_shell_has_expanded(words, refused):
    refused(*shlex.split(words), says=["(~ is not expanded here: write the whole path)"])


def test_a_model_that_is_nothing_but_a_name(refused):
    """An ONNX model without a graph, called as PyTorch's files are."""
    Path("m.pt").write_bytes(onnx.ModelProto().SerializeToString() + b"\x08\x08")
    refused(
        "calibrate", "m.pt", "--data", "good.npz", "-o", "c", says=["by its name, a PyTorch file; export the model"]
    )
