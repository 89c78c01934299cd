"""The doubts that data raises: inputs unlike those that calibrated, labels that the float model does not know."""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qtool.core.errors import QtoolError
from qtool.core.records.evaluation import ModelResult
from qtool.core.records.recipe import CALIBRATED
from qtool.evaluation.metrics.heads import LABELS, ClassOutput, predictions
from qtool.graph import edit, model_io

_LEAST = 8
"""Fewer samples say nothing of their range, and nothing of their labels."""
_UNUSED = 0.4
"""At one end of the grid of an input, as a share of it."""
_OUTSIDE = 0.5
"""Of the grid beyond which the bulk of the values (two standard deviations about their mean) may reach."""
_CHANCE_LEAST = 30
_SHIFTED, _FEW_SHIFTED = 0.25, 0.5
"""By so much more labels must be right when they are one higher or lower than they are; of fewer than `_CHANCE_LEAST`,
by the second."""
_LARGE = 1e12
"""Squares of larger ones may not fit into float32."""
Grid = tuple[float, float]


@dataclass(slots=True)
class Spread:
    """The extremes, and the sums, of the values of an input."""

    low: float = math.inf
    high: float = -math.inf
    total: float = 0.0
    squares: float = 0.0
    count: int = 0

    @classmethod
    def of(cls, array: np.ndarray) -> "Spread":
        """Return the spread of the finite values of an array of real numbers."""
        flat = array.reshape(-1).astype(np.float32, copy=False)
        if not flat.size:
            return cls()
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            return cls.of(flat[np.isfinite(flat)])
        if max(high, -low) > _LARGE:
            flat = flat.astype(np.float64)
        return cls(low, high, float(flat.sum(dtype=np.float64)), float(flat @ flat), flat.size)

    def add(self, other: "Spread") -> None:
        """Add those of another array."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.total += other.total
        self.squares += other.squares
        self.count += other.count

    @property
    def bulk(self) -> Grid:
        """The least and the greatest of what most values lie between."""
        mean = self.total / max(self.count, 1)
        width = 2 * math.sqrt(max(self.squares / max(self.count, 1) - mean**2, 0.0))
        return max(self.low, mean - width), min(self.high, mean + width)


def input_grids(path: Path) -> dict[str, Grid]:
    """Return the least and the greatest value that a model knows of each of its inputs.

    Of one that it quantises at once by the grid, of others by what `quantize` noted of calibration.
    """
    try:
        model = model_io.load(path).model
    except QtoolError:
        return {}
    found: dict[str, Grid] = {}
    for value in model.graph.inputs:
        with suppress(KeyError, ValueError):
            low, high = map(float, model.metadata_props[f"{CALIBRATED}{value.name}"].split(","))
            if math.isfinite(low) and math.isfinite(high):
                found[str(value.name)] = low, high
        for node in edit.consumers(value):
            if not edit.is_main_op(node, "QuantizeLinear") or len(node.inputs) < 3:
                continue
            scale, zero = (edit.constant_or_none(v) for v in node.inputs[1:3])
            if scale is None or zero is None or scale.size != 1 or zero.dtype.kind not in "iu":
                continue
            ends = np.iinfo(zero.dtype)
            low, high = ((end - int(zero.reshape(-1)[0])) * float(scale.reshape(-1)[0]) for end in (ends.min, ends.max))
            found[str(value.name)] = low, high
    return found


def input_doubts(name: str, grids: Mapping[str, Grid], spreads: Mapping[str, Spread], samples: int) -> list[str]:
    """Return a line for each input of a model whose data is unlike what calibrated it."""
    result = []
    for tensor, grid in grids.items():
        low, high = grid
        spread, size = spreads.get(tensor), high - low
        if spread is None or not spread.count or size <= 0.0:
            continue
        least, greatest = spread.bulk
        beyond = max(low - least, greatest - high) > _OUTSIDE * size
        unused = samples >= _LEAST and _unused(grid, spread) > _UNUSED
        if beyond or unused:
            what = "most values lie outside of it" if beyond else "much of it is not used"
            result.append(
                f"{name}: input '{tensor}' was calibrated for {low:.4g} to {high:.4g}, and the data is "
                f"{spread.low:.4g} to {spread.high:.4g}: {what}; check that it is preprocessed as for calibration "
                "(division by 255, mean and standard deviation)"
            )
    return result


def _unused(grid: Grid, spread: Spread) -> float:
    """The share of a grid that lies unused at one of its ends.

    An end at 0 says nothing, for every grid holds that; a grid that is symmetric may be so without need.
    """
    low, high = grid
    if abs(low + high) < 0.02 * high:
        return 1.0 - max(-spread.low, spread.high) / high
    step = (high - low) / 255
    ends = [spread.low - low] * (low < -step) + [high - spread.high] * (high > step)
    return max(ends, default=0.0) / (high - low)


class LabelDoubts:
    """Counts how often float is right by the labels, and by labels that are one more or less; classes: of an output."""

    def __init__(self, output: ClassOutput) -> None:
        self._output = output
        self._right = {0: 0, 1: 0, -1: 0}
        self._count = 0
        self._labels: dict[int, int] = {}

    def update(self, outputs: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]) -> None:
        """Add the float model's outputs for a batch, and its labels, which a metric has checked."""
        wanted, scores = labels.get(LABELS), outputs[self._output.name]
        if wanted is None or wanted.dtype.kind not in "iu" or wanted.ndim != 1 or len(scores) != len(wanted):
            return
        said = predictions(scores.reshape(len(scores), -1), self._output)[0]
        if said.shape != wanted.shape:
            return
        for shift in self._right:
            self._right[shift] += int((said == wanted.astype(np.int64) + shift).sum())
        self._count += len(wanted)

    def lines(self, name: str) -> list[str]:
        """Return what the labels say against themselves, of the float model called `name`."""
        classes = self._output.classes
        if classes is None or self._count < _LEAST:
            return []
        right, count = self._right[0] / self._count, self._count
        many = count >= _CHANCE_LEAST
        for shift in (1, -1):
            shifted = self._right[shift] / count
            if classes > 2 and shifted > right + (_SHIFTED if many else _FEW_SHIFTED) and shifted > 2 * right:
                more = "more" if shift == 1 else "less"
                return [
                    f"{name} is right on {100 * right:.1f} % of the labels, and on {100 * shifted:.1f} % if each is "
                    f"one {more}: its classes are counted from another number; correct the labels"
                ]
        chance = 1.0 / classes
        if many and right <= chance + 2 * math.sqrt(chance * (1 - chance) / count):
            return [
                f"{name} is right on {100 * right:.1f} % of the labels, no better than guessing among {classes} "
                "classes; check that the labels are of this data and in its order, and the preprocessing"
            ]
        return []


def nothing_right(model: ModelResult) -> list[str]:
    """Return a line for each metric over classes of boxes or pixels of which float has nothing at all."""
    return [
        f"{model.name}: {score.metric} is 0 in float; check how pictures are preprocessed and outputs decoded, and "
        "that classes of labels count from 0 as the model's"
        for score in model.scores
        if score.by_class and score.value == 0
    ]


def spreads_of(inputs: Mapping[str, np.ndarray]) -> dict[str, Spread]:
    """Return the spread of each input that holds real numbers."""
    return {name: Spread.of(array) for name, array in inputs.items() if array.dtype.kind == "f"}


def add_spreads(total: dict[str, Spread], found: Mapping[str, Spread]) -> None:
    """Add the spreads of one batch to those of all before."""
    for name, spread in found.items():
        total.setdefault(name, Spread()).add(spread)


def all_doubts(
    grids: Iterable[tuple[str, Mapping[str, Grid]]], spreads: Mapping[str, Spread], samples: int, labels: Sequence[str]
) -> tuple[str, ...]:
    """Return all lines: of the labels, and of the inputs of each model by its name."""
    return (*labels, *(line for name, grid in grids for line in input_doubts(name, grid, spreads, samples)))
