"""The command line: parse, call one function, render. click and tqdm live only here."""

import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from qtool.core.process import collect_rarely, end_now, run_program, settle, silenced, watch_signals

# name -> one-sentence help; the module qtool.cli.NAME holds `command`, imported only when it is used
COMMANDS = {
    "calibrate": "Collect the statistics of every activation in one streaming pass.",
    "merge": "Add calibration files together: shards, or several of one model.",
    "quantize": "Write the int8 model, and verify what onnxruntime will really run.",
    "sensitivity": "Rank the layers by what it costs to quantise them, as executed.",
    "tune": "Find an int8 model within a target of accuracy: the whole workflow.",
    "finetune": "Train an int8 model to give what the float one gives; no labels are needed.",
    "inspect": "Tell what a model of any maker is, what onnxruntime runs of it, and what to do about it.",
    "eval": "Compare the accuracy, size and latency of models with the float one.",
    "diff": "Tell what two int8 models, calibration files or plans differ in.",
    "report": "Make one page of what the others found, to be opened in a browser.",
    "schema": "Print the JSON Schema of all that --json writes.",
}


_begun: list[float] = []


def since_start() -> float:
    """Return the seconds since this program began, 0 where it is not `run` as one."""
    return time.monotonic() - _begun[0] if _begun else 0.0


def __getattr__(name: str) -> object:
    """Import the group of commands once it is wanted."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from qtool.cli.group import app

    return app


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 a gate failed, 2 wrong usage or bad input, 3 a bug of qtool.

    130 is interrupted, 143 and 129 are ended by SIGTERM and SIGHUP.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        from qtool.cli.group import ran

        code = ran(words)
    except BaseException as error:  # whatever it is, it ends in a line and a code
        code = _told(error, words)
    sys.exit(code)


def _told(error: BaseException, words: Sequence[str]) -> int:
    """Tell of an error, and return its exit code; of a signal that comes meanwhile, too."""
    try:
        from qtool.cli.failures import ended

        return ended(error, words)
    except BaseException as other:
        from qtool.cli.failures import ended

        return ended(other, words)


def debugging(words: Sequence[str]) -> bool:
    """Return whether the command line has `--debug`, which stands before the command."""
    for word in words:
        if word in COMMANDS:
            return False
        if word == "--debug":
            return True
    return False


def run() -> NoReturn:
    """Run the command line as a program: `main` with the signals and streams of the process, and its end."""
    _begun.append(time.monotonic())
    run_program(_program)


def _program() -> None:
    words = sys.argv[1:]
    try:
        watch_signals(_end)
        collect_rarely()
        from qtool.cli import outputs, streams
        from qtool.cli.group import ran

        streams.prepare()
        outputs.note_reads()
        with silenced(not debugging(words)):
            code = ran(words)
        settle(code)
    except BaseException as error:
        code = _told(error, words)
        settle(code)
    sys.exit(code)


def _end(number: int) -> NoReturn:
    """End the process at once, and leave nothing unfinished behind."""
    code = 128 + number
    try:
        from qtool.cli.failures import stopped
        from qtool.core.files import drop_unfinished
        from qtool.core.scratch import drop_all_scratch

        drop_unfinished()
        drop_all_scratch()
        code = stopped(number)
    except Exception:  # in the middle of an import
        pass
    end_now(code)
