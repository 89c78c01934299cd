"""Whatever goes wrong is one line and an exit code that says what it was; 1 is only ever a gate that failed."""

import os
import signal
import tempfile
from pathlib import Path

import click
import pytest

from qtool.cli import main
from qtool.core.errors import QtoolError, UnexpectedWorkerError, WorkerError
from qtool.core.process import TerminatedError


class UntoldError(QtoolError):
    """An error whose text fails."""

    def __init__(self):
        super().__init__("x")

    @property
    def marked(self):
        raise ZeroDivisionError("no text")


class SilentError(Exception):
    def __str__(self):
        raise SystemExit


def of_a_worker():
    try:
        raise UnexpectedWorkerError("a worker failed with KeyError: 'k'") from KeyError("k")
    except UnexpectedWorkerError as error:
        return error


@pytest.fixture
def failed(monkeypatch, capsys, tmp_path):
    """Runs `qtool merge ...`, which raises something; gives the exit code and stderr."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def call(error, *words):
        def raising(*_, **__):
            raise error

        monkeypatch.setattr("qtool.cli.merge.merge", raising)
        with pytest.raises(SystemExit) as caught:
            main([*words, "merge", "m.calib", "-o", str(tmp_path / "out")])
        out, err = capsys.readouterr()
        assert out == "" and not (tmp_path / "out").exists()
        return caught.value.code, err

    return call


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (AssertionError(), "AssertionError"),
        (AssertionError("a\nb"), "AssertionError: a b"),
        (RecursionError("maximum recursion depth exceeded"), "RecursionError: maximum recursion depth exceeded"),
        (SystemExit(0), "SystemExit: 0"),
        (SystemExit(1), "SystemExit: 1"),
        (GeneratorExit(), "GeneratorExit"),
        (EOFError("Ran out of input"), "EOFError: Ran out of input"),
        (ImportError("no module"), "ImportError: no module"),
        (SilentError(), "SilentError"),
        (UntoldError(), "ZeroDivisionError: no text"),
        (of_a_worker(), "KeyError: 'k'"),
        (BaseExceptionGroup("several", [KeyboardInterrupt()]), "BaseExceptionGroup: several (1 sub-exception)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_unexpected_is_a_bug_of_qtool(failed, tmp_path, error, said):
    code, err = failed(error)
    (report,) = tmp_path.glob("qtool-bug-*.txt")
    where = f"please report it with {report}"
    assert (code, err) == (3, f"qtool: a bug of qtool: {said}; {where}; nothing was written\n")
    text = report.read_text(encoding="utf-8")
    assert "qtool merge m.calib -o" in text and type(error).__name__ in text
    # the other way to the traceback
    report.unlink()
    code, err = failed(error, "--debug")
    assert code == 3 and "Traceback (most recent call last)" in err
    assert err.splitlines()[-1] == f"qtool: a bug of qtool: {said}; its traceback stands above; nothing was written"
    assert list(tmp_path.glob("qtool-bug-*.txt")) == []


def test_no_room_for_the_traceback(failed, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    code, err = failed(AssertionError())
    assert (code, err.count("\n")) == (3, 1) and "run `qtool --debug ...` again for its traceback" in err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (WorkerError("a worker failed with OSError: gone"), 2, "qtool: a worker failed with OSError: gone\n"),
        (
            OSError(28, "No space left on device"),
            2,
            "qtool: the system: No space left on device; nothing was written\n",
        ),
        (OSError(24, "Too many open files", "a\nb"), 2, "qtool: a\\nb: Too many open files; nothing was written\n"),
        (OSError("odd"), 2, "qtool: the system: OSError: odd; nothing was written\n"),
        (click.ClickException("a\nb."), 2, "qtool: a b\n"),
        (KeyboardInterrupt(), 130, "\nqtool: interrupted; nothing was written\n"),
        (TerminatedError(signal.SIGTERM), 143, "qtool: ended by SIGTERM; nothing was written\n"),
        (TerminatedError(signal.SIGHUP), 129, "qtool: ended by SIGHUP; nothing was written\n"),
    ],
)
def test_what_is_expected_has_its_own_code(failed, error, code, said):
    assert failed(error) == (code, said)


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["--batch-size", "8"], "use --batch-size 1;"),
        (["--threads", "4", "--batch-size=8"], "use --batch-size 1 or --threads 1;"),
        (["--workers", "2"], "use fewer --workers;"),
        ([], "give the process more, since the model and one sample do not fit;"),
    ],
)
def test_the_remedy_for_too_little_memory_is_one_that_is_left(folder, monkeypatch, capsys, words, remedy):
    """The first of these makes the command succeed, as far as a stand-in for the model's memory goes."""

    def hungry(*_, batch_size, threads, executor, **__):
        if batch_size > 1 or threads > 1 or executor is not None or not words:
            raise MemoryError
        raise KeyboardInterrupt

    monkeypatch.setattr("qtool.cli.calibrate.calibrate", hungry)
    with pytest.raises(SystemExit) as caught:
        main(["calibrate", "m.onnx", "--data", "good.npz", *words])
    err = capsys.readouterr().err
    assert caught.value.code == 2 and err.startswith(f"qtool: out of memory; {remedy}") and err.count("\n") == 1
    if words[:1] == ["--batch-size"]:
        with pytest.raises(SystemExit) as caught:
            main(["calibrate", "m.onnx", "--data", "good.npz", "--batch-size", "1"])
        assert caught.value.code == 130
    assert folder


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (TerminatedError(signal.SIGTERM), 143)])
def test_a_checkpoint_is_named_where_a_calibration_is_stopped(monkeypatch, capsys, error, code):
    def stopped(*_, **__):
        Path("new.calib.checkpoint").touch()
        raise error

    monkeypatch.setattr("qtool.cli.calibrate.calibrate", stopped)
    with pytest.raises(SystemExit) as caught:
        main(["calibrate", "m.onnx", "--data", "good.npz", "-o", "new.calib"])
    assert caught.value.code == code
    assert "what was counted stands in new.calib.checkpoint, and the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["merge", "--debug", "x", "-o", "y"], ["--debgu", "merge"]])
def test_where_debug_stands(capsys, words):
    with pytest.raises(SystemExit) as caught:
        main(words)
    err = capsys.readouterr().err
    assert caught.value.code == 2 and err.count("\n") == 1
    assert ("qtool --debug COMMAND" in err) == (words[0] == "merge"), err
    assert os.sep not in err
