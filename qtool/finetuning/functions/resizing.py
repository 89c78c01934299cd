"""Resize, an axis after the other. Source: ONNX, "Resize"; onnxruntime core/providers/cpu/tensor/upsample.cc.

Coordinates are found in float32, as onnxruntime finds them: where one falls between two elements, a bit decides.
"""

import math

import numpy as np
import torch
from torch import Tensor

from qtool.finetuning.calls import Call, numbers

Array = np.ndarray
_COORDINATES = {"half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"}


def resizes(call: Call) -> str | None:
    """Return why a Resize has no function; None where it has."""
    mode = call.get("coordinate_transformation_mode", "half_pixel")
    if call.opset < 11:
        return "of an opset below 11"
    if mode not in _COORDINATES:
        return f"has coordinate_transformation_mode {mode}"
    if call.get("antialias", 0) and call.get("mode", "nearest") != "nearest":
        return "smooths what it makes smaller (antialias)"
    return None


def resize(
    call: Call, x: Tensor, _roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    """Return a tensor with other lengths of its axes, its elements the nearest, or of lines or cubics between them."""
    axes = [int(a) % x.ndim for a in call.get("axes") or range(x.ndim)]
    if sizes is not None and sizes.numel():
        lengths, factors = _by_sizes(call, [x.shape[a] for a in axes], numbers(sizes))
    else:
        assert scales is not None
        factors = [float(f) for f in scales.tolist()]
        lengths = [math.floor(np.float32(x.shape[a]) * np.float32(f)) for a, f in zip(axes, factors, strict=True)]
    for axis, length, factor in zip(axes, lengths, factors, strict=True):
        if length != x.shape[axis] or factor != 1.0:
            x = _along(call, x, axis, length, factor)
    return x


def _by_sizes(call: Call, before: list[int], wanted: list[int]) -> tuple[list[int], list[float]]:
    policy = call.get("keep_aspect_ratio_policy", "stretch")
    factors = [float(np.float32(w) / np.float32(n)) for n, w in zip(before, wanted, strict=True)]
    if policy == "stretch":
        return wanted, factors
    factor = min(factors) if policy == "not_larger" else max(factors)
    return [math.floor(np.float32(factor) * np.float32(n) + np.float32(0.5)) for n in before], [factor] * len(before)


def _along(call: Call, x: Tensor, axis: int, length: int, factor: float) -> Tensor:
    size = x.shape[axis]
    places = _coordinates(call, size, length, np.float32(factor))
    if call.get("mode", "nearest") == "nearest":
        nearest = np.clip(_nearest(call, places), 0, size - 1).astype(np.int64)
        return x.index_select(axis, torch.from_numpy(nearest).to(x.device))
    taps, weights = _linear(places, size) if call.get("mode") == "linear" else _cubic(call, places, size)
    shape = [-1 if a == axis else 1 for a in range(x.ndim)]
    made = None
    for tap, weight in zip(taps, weights, strict=True):
        taken = x.index_select(axis, torch.from_numpy(tap.astype(np.int64)).to(x.device))
        part = taken * torch.from_numpy(weight).to(x).reshape(shape)
        made = part if made is None else made + part
    assert made is not None
    return made


def _coordinates(call: Call, size: int, length: int, factor: np.float32) -> Array:
    """Where in the input each element of the output lies."""
    x = np.arange(length, dtype=np.float32)
    half = np.float32(0.5)
    match call.get("coordinate_transformation_mode", "half_pixel"):
        case "align_corners":
            if length == 1:
                return np.zeros(1, np.float32)
            return np.asarray(x * np.float32(size - 1) / np.float32(length - 1))
        case "asymmetric":
            return np.asarray(x / factor)
        case "pytorch_half_pixel" if length == 1:
            return np.zeros(1, np.float32)
        case "half_pixel_symmetric":
            real = factor * np.float32(size)
            offset = np.float32(size) / 2 * (1 - np.float32(length) / real)
            return np.asarray(offset + (x + half) / factor - half, np.float32)
    return np.asarray((x + half) / factor - half)


def _nearest(call: Call, places: Array) -> Array:
    half = np.float32(0.5)
    rounded: dict[str, Array] = {
        "floor": np.floor(places),
        "ceil": np.ceil(places),
        "round_prefer_floor": np.ceil(places - half),
        "round_prefer_ceil": np.floor(places + half),
    }
    return rounded[call.get("nearest_mode", "round_prefer_floor")]


def _linear(places: Array, size: int) -> tuple[list[Array], list[Array]]:
    """The two elements around each place, and their weights."""
    places = np.clip(places, 0, np.float32(size - 1))
    low = np.minimum(np.floor(places), size - 1)
    high = np.minimum(low + 1, size - 1)
    part = (places - low).astype(np.float32)
    return [low, high], [1 - part, part]


def _cubic(call: Call, places: Array, size: int) -> tuple[list[Array], list[Array]]:
    """The four elements around each place, and their weights."""
    a = np.float32(call.get("cubic_coeff_a", -0.75))
    low = np.floor(places)
    t = (places - low).astype(np.float32)
    u = 1 - t
    weights = [
        ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a,
        ((a + 2) * t - (a + 3)) * t * t + 1,
        ((a + 2) * u - (a + 3)) * u * u + 1,
        ((a * (u + 1) - 5 * a) * (u + 1) + 8 * a) * (u + 1) - 4 * a,
    ]
    taps = [low + i for i in (-1, 0, 1, 2)]
    if call.get("exclude_outside", 0):
        weights = [np.where((tap < 0) | (tap >= size), 0, w) for tap, w in zip(taps, weights, strict=True)]
        total = np.sum(weights, axis=0)
        weights = [w / total for w in weights]
    return [np.clip(tap, 0, size - 1) for tap in taps], [w.astype(np.float32) for w in weights]
