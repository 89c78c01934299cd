"""Data for tests of shards, workers and checkpoints: DATA in several forms, and Python that dies when it is told to."""

from pathlib import Path

import numpy as np

from tests.refusals import SAMPLES

MORTAL = '''
import multiprocessing, os, pathlib, signal, time
import numpy

HERE = pathlib.Path(__file__).parent


def samples():
    """The samples; the process that is told to be killed is, once, at the eighth."""
    for index, x in enumerate(numpy.load(HERE / "good.npz")["x"]):
        if index == 7 and multiprocessing.parent_process() is not None:
            try:
                (HERE / "once").unlink()
            except FileNotFoundError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        if index == 7 and (HERE / "always").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        yield {"x": x[None]}
'''
"""`samples` yields what good.npz holds. A file `once` beside it lets one worker die, `always` every process."""


def mortal(folder: Path) -> str:
    """DATA, as `file.py:FUNCTION`."""
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
