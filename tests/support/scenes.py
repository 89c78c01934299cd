"""calib_data/scenes_data.py, which is a script and no module of a package, and what it makes as data for qtool."""

import runpy
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.support.places import SHIPPED

SCRIPT = SHIPPED / "scenes_data.py"


def script() -> SimpleNamespace:
    """What stands in the script, by name."""
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def boxes(scenes: Any) -> dict[str, np.ndarray]:
    """Inputs and labels for the detector."""
    return {"images": scenes.input, "boxes": scenes.boxes, "classes": scenes.classes}


def masks(scenes: Any) -> dict[str, np.ndarray]:
    """Inputs and labels for the U-Net."""
    return {"images": scenes.input, "labels": scenes.masks.astype(np.int64)}
