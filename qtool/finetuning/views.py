"""Pictures in other views, to train on: mirrored, shifted, with more or less contrast. The float model runs on them.

What is learned is what the float model gives for whatever it is fed, so that a view needs no label. A hundred pictures
are learned by heart; of their views there is no end. Source: Krizhevsky et al. 2012, section 4.1 (shifts and mirrored
pictures, against overfitting).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Arrays = Mapping[str, np.ndarray]
_COLOURS = 3
_SMALLEST = 16
_PART = 8
"""A picture is shifted by at most this part of its height and width, its edges mirrored."""
_CONTRAST = 0.15
"""The standard deviation of the logarithm of what contrast is multiplied with."""


def picture_of(sample: Arrays) -> tuple[str, int] | None:
    """Return the input of a sample that is its one picture in colour, and the axis of its height; None without one.

    That is the one float input of four axes, with three colours on the second or the last of them.
    """
    found = [name for name, array in sample.items() if array.ndim == 4 and array.dtype.kind == "f"]
    if len(found) != 1:
        return None
    shape = sample[found[0]].shape
    for colours, height in ((1, 2), (3, 1)):
        if shape[colours] == _COLOURS and min(shape[height : height + 2]) >= _SMALLEST:
            return found[0], height
    return None


def view(sample: Arrays, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Return a sample with its pictures as another view of them; as it is where it has none, see `picture_of`.

    A picture keeps to its least and greatest value.
    """
    picture = picture_of(sample)
    if picture is None:
        return dict(sample)
    name, height = picture
    return {**sample, name: np.concatenate([_seen(one[None], height, random) for one in sample[name]])}


@dataclass(frozen=True, slots=True)
class Views(Sequence[Arrays]):
    """Samples, each in so many views, one behind the other; made where they are read. `seed`: of the views."""

    samples: Sequence[Arrays]
    each: int
    seed: int

    def __len__(self) -> int:
        return len(self.samples) * self.each

    def __getitem__(self, index: int) -> Arrays:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return view(self.samples[index // self.each], np.random.default_rng([self.seed, index]))


def _seen(x: np.ndarray, height: int, random: np.random.Generator) -> np.ndarray:
    mirrored = bool(random.random() < 0.5)
    pads, cut = [(0, 0)] * 4, [slice(None)] * 4
    for axis in (height, height + 1):
        most = x.shape[axis] // _PART
        pads[axis], start = (most, most), int(random.integers(0, 2 * most + 1))
        cut[axis] = slice(start, start + x.shape[axis])
    shifted = np.pad(np.flip(x, height + 1) if mirrored else x, pads, mode="reflect")[tuple(cut)]
    mean, factor = shifted.mean(dtype=np.float64), np.exp(random.normal(0.0, _CONTRAST))
    result: np.ndarray = np.clip((shifted - mean) * factor + mean, x.min(), x.max()).astype(x.dtype)
    return result
