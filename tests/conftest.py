"""Fixtures of many tests: commands, a model with its data in the current folder, and commands that must be refused."""

import json
import os
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import settings

from qtool.cli import main
from qtool.cli.outputs import STDOUT
from tests.support.refusals import SAMPLES, contents, network

pytest_plugins = ["tests.support.fast"]

# the tests of commands say themselves whether a pipeline runs them
os.environ.pop("CI", None)

# no test asserts a time: a busy machine is no failure
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """m.onnx, good.npz, and m.calib made of them, in the current folder."""
    monkeypatch.chdir(tmp_path)
    network(tmp_path / "m.onnx")
    np.savez(tmp_path / "good.npz", x=SAMPLES)
    with pytest.raises(SystemExit) as caught:
        main(["calibrate", "m.onnx", "--data", "good.npz", "-q"])
    assert caught.value.code == 0
    return tmp_path


@pytest.fixture
def run(capsys):
    """Runs `qtool ...`: the exit code, stdout, stderr."""

    def call(*words):
        with pytest.raises(SystemExit) as exit_:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        return exit_.value.code, out, err

    return call


@pytest.fixture
def refused(folder, capsys):
    """Runs `qtool ...` and returns the one line that it says; everything else about it is asserted here."""

    def call(*arguments, says):
        before = contents(folder)
        with pytest.raises(SystemExit) as caught:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        after = contents(folder)
        told = _told(arguments, after, before, out)
        assert (caught.value.code, "" if STDOUT in told else out) == (2, ""), err
        assert err.startswith("qtool: "), err
        assert err.endswith("\n"), err
        assert err.count("\n") == 1, err
        assert "Traceback" not in err
        for word in says:
            assert word in err, (word, err)
        assert all(err == f"qtool: {error}\n" for error in told.values()), told
        assert {path: held for path, held in after.items() if path not in told} == before
        return err

    return call


def _told(arguments, after, before, out):
    """What the documents that were asked for say of the error: by their path, or STDOUT."""
    found = {}
    for option, of in (("--json", _json_error), ("--junit", _junit_error)):
        if option not in arguments:
            continue
        path = str(arguments[arguments.index(option) + 1])
        if path == STDOUT and out:
            found[path] = of(out)
        elif path in after and path not in before:
            found[path] = of(after[path])
    return found


def _json_error(text):
    return json.loads(text)["error"]


def _junit_error(text):
    return ET.fromstring(text).find("testsuite/testcase/error").attrib["message"]


@pytest.fixture
def no_model(refused):
    """Both commands refuse the model `name` for the same reason."""

    def call(name, *says):
        first = refused("calibrate", name, "--data", "good.npz", "-o", "c", says=[name, *says])
        second = refused("quantize", name, "--calibration", "m.calib", "-o", "q", says=[name, *says])
        assert first == second

    return call
