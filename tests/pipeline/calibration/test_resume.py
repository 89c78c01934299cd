"""An interrupted calibration goes on from its last checkpoint, and ends with the bytes of one that was not."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import qtool
from qtool.cli import main
from qtool.execution.workers import Workers
from qtool.pipeline.calibration.tensors import CalibratedTensors, find_tensors
from tests.support.calibrated_data import mortal
from tests.support.places import REPOSITORY
from tests.support.recurrent_models import accumulator


def killed(folder, *options):
    """`qtool calibrate`, in a process that is killed in the middle of the data."""
    (folder / "kill").touch()
    command = ["calibrate", "m.onnx", "--data", mortal(folder), "-o", "new.calib", "--checkpoint", "0", *options]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-m", "qtool", *command], cwd=folder, env=environment, check=False)
    (folder / "kill").unlink()
    return done.returncode


def interrupt_at(sample):
    """A progress that ends there."""

    def progress(_step, done, _total):
        if done == sample:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("options", [{}, {"threads": 2}, {"shard": "1/2"}, {"batch_size": 3}])
def test_a_killed_calibration_goes_on(folder, options):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    assert killed(folder, *flags) == -signal.SIGKILL
    assert sorted(p.name for p in folder.glob("new.*")) == ["new.calib.checkpoint"]
    result = qtool.calibrate("m.onnx", mortal(folder), "new.calib", **options)
    assert 0 < result.resumed < result.statistics.samples
    assert not (folder / "new.calib.checkpoint").exists()
    qtool.calibrate("m.onnx", mortal(folder), "at once.calib", **options)
    assert (folder / "new.calib").read_bytes() == (folder / "at once.calib").read_bytes()


def test_workers_go_on_where_one_process_stopped(folder):
    assert killed(folder) == -signal.SIGKILL
    with Workers(2) as workers:
        result = qtool.calibrate("m.onnx", mortal(folder), "new.calib", executor=workers)
    assert result.resumed > 0
    assert (folder / "new.calib").read_bytes() == (folder / "m.calib").read_bytes()


def test_one_process_fills_the_gaps_that_workers_left(folder, monkeypatch):
    """The end of the data is counted, the beginning not."""
    from qtool.pipeline.calibration import run as module

    monkeypatch.setattr(module, "_SMALLEST", 2)
    monkeypatch.setattr(module, "run", later_half)
    with pytest.raises(KeyboardInterrupt), Workers(2) as workers:
        qtool.calibrate("m.onnx", mortal(folder), "new.calib", executor=workers, checkpoint=0)
    result = qtool.calibrate("m.onnx", mortal(folder), "new.calib")
    assert result.resumed == 6
    assert (folder / "new.calib").read_bytes() == (folder / "m.calib").read_bytes()


def later_half(_executor, function, works, _supply):
    for _, work in zip(range(6), works, strict=False):
        if work.first >= 6:
            yield work, function(work, {})
    raise KeyboardInterrupt


def test_sequences_go_on(tmp_path):
    model = accumulator(tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(3).normal(size=(5, 6, 8)).astype(np.float32))
    options = {"state": "total=new_total"}
    qtool.calibrate(model, tmp_path / "x.npy", tmp_path / "once.calib", **options)

    with pytest.raises(KeyboardInterrupt):
        qtool.calibrate(
            model, tmp_path / "x.npy", tmp_path / "new.calib", checkpoint=0, progress=interrupt_at(3), **options
        )
    result = qtool.calibrate(model, tmp_path / "x.npy", tmp_path / "new.calib", **options)
    assert result.resumed == 2
    assert (tmp_path / "new.calib").read_bytes() == (tmp_path / "once.calib").read_bytes()


@pytest.fixture
def stopped(folder):
    """new.calib.checkpoint of five samples of good.npz."""
    with pytest.raises(KeyboardInterrupt):
        qtool.calibrate("m.onnx", "good.npz", "new.calib", checkpoint=0, progress=interrupt_at(6))
    assert (folder / "new.calib.checkpoint").exists()
    return folder


def test_another_calibration_does_not_go_on_from_there(stopped, refused):
    base = ["calibrate", "m.onnx", "--data", "good.npz", "-o", "new.calib"]
    remedy = ["new.calib.checkpoint", "remove it"]
    refused(*base, "--samples", "7", says=remedy)
    refused(*base, "--batch-size", "2", says=remedy)
    refused(*base, "--shard", "1/2", says=remedy)
    refused(*base, "--equalize", says=remedy)
    np.savez(stopped / "good.npz", x=np.load(stopped / "good.npz")["x"] + 1)
    refused(*base, says=remedy)


def test_the_checkpoint_is_not_part_of_the_data(folder):
    """Although it stands in its folder."""
    home = folder / "arrays"
    home.mkdir()
    for i, x in enumerate(np.load("good.npz")["x"]):
        np.save(home / f"{i}.npy", x)
    (home / "nowhere.npy").symlink_to("/nonexistent")
    with pytest.raises(KeyboardInterrupt):
        qtool.calibrate("m.onnx", home, home / "new.calib", checkpoint=0, progress=interrupt_at(6))
    (home / ".new.calib.checkpoint.abcdefgh.qtool.part").touch()
    result = qtool.calibrate("m.onnx", home, home / ".." / "arrays" / "new.calib")
    assert result.resumed == 5
    assert (home / "new.calib").read_bytes() == (folder / "m.calib").read_bytes()


def test_what_was_killed_while_writing_is_cleared_away(folder):
    """Whatever it was, and nothing that looks only like it."""
    (folder / "away").mkdir()
    left = [".new.calib.abcdefgh.qtool.part", ".new.calib.checkpoint.abcdefgh.qtool.part", ".q.onnx.abcdefgh.qtool.old"]
    for name in (*left, ".q.onnx.abcdefgh.part", "q.onnx.abcdefgh.qtool.part"):
        (folder / "away" / name).touch()
    qtool.calibrate("m.onnx", "good.npz", "away/new[1].calib")
    there = sorted(p.name for p in (folder / "away").iterdir())
    assert there == [".q.onnx.abcdefgh.part", "new[1].calib", "q.onnx.abcdefgh.qtool.part"]


@pytest.mark.usefixtures("stopped")
def test_a_checkpoint_of_another_version_is_refused(refused, monkeypatch):
    """Which counts other tensors."""

    def fewer(prepared):
        found = find_tensors(prepared)
        return CalibratedTensors(found.tensors[:-1], found.channels)

    monkeypatch.setattr("qtool.pipeline.calibration.calibrate.find_tensors", fewer)
    refused("calibrate", "m.onnx", "--data", "good.npz", "-o", "new.calib", says=["new.calib.checkpoint", "version"])


def test_a_damaged_checkpoint_is_refused(stopped, refused):
    data = (stopped / "new.calib.checkpoint").read_bytes()
    (stopped / "new.calib.checkpoint").write_bytes(data[: len(data) // 2])
    refused("calibrate", "m.onnx", "--data", "good.npz", "-o", "new.calib", says=["new.calib.checkpoint"])


@pytest.mark.usefixtures("stopped")
def test_a_checkpoint_is_no_calibration_and_no_shard(refused):
    file = "new.calib.checkpoint"
    refused("quantize", "m.onnx", "--calibration", file, "-o", "q.onnx", says=[file, "unfinished"])
    refused("merge", file, "-o", "merged.calib", says=[file, "unfinished"])


def test_what_has_no_name_has_no_checkpoint(folder):
    data = {"x": np.load("good.npz")["x"]}
    with pytest.raises(KeyboardInterrupt):
        qtool.calibrate("m.onnx", data, "new.calib", checkpoint=0, progress=interrupt_at(6))
    assert not (folder / "new.calib.checkpoint").exists()


@pytest.mark.usefixtures("folder")
def test_ctrl_c_says_where_it_goes_on(monkeypatch, capsys):
    tell = interrupt_at(6)
    monkeypatch.setattr(
        "qtool.pipeline.calibration.run.CalibrationRun._tell", lambda _, samples: tell("", samples, None)
    )
    with pytest.raises(SystemExit) as caught:
        main(["calibrate", "m.onnx", "--data", "good.npz", "-o", "new.calib", "--checkpoint", "0"])
    assert caught.value.code == 130
    assert "new.calib.checkpoint" in capsys.readouterr().err
