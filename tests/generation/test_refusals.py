"""What a pipeline refuses: outputs over anything that it reads, files that say nothing, and loops that say nonsense."""

import json

import numpy as np
import onnx
import pytest

from qtool.cli import main
from qtool.core.errors import UsageError
from qtool.generation.together import calibrate_pipeline
from tests.support.evaluation_models import linear

RNG = np.random.default_rng(3)
WEIGHTS = RNG.normal(size=(16, 5)).astype(np.float32)
LOOP = "def loop(parts, inputs):\n    (part,) = parts.values()\n    return part(inputs)['scores'].argmax(-1)\n"


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
def folder(tmp_path, monkeypatch):
    """p.toml in the current folder: one part, whose models have external data, and a loop of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("f", "q"):
        linear(tmp_path / "whole.onnx", WEIGHTS)
        onnx.save(
            onnx.load("whole.onnx"), f"{name}.onnx", save_as_external_data=True, location=f"{name}.bin", size_threshold=0
        )
    (tmp_path / "own.py").write_text(LOOP)
    (tmp_path / "one.calib").write_text("kept")
    (tmp_path / "p.toml").write_text("loop = 'own.py:loop'\n[parts.one]\nfloat = 'f.onnx'\nint8 = 'q.onnx'\n")
    np.savez(tmp_path / "d.npz", x=RNG.normal(size=(3, 16)).astype(np.float32))
    return tmp_path


EVAL = ("eval", "--pipeline", "p.toml", "--data", "d.npz")


@pytest.mark.parametrize("name", ["p.toml", "f.onnx", "f.bin", "q.onnx", "q.bin", "own.py", "one.calib", "d.npz"])
def test_no_output_of_eval_is_written_over_what_a_pipeline_reads(folder, run, name):
    before = (folder / name).read_bytes()
    code, _, err = run(*EVAL, "--json", name)
    assert code == 2 and f"--json {name}: is " in err and err.count("\n") == 1
    assert (folder / name).read_bytes() == before


@pytest.mark.parametrize("name", ["f.bin", "q.bin", "own.py", "f.onnx"])
def test_no_calibration_is_written_over_what_a_pipeline_reads(folder, run, name):
    with (folder / "p.toml").open("a") as file:
        file.write(f"calibration = '{name}'\n")
    before = (folder / name).read_bytes()
    code, _, err = run("calibrate", "--pipeline", "p.toml", "--data", "d.npz")
    assert code == 2 and f"{name}: is --pipeline already" in err
    assert (folder / name).read_bytes() == before
    with pytest.raises(UsageError, match=rf"part 'one' would be written over .*{name}, which is read"):
        calibrate_pipeline("p.toml", "d.npz")
    assert (folder / name).read_bytes() == before


def test_what_a_pipeline_wrote_before_is_written_again(folder, run):
    for _ in range(2):
        assert run("calibrate", "--pipeline", "p.toml", "--data", "d.npz")[0] == 0
        assert (folder / "one.calib").read_bytes() != b"kept"
        assert run(*EVAL, "--json", "e.json")[0] == 0
    assert json.loads((folder / "e.json").read_text())["samples"] == 3
