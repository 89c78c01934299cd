"""The examples do what they say: the steps of the pipeline are run one by one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml

from tests.support.places import REPOSITORY

CI = REPOSITORY / "examples" / "ci"
INSTALLS = "install"


def steps():
    """The commands of the workflow by their names, without the one that installs."""
    (job,) = yaml.safe_load((CI / "github.yml").read_text(encoding="utf-8"))["jobs"].values()
    found = {step["name"]: step["run"] for step in job["steps"] if "run" in step}
    assert found.pop(INSTALLS).startswith("pip install")
    return found


@pytest.fixture
def shell(tmp_path):
    """Runs a line as a step of the workflow, in a repository that holds what the example names; its exit code."""
    data = REPOSITORY / "calib_data"
    for source, name in (("cnn.onnx", "model.onnx"), ("calib.npz", "calibration.npz"), ("eval.npz", "labelled.npz")):
        shutil.copy(data / f"digits_{source}", tmp_path / name)
    shutil.copy(CI / "qtool.toml", tmp_path)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "qtool"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m qtool "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    summary = tmp_path / "summary.md"
    environment = {**os.environ, "PATH": path, "CI": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    environment["PYTHONPATH"] = str(REPOSITORY)

    def run(line):
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", line],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "warning" not in done.stderr, done.stderr
        return done.returncode, done.stdout

    run.folder = Path(tmp_path)
    return run


@pytest.mark.long
def test_the_pipeline_passes_step_by_step_and_notices_another_model(shell):
    assert shell("qtool quantize model.onnx --config qtool.toml")[0] == 0
    check, evaluate, summary = steps().values()
    code, out = shell(check)
    assert (code, out.splitlines()[0]) == (0, "model.int8.onnx: is what these inputs and options give, byte for byte")
    assert shell(evaluate)[0] == 0
    assert shell(summary)[0] == 0
    assert (shell.folder / "summary.md").read_text().startswith("| model |")
    # the check itself is a case too
    for name, cases in (("check.xml", 4), ("eval.xml", 2)):
        root = ET.parse(shell.folder / name).getroot()
        assert len(list(root.iter("testcase"))) == cases and list(root.iter("failure")) == []
    # somebody makes it with other options, and commits that
    assert shell("qtool quantize model.onnx --config qtool.toml --calibrator max")[0] == 0
    code, out = shell(check)
    assert code == 1 and "is NOT what these inputs and options give" in out and "ranges differ" in out
