"""Pictures that a model makes against those that it should make: PSNR and SSIM."""

import math

import numpy as np

from qtool.core.errors import DataError, UsageError, arg
from qtool.core.text import amount
from qtool.evaluation.metrics.observation import Observation

TARGETS = ("target", "targets", "labels", "label", "y")
_MOST_DB = 100.0
"""Of a picture without any error, so that one such does not make the mean infinite."""
_RADIUS, _SIGMA = 5, 1.5
_K1, _K2 = 0.01, 0.03
_PEAKS = {"u1": 255.0, "u2": 65535.0}


class PictureQuality:
    """The mean over the samples of a measure of one picture against another; subclasses say which.

    The first output with the shape of the targets is compared. `peak` is the largest value that a pixel can have: by
    default 255 and 65535 for targets of 8 and 16 bits, 1 for real ones. NaN in an output makes it NaN.

    Raises:
        UsageError: from `update`: no output has the shape of the targets.
        DataError: from `update`: targets are missing, or larger than the peak.
    """

    def __init__(self, name: str, peak: float | None) -> None:
        self._name = name
        self._peak = peak
        self._sum = 0.0
        self._samples = 0

    def update(self, seen: Observation) -> None:
        """Measure the pictures of one batch. Raises `UsageError` and `DataError`."""
        wanted, output = target_pair(seen, self._name)
        peak = self._peak or default_peak(wanted)
        wanted, output = wanted.astype(np.float64), output.astype(np.float64)
        if np.abs(wanted).max(initial=0.0) > peak:
            raise DataError(
                f"{arg('metric', self._name)}: the targets in {arg('data')} reach {np.abs(wanted).max():.4g}, more "
                f"than {peak:g}; say the largest value of a pixel, such as {arg('metric', self._name + ':255')}"
            )
        for one, other in zip(output, wanted, strict=True):
            self._sum += self._measure(one, other, peak)
            self._samples += 1

    def result(self) -> float:
        """Return the mean over the samples."""
        return self._sum / self._samples

    def _measure(self, output: np.ndarray, wanted: np.ndarray, peak: float) -> float:
        """Return the measure of one picture."""
        raise NotImplementedError


def target_pair(seen: Observation, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the targets of a batch, and the output that is compared with them, of one shape.

    Raises:
        UsageError: no output has the shape of the targets.
        DataError: there are no targets.
    """
    about = arg("metric", metric)
    found = [name for name in TARGETS if name in seen.labels]
    # of another name where nothing else can be meant
    others = [name for name, array in seen.labels.items() if array.ndim > 2 and array.dtype.kind in "uif"]
    found = found or (others if len(others) == 1 else [])
    wanted = seen.labels[found[0]] if found else None
    if wanted is None or wanted.ndim < 3 or wanted.dtype.kind not in "uif":
        raise DataError(
            f"{about}: {arg('data')} has no target pictures; add an array 'target' with the shape of the output, "
            f"or compare with float's own by {arg('metric', 'sqnr')}"
        )
    for name, reference in seen.reference.items():
        output = seen.outputs[name]
        same = _sides(reference.shape) == _sides(wanted.shape) and len(reference) == seen.size
        if same and output.ndim > 2 and output.size == wanted.size > 0 and reference.dtype.kind in "uif":
            return wanted.reshape(output.shape), output
    shapes = ", ".join(f"'{name}' {list(array.shape)}" for name, array in seen.reference.items())
    raise UsageError(
        f"{about}: no output has the shape of '{found[0]}', {list(wanted.shape)} for "
        f"{amount(seen.size, 'sample')}; found {shapes}; give targets as the model makes them"
    )


def default_peak(targets: np.ndarray) -> float:
    """Return the largest value that a pixel of such targets can have."""
    return _PEAKS.get(targets.dtype.str[1:], 1.0)


def _sides(shape: tuple[int, ...]) -> list[int]:
    """The lengths of a sample's axes, those of 1 left out."""
    return [side for side in shape[1:] if side > 1]


class Psnr(PictureQuality):
    """Peak signal to noise ratio, dB: 10 log10(peak^2 / mean squared error) of each picture, at most 100."""

    def _measure(self, output: np.ndarray, wanted: np.ndarray, peak: float) -> float:
        error = float(np.mean((output - wanted) ** 2))
        if math.isnan(error):
            return math.nan
        return min(_MOST_DB, 10 * math.log10(peak * peak / error)) if error > 0 else _MOST_DB


class Ssim(PictureQuality):
    """Structural similarity of each picture: its mean over all places of the window, and over the channels.

    A Gaussian window of 11 x 11, sigma 1.5, K1 = 0.01, K2 = 0.03. Source: Wang et al., Image quality assessment: from
    error visibility to structural similarity (2004), section III.B and C.

    Raises:
        DataError: from `update`, also where a picture is smaller than the window.
    """

    def _measure(self, output: np.ndarray, wanted: np.ndarray, peak: float) -> float:
        x, y = planes_of(output), planes_of(wanted)
        if min(x.shape[1:]) <= 2 * _RADIUS:
            raise DataError(
                f"{arg('metric', self._name)}: the pictures are {list(x.shape[1:])}, smaller than the window of 11 x "
                f"11; use {arg('metric', 'psnr')}"
            )
        mean_x, mean_y = _smooth(x), _smooth(y)
        variance_x, variance_y = _smooth(x * x) - mean_x**2, _smooth(y * y) - mean_y**2
        covariance = _smooth(x * y) - mean_x * mean_y
        c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
        likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
        return float((likeness / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))).mean())


def planes_of(picture: np.ndarray) -> np.ndarray:
    """Return a picture as [channels, height, width]; a last axis of up to 4 is that of the channels."""
    if picture.ndim == 2:
        return picture[None]
    picture = picture.reshape(-1, *picture.shape[-3:])[0] if picture.ndim > 3 else picture
    last = picture.shape[-1] <= 4 < picture.shape[0]
    return np.moveaxis(picture, -1, 0) if last else picture


def _smooth(planes: np.ndarray) -> np.ndarray:
    """The weighted mean in each whole window, [channels, height - 10, width - 10]."""
    weights = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / _SIGMA) ** 2)
    weights /= weights.sum()
    for axis in (1, 2):
        length = planes.shape[axis] - 2 * _RADIUS
        planes = sum(w * planes.take(range(i, i + length), axis=axis) for i, w in enumerate(weights))
    return planes


def peak_of(spec: str) -> float | None:
    """Return the number behind the colon of `psnr:255`, or None without one. Raises `UsageError`."""
    name, colon, text = spec.partition(":")
    if not colon:
        return None
    try:
        peak = float(text)
    except ValueError:
        peak = math.nan
    if not 0 < peak < math.inf:
        raise UsageError(f"{arg('metric', spec)}: write {name}:PEAK with the largest value of a pixel, such as 255")
    return peak
