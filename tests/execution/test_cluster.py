"""A real Dask cluster of worker processes on this machine: the same bytes, also when one of them is killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import qtool
from qtool.cli import main
from tests.support.calibrated_data import killer, mortal, pids
from tests.support.places import REPOSITORY
from tests.support.refusals import SAMPLES, classifier

distributed = pytest.importorskip("distributed")
from qtool.execution.cluster import Cluster  # noqa: E402

WORKERS = 3
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.fast(0)]


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """The address of a scheduler with three worker processes, each in a folder of its own."""
    home = tmp_path_factory.mktemp("cluster")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "DASK_DISTRIBUTED__WORKER__DAEMON": "True"}
    address_file = home / "scheduler.json"
    commands = [["distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard", "--host", "127.0.0.1"]]
    commands += [["distributed.cli.dask_worker", "--nthreads", "1", "--no-dashboard"]] * WORKERS
    processes = []
    for number, (module, *options) in enumerate(commands):
        folder = home / str(number)
        folder.mkdir()
        line = [sys.executable, "-m", module, *options, "--scheduler-file", str(address_file)]
        with (folder / "log").open("w") as log:
            processes.append(subprocess.Popen(line, cwd=folder, env=environment, stdout=log, stderr=log))
    try:
        # a client waits for the file for ever
        while not address_file.exists() and processes[0].poll() is None:
            time.sleep(0.01)
        assert address_file.exists(), (home / "0" / "log").read_text()
        with distributed.Client(scheduler_file=str(address_file), timeout="60s", set_as_default=False) as client:
            client.wait_for_workers(WORKERS, timeout=60)
            yield client.scheduler.address
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait()


@pytest.fixture
def cluster(scheduler):
    with Cluster(scheduler) as executor:
        yield executor


def test_all_workers_are_counted(cluster):
    assert cluster.width == WORKERS
    assert len(pids(cluster)) == WORKERS


@pytest.mark.parametrize("form", ["path", "content", "named function"])
def test_calibrate(folder, cluster, monkeypatch, form):
    monkeypatch.setattr("qtool.pipeline.calibration.run._SMALLEST", 1)
    data = {"path": "good.npz", "content": {"x": SAMPLES}, "named function": mortal(folder)}[form]
    qtool.calibrate("m.onnx", data, "new.calib", executor=cluster)
    assert (folder / "new.calib").read_bytes() == (folder / "m.calib").read_bytes()


def test_the_death_of_a_worker_loses_nothing(folder, cluster, monkeypatch):
    monkeypatch.setattr("qtool.pipeline.calibration.run._SMALLEST", 1)
    progress, killed = killer(pids(cluster))
    qtool.calibrate("m.onnx", "good.npz", "new.calib", executor=cluster, progress=progress)
    assert (folder / "new.calib").read_bytes() == (folder / "m.calib").read_bytes()
    assert killed[0] not in pids(cluster)


def test_models_and_data_that_no_worker_has(folder, cluster):
    """A path that means another folder to each process."""
    qtool.calibrate("/proc/self/cwd/m.onnx", "/proc/self/cwd/good.npz", "new.calib", executor=cluster)
    assert (folder / "new.calib").read_bytes() == (folder / "m.calib").read_bytes()


@pytest.fixture
def labelled(tmp_path, monkeypatch):
    """c.onnx, its int8 model q.onnx, c.calib, and labelled.npz, in the current folder."""
    monkeypatch.chdir(tmp_path)
    classifier(tmp_path / "c.onnx")
    rng = np.random.default_rng(5)
    np.savez("labelled.npz", x=rng.normal(size=(40, 3, 8, 8)).astype(np.float32), labels=rng.integers(0, 5, 40))
    qtool.calibrate("c.onnx", "labelled.npz", "c.calib", samples=8)
    qtool.quantize("c.onnx", "q.onnx", calibration="c.calib", calibrator="max")
    return tmp_path


@pytest.mark.long
@pytest.mark.usefixtures("labelled")
def test_eval_sensitivity_and_tune(cluster):
    here = qtool.evaluate("c.onnx", ["q.onnx"], "labelled.npz")
    assert qtool.evaluate("c.onnx", ["q.onnx"], "labelled.npz", executor=cluster).to_dict() == here.to_dict()
    here = qtool.sensitivity("c.onnx", "labelled.npz", calibration="c.calib")
    there = qtool.sensitivity("c.onnx", "labelled.npz", calibration="c.calib", executor=cluster)
    assert there.to_dict() == here.to_dict()
    # nothing is good enough, so that layers are ranked and left in float too
    options = {"min_sqnr": 80.0, "max_float_macs": 1.0, "target": "portable"}
    here = qtool.tune("c.onnx", "labelled.npz", "here.onnx", **options)
    there = qtool.tune("c.onnx", "labelled.npz", "there.onnx", executor=cluster, **options)
    assert [step.sqnr_db for step in there.steps] == [step.sqnr_db for step in here.steps]
    assert Path("here.onnx").read_bytes() == Path("there.onnx").read_bytes()
    assert any("float:" in step.what for step in there.steps)


def test_the_commands(labelled, scheduler, capsys):
    for line in (
        ["calibrate", "c.onnx", "--data", "labelled.npz", "--samples", "8", "-o", "new.calib"],
        ["eval", "c.onnx", "q.onnx", "--data", "labelled.npz"],
        ["sensitivity", "c.onnx", "--data", "labelled.npz", "--calibration", "c.calib"],
        ["tune", "c.onnx", "--data", "labelled.npz", "-o", "t.onnx", "--max-drop", "90%"],
    ):
        with pytest.raises(SystemExit) as caught:
            main([*line, "--cluster", scheduler])
        assert caught.value.code == 0, capsys.readouterr().err
    assert (labelled / "new.calib").read_bytes() == (labelled / "c.calib").read_bytes()


def test_bad_data_is_told_in_one_line(folder, refused, scheduler):
    x = SAMPLES.copy()
    x[5, 0, 0, 0] = np.nan
    np.savez(folder / "nan.npz", x=x)
    line = ["calibrate", "m.onnx", "--data", "nan.npz", "-o", "c", "--cluster", scheduler]
    refused(*line, says=["sample 5", "NaN"])


def test_no_scheduler(refused, monkeypatch):
    monkeypatch.setattr("qtool.execution.cluster._PATIENCE", "1s")
    line = ["calibrate", "m.onnx", "--data", "good.npz", "-o", "c"]
    refused(*line, "--cluster", "tcp://127.0.0.1:9", says=["tcp://127.0.0.1:9", "no Dask scheduler"])
    refused(*line, "--cluster", "nonsense://", says=["nonsense://"])


def test_workers_of_another_version(scheduler, monkeypatch, refused):
    monkeypatch.setattr("qtool.execution.cluster.metadata.version", lambda _: "0.0")
    line = ["calibrate", "m.onnx", "--data", "good.npz", "-o", "c", "--cluster", scheduler]
    refused(*line, says=[qtool.__version__, "this machine 0.0", "install the same"])


def test_without_dask(monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "distributed", None)
    line = ["calibrate", "m.onnx", "--data", "good.npz", "-o", "c", "--cluster", "tcp://127.0.0.1:9"]
    refused(*line, says=["--cluster", "pip install distributed (or pip install '.[cluster]'"])
