"""What was done to the float graph before quantisation beyond the folding that every model gets, as data.

Calibration files and plans carry it: whoever reads one prepares the model the same way, without the data that decided.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

EQUALIZE = "equalize"
ABSORB_BIASES = "absorb-biases"
SMOOTH = "smooth"
SOFTEN_MASKS = "soften-masks"
STEPS = (EQUALIZE, ABSORB_BIASES, SOFTEN_MASKS, SMOOTH)
_LARGEST = 2.0**128 - 2.0**104

Channels = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Steps, and what they decided.

    steps: which of `STEPS` were asked for, in their order; a step may have found nothing to do.
    scales: output of a layer -> what each of its channels is divided by (positive).
    shifts: output of a layer -> by how much each of its channels is lowered, after `scales` (not negative).
    smoothing: input of a layer -> what each of its channels is divided by (positive), and the weight multiplied by.
    """

    steps: tuple[str, ...] = ()
    scales: Channels = field(default_factory=dict)
    shifts: Channels = field(default_factory=dict)
    smoothing: Channels = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "steps": list(self.steps),
            "scales": {tensor: list(row) for tensor, row in self.scales.items()},
            "shifts": {tensor: list(row) for tensor, row in self.shifts.items()},
            "smoothing": {tensor: list(row) for tensor, row in self.smoothing.items()},
        }


def read_recipe(data: Any, where: str = "preparation") -> Recipe:
    """The inverse of `to_dict`. Raises `ValueError` for anything else than it writes."""
    if not isinstance(data, dict) or set(data) != {"steps", "scales", "shifts", "smoothing"}:
        raise ValueError(f"{where}: an object with steps, scales, shifts and smoothing is needed")
    steps = data["steps"]
    if not isinstance(steps, list) or steps != [step for step in STEPS if step in steps]:
        raise ValueError(f"{where}.steps: some of {', '.join(STEPS)}, in this order, are needed")
    scales = _channels(data["scales"], f"{where}.scales", positive=True)
    shifts = _channels(data["shifts"], f"{where}.shifts", positive=False)
    smoothing = _channels(data["smoothing"], f"{where}.smoothing", positive=True)
    for step, numbers in ((EQUALIZE, scales), (ABSORB_BIASES, shifts), (SMOOTH, smoothing)):
        if numbers and step not in steps:
            raise ValueError(f"{where}.steps: one is missing whose numbers are there")
    return Recipe(tuple(steps), scales, shifts, smoothing)


def _channels(data: Any, where: str, *, positive: bool) -> dict[str, tuple[float, ...]]:
    if not isinstance(data, dict):
        raise ValueError(f"{where}: an object is needed")
    return {tensor: _numbers(row, f"{where}[{tensor!r}]", positive) for tensor, row in data.items()}


def _numbers(row: Any, where: str, positive: bool) -> tuple[float, ...]:
    if not isinstance(row, list) or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in row):
        raise ValueError(f"{where}: a list of numbers is needed")
    if not all(math.isfinite(n) and 0.0 <= n <= _LARGEST and (n > 0.0 or not positive) for n in row):
        raise ValueError(f"{where}: {'positive' if positive else 'no negative'} float32 numbers are needed")
    return tuple(map(float, row))
