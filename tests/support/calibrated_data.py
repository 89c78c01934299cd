"""Data for tests of shards, workers and checkpoints: DATA in several forms, and Python that dies when it is told to."""

import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path

import numpy as np

from tests.support.refusals import SAMPLES

MORTAL = '''
import os, pathlib, signal
import numpy

HERE = pathlib.Path(__file__).parent


def samples():
    """The samples; while there is a file `kill` beside this one, the process is killed at the eighth."""
    for index, x in enumerate(numpy.load(HERE / "good.npz")["x"]):
        if index == 7 and (HERE / "kill").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        yield {"x": x[None]}
'''


def mortal(folder: Path) -> str:
    """What good.npz holds, as `file.py:FUNCTION`."""
    if not (folder / "mortal.py").exists():
        (folder / "mortal.py").write_text(MORTAL)
    return f"{folder / 'mortal.py'}:samples"


def array_folder(folder: Path) -> str:
    """A file each sample."""
    home = folder / "arrays"
    home.mkdir()
    for i, x in enumerate(SAMPLES):
        np.savez(home / f"{i}.npz", x=x[None])
    return str(home)


def picture_folder(folder: Path, count: int = 9) -> str:
    """PNG files of 8 x 8."""
    from PIL import Image

    home = folder / "pictures"
    home.mkdir()
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(home / f"{i}.png")
    return str(home)


def killer(victims: Sequence[int]) -> tuple[Callable[[str, int, int | None], None], list[int]]:
    """A progress that, once three samples are counted, kills the first of the processes; it tells whom it killed."""
    killed: list[int] = []

    def progress(_step: str, done: int, _total: int | None) -> None:
        if done >= 3 and not killed:
            killed.append(victims[0])
            os.kill(victims[0], signal.SIGKILL)

    return progress, killed


def busy_pid(_number: int) -> int:
    """Of the process, which is at it for a moment, so that others take part."""
    time.sleep(0.05)
    return os.getpid()


def pids(executor: Executor) -> list[int]:
    """Of all processes of an executor."""
    futures = [executor.submit(busy_pid, n) for n in range(30)]
    return sorted({future.result() for future in futures})


def half_said(begun: str) -> None:
    """Send the beginning of a result from a worker process, tell so by making a file, and wait to be stopped."""
    frame = sys._getframe()
    while "result_queue" not in frame.f_locals:
        assert frame.f_back is not None
        frame = frame.f_back
    # the length of what follows, and less than that
    frame.f_locals["result_queue"]._writer._send(struct.pack("!i", 1000) + b"0123456789")
    Path(begun).touch()
    time.sleep(600)
