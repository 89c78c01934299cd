"""Worker processes compute what one process computes; one that is killed in the middle loses nothing."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

import qtool
from qtool.cli import main
from qtool.core.errors import UnexpectedWorkerError, UsageError, WorkerError
from qtool.execution import Missing, run, width
from qtool.execution.supplies import ModelFile
from qtool.execution.workers import Workers
from tests.support.calibrated_data import array_folder, half_said, killer, mortal, picture_folder, pids
from tests.support.patterns import Net
from tests.support.recurrent_models import accumulator
from tests.support.refusals import SAMPLES, classifier, network


@pytest.fixture(scope="module")
def workers():
    with Workers(2) as executor:
        yield executor


def both(model, data, folder, workers, **options):
    """The bytes of a calibration here, and by workers."""
    qtool.calibrate(model, data, folder / "here.calib", **options)
    qtool.calibrate(model, data, folder / "there.calib", executor=workers, **options)
    return (folder / "here.calib").read_bytes(), (folder / "there.calib").read_bytes()


@pytest.mark.parametrize("form", ["npz", "arrays", "folder", "named function", "function", "pictures"])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_workers_give_the_same_bytes(tmp_path, workers, form, batch_size):
    network(tmp_path / "m.onnx")
    np.savez(tmp_path / "good.npz", x=SAMPLES)
    data = {
        "npz": lambda: tmp_path / "good.npz",
        "arrays": lambda: {"x": SAMPLES},
        "folder": lambda: array_folder(tmp_path),
        "named function": lambda: mortal(tmp_path),
        "function": lambda: lambda: ({"x": x[None]} for x in SAMPLES),
        "pictures": lambda: picture_folder(tmp_path),
    }[form]()
    options = {"preprocess": "imagenet"} if form == "pictures" else {}
    here, there = both(tmp_path / "m.onnx", data, tmp_path, workers, batch_size=batch_size, **options)
    assert here == there


@pytest.mark.parametrize("options", [{"shard": "2/3"}, {"samples": 7}, {"threads": 2}, {"equalize": True}])
def test_with_other_options(folder, workers, options):
    here, there = both("m.onnx", "good.npz", folder, workers, **options)
    assert here == there


def test_many_blocks(folder, workers, monkeypatch):
    monkeypatch.setattr("qtool.pipeline.calibration.run._SMALLEST", 1)
    for data in ("good.npz", {"x": SAMPLES}, mortal(folder)):
        here, there = both("m.onnx", data, folder, workers)
        assert here == there


def test_sequences(tmp_path, workers):
    model = accumulator(tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(3).normal(size=(5, 6, 8)).astype(np.float32))
    here, there = both(model, tmp_path / "x.npy", tmp_path, workers, state="total=new_total")
    assert here == there


@pytest.fixture
def labelled(tmp_path, monkeypatch):
    """c.onnx, its int8 model q.onnx, c.calib, and labelled.npz, in the current folder."""
    monkeypatch.chdir(tmp_path)
    classifier(tmp_path / "c.onnx")
    rng = np.random.default_rng(5)
    x = rng.normal(size=(40, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "labelled.npz", x=x, labels=rng.integers(0, 5, 40))
    qtool.calibrate("c.onnx", "labelled.npz", "c.calib", samples=8)
    qtool.quantize("c.onnx", "q.onnx", calibration="c.calib", calibrator="max")
    return tmp_path


def data_of(folder, form):
    """labelled.npz by path, or what it holds."""
    return "labelled.npz" if form == "path" else dict(np.load(folder / "labelled.npz"))


@pytest.mark.parametrize("form", ["path", "content"])
def test_eval(labelled, workers, form):
    data = data_of(labelled, form)
    here = qtool.evaluate("c.onnx", ["q.onnx"], data, metrics=["top1", "sqnr"], batch_size=3)
    there = qtool.evaluate("c.onnx", ["q.onnx"], data, metrics=["top1", "sqnr"], batch_size=3, executor=workers)
    assert here.to_dict() == there.to_dict()
    assert here.samples == 40


@pytest.mark.parametrize("form", ["path", "content"])
def test_sensitivity(labelled, workers, form, monkeypatch):
    monkeypatch.setattr("qtool.tuning.sensitivity.workers._FEWEST", 1)
    data = data_of(labelled, form)
    here = qtool.sensitivity("c.onnx", data, calibration="c.calib", output="here.json")
    there = qtool.sensitivity("c.onnx", data, calibration="c.calib", output="there.json", executor=workers)
    assert here.to_dict() == there.to_dict()
    assert (labelled / "here.json").read_bytes() == (labelled / "there.json").read_bytes()
    assert len(here.layers) == 2


def test_sensitivity_goes_on_from_what_one_process_found(labelled, workers):
    whole = qtool.sensitivity("c.onnx", "labelled.npz", calibration="c.calib", output="s.json")
    document = json.loads((labelled / "s.json").read_text())
    document["layers"] = document["layers"][:1]
    document["complete"] = False
    del document["checksum"]
    (labelled / "s.json").write_text(json.dumps(document))
    again = qtool.sensitivity("c.onnx", "labelled.npz", calibration="c.calib", output="s.json", executor=workers)
    assert again.to_dict() == whole.to_dict()


def test_tune(labelled, workers):
    here = qtool.tune("c.onnx", "labelled.npz", "here.onnx", max_drop="90%")
    there = qtool.tune("c.onnx", "labelled.npz", "there.onnx", max_drop="90%", executor=workers)
    assert (labelled / "here.onnx").read_bytes() == (labelled / "there.onnx").read_bytes()
    assert [step.sqnr_db for step in here.steps] == [step.sqnr_db for step in there.steps]


@pytest.mark.usefixtures("labelled")
def test_a_user_s_metric_runs_here(workers):
    seen = []

    def mine(outputs, labels):
        seen.append(os.getpid())
        return (next(iter(outputs.values())).argmax(axis=1) == labels["labels"]).astype(float)

    there = qtool.evaluate("c.onnx", ["q.onnx"], "labelled.npz", metrics=[mine], executor=workers)
    here = qtool.evaluate("c.onnx", ["q.onnx"], "labelled.npz", metrics=["top1"])
    assert set(seen) == {os.getpid()}
    assert there.float_model.scores[0].value == here.float_model.scores[0].value


@pytest.mark.parametrize("form", ["path", pytest.param("content", marks=pytest.mark.long)])
def test_a_worker_that_is_killed_loses_nothing(folder, monkeypatch, form):
    monkeypatch.setattr("qtool.pipeline.calibration.run._SMALLEST", 1)
    data = "good.npz" if form == "path" else {"x": SAMPLES}
    with Workers(2) as workers:
        progress, killed = killer(pids(workers))
        qtool.calibrate("m.onnx", data, "new.calib", executor=workers, progress=progress)
        assert killed[0] not in pids(workers)
    assert (folder / "new.calib").read_bytes() == (folder / "m.calib").read_bytes()


@pytest.mark.usefixtures("folder")
def test_an_evaluation_survives_the_death_of_a_worker(monkeypatch):
    monkeypatch.setattr("qtool.evaluation.run._BLOCK", 1)
    qtool.quantize("m.onnx", "q.onnx", calibration="m.calib", calibrator="max")
    here = qtool.evaluate("m.onnx", ["q.onnx"], "good.npz")
    with Workers(2) as workers:
        progress, killed = killer(pids(workers))
        there = qtool.evaluate("m.onnx", ["q.onnx"], "good.npz", executor=workers, progress=progress)
    assert killed
    assert here.to_dict() == there.to_dict()


def die(_work, _supplies):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.long
def test_work_that_always_kills_is_given_up(refused, monkeypatch):
    monkeypatch.setattr("qtool.pipeline.calibration.run.count_block", die)
    line = ["calibrate", "m.onnx", "--data", "good.npz", "-o", "new.calib"]
    refused(*line, "--workers", "2", says=["worker processes died 4 times", "--workers"])


def test_what_is_wrong_with_the_data_is_told_in_one_line(refused, folder):
    x = SAMPLES.copy()
    x[5, 0, 0, 0] = np.nan
    np.savez(folder / "nan.npz", x=x)
    refused("calibrate", "m.onnx", "--data", "nan.npz", "-o", "c", "--workers", "2", says=["sample 5", "NaN"])


@pytest.mark.parametrize(
    "options",
    [
        ("--workers", "0"),
        ("--workers", "513"),
        ("--workers", "1", "--cluster", "tcp://127.0.0.1:1"),
        ("--threads", "513"),
    ],
)
def test_impossible_options(refused, options):
    refused("calibrate", "m.onnx", "--data", "good.npz", "-o", "c", *options, says=[options[0]])


def test_the_commands(labelled, capsys):
    for arguments in (
        ["calibrate", "c.onnx", "--data", "labelled.npz", "-o", "w.calib", "--workers", "2"],
        ["eval", "c.onnx", "q.onnx", "--data", "labelled.npz", "--workers", "2", "--json", "w.json"],
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0, capsys.readouterr().err
    qtool.calibrate("c.onnx", "labelled.npz", "h.calib")
    assert (labelled / "w.calib").read_bytes() == (labelled / "h.calib").read_bytes()


@pytest.mark.parametrize(
    ("command", "work"),
    [
        (["calibrate", "c.onnx", "--data", "labelled.npz", "-o", "w.calib"], {"count_block"}),
        (["eval", "c.onnx", "q.onnx", "--data", "labelled.npz"], {"_run_block"}),
        (["sensitivity", "c.onnx", "--data", "labelled.npz", "--calibration", "c.calib"], {"_measure"}),
        # nothing is good enough, so that layers are ranked too
        (
            [
                "tune",
                "c.onnx",
                "--data",
                "labelled.npz",
                "-o",
                "t.onnx",
                "--min-sqnr",
                "90",
                "--max-float-macs",
                "100%",
            ],
            {"count_block", "_run_block", "_measure"},
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
@pytest.mark.usefixtures("labelled")
def test_the_work_is_done_by_workers(monkeypatch, command, work):
    submitted = set()
    submit = Workers.submit

    def recorded(self, function, *arguments):
        submitted.add(function.__name__)
        return submit(self, function, *arguments)

    monkeypatch.setattr(Workers, "submit", recorded)
    with pytest.raises(SystemExit):
        main([*command, "--workers", "1"])
    assert submitted == work


def test_any_executor_of_processes_will_do(folder):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        qtool.calibrate("m.onnx", "good.npz", "new.calib", executor=executor)
    assert (folder / "new.calib").read_bytes() == (folder / "m.calib").read_bytes()


def test_models_and_data_that_a_worker_has_not_got(folder, monkeypatch):
    """This process has them by a path that means another folder to each process."""
    away = folder / "away"
    away.mkdir()
    with Workers(2) as others:
        others.submit(os.getpid).result()  # starts there
        monkeypatch.chdir(away)
        for file in ("m.onnx", "good.npz", "m.calib"):
            (folder / file).rename(away / file)
        qtool.calibrate("/proc/self/cwd/m.onnx", "/proc/self/cwd/good.npz", "new.calib", executor=others)
    assert (away / "new.calib").read_bytes() == (away / "m.calib").read_bytes()


def test_a_model_that_is_another_one_at_the_same_path(tmp_path):
    network(tmp_path / "m.onnx")
    model = ModelFile.of(tmp_path / "m.onnx")
    content = model.content()
    network(tmp_path / "m.onnx", weights=2.0)
    assert model.find(None) is None
    found = model.find(content)
    assert found is not None
    assert found.read_bytes() == content["m.onnx"]
    assert model.find(None) == found


def test_external_data_travels_with_the_model(tmp_path):
    import onnx

    net = Net(3, 8, 8)
    net.save(tmp_path / "whole.onnx", net.conv("x", 3, 64))
    onnx.save(
        onnx.load(tmp_path / "whole.onnx"), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin",
        size_threshold=0,
    )  # fmt: skip
    model = ModelFile.of(tmp_path / "m.onnx")
    content = model.content()
    assert set(content) == {"m.onnx", "w.bin"}
    for file in content:
        (tmp_path / file).unlink()
    found = model.find(content)
    assert found is not None
    assert (found.parent / "w.bin").read_bytes() == content["w.bin"]


class Inline(Executor):
    """Does everything at once, in the order of its choice."""

    width = 3

    def submit(self, fn, /, *args, **kwargs):
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def test_results_come_in_order():
    with ThreadPoolExecutor(4) as pool:
        found = list(run(pool, lambda n, _: n * n, range(50), lambda *_: None, in_order=True))
    assert found == [(n, n * n) for n in range(50)]


def test_work_is_taken_no_faster_than_it_is_done():
    taken = []

    def works():
        for n in range(100):
            taken.append(n)
            yield n

    for done, _ in enumerate(run(Inline(), lambda n, _: n, works(), lambda *_: None)):
        assert len(taken) <= done + 2 * Inline.width + 1


def test_what_is_missing_is_sent_after():
    def needy(n, supplies):
        return supplies.get("b", 0) + n if "b" in supplies else Missing(("b",) if "a" in supplies else ("a",))

    found = dict(run(Inline(), needy, range(5), lambda work, name: 10 * work if name == "b" else None))
    assert found == {n: 11 * n for n in range(5)}
    with pytest.raises(WorkerError, match="cannot use"):
        list(run(Inline(), lambda *_: Missing(("a",)), [1], lambda *_: None))


@pytest.mark.usefixtures("folder")
def test_workers_that_are_shut_down_are_no_hang():
    with Workers(1) as workers:
        pass
    with pytest.raises(WorkerError, match="takes no work"):
        qtool.calibrate("m.onnx", "good.npz", "new.calib", executor=workers)


def test_work_goes_on_after_a_failure(folder, workers, monkeypatch, caplog):
    """What was still to be done for a calibration that failed is given up silently."""
    monkeypatch.setattr("qtool.pipeline.calibration.run._SMALLEST", 1)
    x = np.repeat(SAMPLES, 20, axis=0)
    x[0, 0, 0, 0] = np.nan
    with pytest.raises(qtool.QtoolError, match="NaN"):
        qtool.calibrate("m.onnx", {"x": x}, "new.calib", executor=workers)
    qtool.calibrate("m.onnx", "good.npz", "new.calib", executor=workers)
    assert len(pids(workers)) == 2
    assert not caplog.records
    assert (folder / "new.calib").read_bytes() == (folder / "m.calib").read_bytes()


def test_work_that_is_cancelled_is_not_begun(tmp_path):
    with Workers(1) as workers:
        workers.submit(os.getpid).result()
        futures = [workers.submit(time.sleep, 0.3)] + [workers.submit(Path.touch, tmp_path / str(n)) for n in range(9)]
        assert futures[-1].cancel()
    assert not (tmp_path / "8").exists()
    assert (tmp_path / "0").exists()
    assert futures[-1].cancelled()


def test_workers_that_outlive_the_data(folder, workers):
    """The same path, as many samples, in other files."""
    home = Path(array_folder(folder))
    for name in ("0", "new"):
        if name == "new":
            (home / "0.npz").rename(home / "new.npz")
        here, there = both("m.onnx", home, folder, workers)
        assert here == there


def test_labels_that_were_corrected(labelled, workers):
    home = labelled / "pictures"
    home.mkdir()
    for i, x in enumerate(SAMPLES):
        np.save(home / f"{i}.npy", x)
    outputs = np.concatenate([np.zeros(6, int), np.ones(6, int)])
    for labels in (outputs, np.roll(outputs, 3)):
        rows = "".join(f"{i}.npy,{label}\n" for i, label in enumerate(labels))
        (home / "labels.csv").write_text("file,label\n" + rows)
        here = qtool.evaluate("c.onnx", ["q.onnx"], home, metrics=["top1"])
        there = qtool.evaluate("c.onnx", ["q.onnx"], home, metrics=["top1"], executor=workers)
        assert here.float_model.scores[0].value == there.float_model.scores[0].value


def test_large_samples_travel_a_few_at_a_time(folder, workers, monkeypatch):
    from qtool.pipeline.calibration import run as module

    sizes = []
    monkeypatch.setattr(module, "_ROOM", 2 * SAMPLES[0].nbytes)
    monkeypatch.setattr(module, "run", lambda _e, function, works, _s: recorded(function, works, sizes))
    qtool.calibrate("m.onnx", {"x": SAMPLES}, "new.calib", executor=workers)
    assert sizes == [2] * 6
    assert (folder / "new.calib").read_bytes() == (folder / "m.calib").read_bytes()


def recorded(function, works, sizes):
    for work in works:
        sizes.append(len(work.batches))
        yield work, function(work, {})


def test_executors_as_the_documentation_names_them():
    import qtool.execution

    assert qtool.execution.Workers is Workers
    with pytest.raises(ImportError):
        from qtool.execution import Nothing  # noqa: F401


def test_a_script_without_a_main_guard_is_told_so(folder):
    """Its processes run it again when they import it."""
    (folder / "script.py").write_text(
        "import qtool\nfrom qtool.execution import Workers\n"
        "with Workers(1) as w:\n    qtool.calibrate('m.onnx', 'good.npz', 'new.calib', executor=w)\n"
    )
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=False, timeout=60)
    assert "__name__ == '__main__'" in [line for line in done.stderr.splitlines() if "WorkerError" in line][-1]
    assert not (folder / "new.calib").exists()


def test_failures_are_one_line():
    with pytest.raises(UnexpectedWorkerError, match=r"ZeroDivisionError: .*by zero"):
        list(run(Inline(), lambda n, _: 1 // n, [0], lambda *_: None))


def test_widths():
    with ThreadPoolExecutor(5) as pool:
        assert width(pool) == 5
    assert width(Inline()) == 3
    with pytest.raises(UsageError):
        Workers(0)


def test_workers_end_with_their_parent(tmp_path):
    """Killed at once, a parent leaves no processes behind."""
    program = (
        "import os, signal\nfrom qtool.execution.workers import Workers\n\nif __name__ == '__main__':\n"
        "    workers = Workers(1)\n    print(workers.submit(os.getpid).result(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")], capture_output=True, text=True, check=False, timeout=60
    )
    pid = int(done.stdout)
    for _ in range(100):
        if not alive(pid):
            return
        time.sleep(0.1)
    raise AssertionError(f"process {pid} is still there")


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def test_a_worker_that_is_stopped_while_it_sends_is_not_waited_for(tmp_path):
    """The rest of its result never comes; the same happens where a signal ends a command with workers."""
    begun = tmp_path / "begun"
    workers = Workers(1)
    future = workers.submit(half_said, str(begun))
    while not begun.exists() and not future.done():
        time.sleep(0.01)
    assert not future.done(), future.exception()
    ending = threading.Thread(target=workers.shutdown, kwargs={"wait": False, "cancel_futures": True}, daemon=True)
    ending.start()
    ending.join(60)
    assert not ending.is_alive()
