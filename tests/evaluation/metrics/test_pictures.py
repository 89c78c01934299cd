"""PSNR and SSIM against their definitions, with scipy's filters."""

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from qtool.core.errors import DataError, UsageError
from qtool.evaluation.metrics.heads import NO_HEADS
from qtool.evaluation.metrics.observation import Observation
from qtool.evaluation.metrics.registry import resolve_metric

RNG = np.random.default_rng(9)
TARGET = RNG.random((5, 3, 20, 24))
OUTPUT = np.clip(TARGET + RNG.normal(0, 0.1, TARGET.shape), 0, 1)


def measured(name, outputs, targets, *, size=2, key="target", reference=None):
    sums = resolve_metric(name).start(NO_HEADS)
    for start in range(0, len(outputs), size):
        cut = slice(start, start + size)
        y = {"y": outputs[cut]}
        exact = y if reference is None else {"y": reference[cut]}
        sums.update(Observation("m.onnx", y, exact, {key: targets[cut]}, start, len(outputs[cut])))
    return sums.result()


def psnr(output, target, peak):
    return np.mean([10 * np.log10(peak**2 / ((a - b) ** 2).mean()) for a, b in zip(output, target, strict=True)])


def ssim(output, target, peak):
    """Wang et al. (2004), equations 13 to 17, with scipy's Gaussian cut off at 5 pixels."""

    def smooth(plane):
        return gaussian_filter(plane, 1.5, truncate=3.5)[5:-5, 5:-5]

    found = []
    for x, y in zip(output.reshape(-1, *output.shape[2:]), target.reshape(-1, *target.shape[2:]), strict=True):
        mx, my = smooth(x), smooth(y)
        vx, vy, vxy = smooth(x * x) - mx * mx, smooth(y * y) - my * my, smooth(x * y) - mx * my
        c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
        found.append((((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())
    return np.mean(found)


@pytest.mark.parametrize("key", ["target", "labels", "y", "sharp"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_they_are_their_definitions(size, key):
    assert measured("psnr", OUTPUT, TARGET, size=size, key=key) == pytest.approx(psnr(OUTPUT, TARGET, 1))
    assert measured("ssim", OUTPUT, TARGET, size=size, key=key) == pytest.approx(ssim(OUTPUT, TARGET, 1))


def test_the_peak_is_that_of_the_type_or_what_is_said():
    output, target = OUTPUT * 255, TARGET * 255
    small = target.astype(np.uint8)
    assert measured("psnr", output, small) == pytest.approx(psnr(output, small.astype(float), 255))
    assert measured("ssim:255", output, target) == pytest.approx(measured("ssim", OUTPUT, TARGET))
    assert measured("psnr:255", output, target) == pytest.approx(measured("psnr", OUTPUT, TARGET))
    with pytest.raises(DataError, match=r"the targets in data reach 25.*more than 1; say .* such as metric='psnr:255'"):
        measured("psnr", output, target)


def test_forms_of_pictures():
    last = measured("ssim", OUTPUT.transpose(0, 2, 3, 1), TARGET.transpose(0, 2, 3, 1))
    assert last == pytest.approx(measured("ssim", OUTPUT, TARGET))
    gray = measured("ssim", OUTPUT[:, :1], TARGET[:, 0])
    assert gray == pytest.approx(ssim(OUTPUT[:, :1], TARGET[:, :1], 1))
    assert measured("psnr", OUTPUT.astype(np.float16), TARGET) == pytest.approx(psnr(OUTPUT, TARGET, 1), abs=0.01)


def test_equal_and_broken_pictures():
    assert measured("psnr", TARGET, TARGET) == 100.0
    assert measured("ssim", TARGET, TARGET) == pytest.approx(1.0)
    broken = OUTPUT.copy()
    broken[3, 0, 0, 0] = np.nan
    for name in ("psnr", "ssim"):
        assert math.isnan(measured(name, broken, TARGET, reference=OUTPUT))


def test_what_cannot_be_measured():
    with pytest.raises(DataError, match="has no target pictures; add an array 'target'"):
        measured("psnr", OUTPUT, TARGET[:, 0, 0], key="else")
    with pytest.raises(
        UsageError, match=r"no output has the shape of 'target', \[2, 3, 20, 20\].*found 'y' \[2, 3, 20, 24\]"
    ):
        measured("psnr", OUTPUT, TARGET[..., :20])
    with pytest.raises(DataError, match="smaller than the window of 11 x 11; use metric='psnr'"):
        measured("ssim", OUTPUT[..., :9], TARGET[..., :9])
    for spec in ("psnr:", "ssim:x", "psnr:-1", "psnr:inf"):
        with pytest.raises(UsageError, match=f"metric='{spec}': write {spec[:4]}:PEAK"):
            resolve_metric(spec)
