"""Functions that move, select, join and make elements. Source: the operators' pages of ONNX."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from qtool.finetuning.calls import NUMBERS, TYPES, Call, listed, numbers, tensor_of
from qtool.finetuning.functions.layers import padded


def identity(_call: Call, x: Tensor, *_others: Tensor) -> Tensor:
    """Return what came."""
    return x


def dropout(_call: Call, x: Tensor, *_others: Tensor) -> tuple[Tensor, Tensor]:
    """Return what came, and that all of it stays."""
    return x, torch.ones_like(x, dtype=torch.bool)


def drops_nothing(call: Call) -> str | None:
    """Return why a Dropout is none of inference; None where it is."""
    return "is told whether to train" if call.has(2) else None


def constant(call: Call) -> Tensor:
    """Return what a node holds."""
    for name, kind in (("value_float", np.float32), ("value_floats", np.float32)):
        if name in call.attributes:
            return tensor_of(np.asarray(call.get(name), kind))
    for name in ("value_int", "value_ints"):
        if name in call.attributes:
            return tensor_of(np.asarray(call.get(name), np.int64))
    return tensor_of(call.get("value"))


def holds_numbers(call: Call) -> str | None:
    """Return why a Constant holds no numbers; None where it does."""
    plain = {"value", "value_float", "value_floats", "value_int", "value_ints"} & set(call.attributes)
    return None if plain else "is no tensor of numbers"


def constant_of_shape(call: Call, shape: Tensor) -> Tensor:
    """Return a tensor of one value."""
    value = call.get("value")
    filled = torch.zeros(1) if value is None else tensor_of(value)
    return filled.to(shape.device).reshape(()).expand(numbers(shape)).contiguous()


def shape_of(call: Call, x: Tensor) -> Tensor:
    """Return the lengths of the axes, or of some of them."""
    return torch.tensor(x.shape[call.get("start", 0) : call.get("end")], dtype=torch.int64, device=x.device)


def size_of(_call: Call, x: Tensor) -> Tensor:
    """Return the number of elements."""
    return torch.tensor(x.numel(), dtype=torch.int64, device=x.device)


def arange(_call: Call, start: Tensor, limit: Tensor, step: Tensor) -> Tensor:
    """Return numbers with a step between them."""
    count = max(math.ceil((limit.item() - start.item()) / step.item()), 0)
    return start + torch.arange(count, dtype=start.dtype, device=start.device) * step


def eye_like(call: Call, x: Tensor) -> Tensor:
    """Return ones on a diagonal."""
    ones = torch.ones(x.shape, device=x.device)
    offset, kind = int(call.get("k", 0)), call.get("dtype")
    return (torch.triu(ones, offset) * torch.tril(ones, offset)).to(x.dtype if kind is None else TYPES[NUMBERS[kind]])


def reshape(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    """Return a tensor of another shape; 0 stands for the length that was, unless the node says it is meant."""
    sizes = numbers(shape)
    if not call.get("allowzero", 0):
        sizes = [x.shape[i] if n == 0 else n for i, n in enumerate(sizes)]
    if -1 in sizes and x.numel() == 0:
        rest = math.prod(n for n in sizes if n != -1)
        sizes = [(0 if rest == 0 else x.numel() // rest) if n == -1 else n for n in sizes]
    return x.reshape(sizes)


def flatten(call: Call, x: Tensor) -> Tensor:
    """Return a matrix, with all axes up to one as rows."""
    axis = int(call.get("axis", 1))
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def transpose(call: Call, x: Tensor) -> Tensor:
    """Return a tensor with its axes in another order."""
    return x.permute(list(call.get("perm") or reversed(range(x.ndim))))


def squeeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Return a tensor without axes of length 1."""
    found = listed(call, "axes", axes)
    return x.squeeze() if found is None else x.squeeze(tuple(found)) if found else x


def unsqueeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Return a tensor with more axes of length 1."""
    found = listed(call, "axes", axes) or []
    rank = x.ndim + len(found)
    for axis in sorted(a % rank for a in found):
        x = x.unsqueeze(axis)
    return x


def expand(_call: Call, x: Tensor, shape: Tensor) -> Tensor:
    """Return a tensor broadcast with a shape."""
    return x.expand(torch.broadcast_shapes(x.shape, tuple(numbers(shape))))


def tile(_call: Call, x: Tensor, repeats: Tensor) -> Tensor:
    """Return a tensor repeated along its axes."""
    return x.repeat(numbers(repeats))


def concat(call: Call, *parts: Tensor) -> Tensor:
    """Return tensors joined along an axis."""
    return torch.cat(parts, int(call.get("axis", 0)))


def split(call: Call, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    """Return parts along an axis: of given lengths, or as many as there are outputs."""
    axis = int(call.get("axis", 0))
    lengths = listed(call, "split", sizes)
    if lengths is None:
        count = int(call.get("num_outputs", len(call.outputs)))
        each, total = -(-x.shape[axis] // count), x.shape[axis]
        lengths = [max(min(each, total - i * each), 0) for i in range(count)]
    parts: tuple[Tensor, ...] = torch.split(x, lengths, axis)
    return parts


def slice_of(
    call: Call,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    """Return ranges along axes, backwards where a step is negative."""
    first, last = listed(call, "starts", starts) or [], listed(call, "ends", ends) or []
    which = listed(call, "axes", axes) or list(range(len(first)))
    by = listed(call, "steps", steps) or [1] * len(first)
    for start, end, axis, step in zip(first, last, which, by, strict=True):
        size = x.shape[axis]
        taken = range(*slice(start, end, step).indices(size))
        if taken.step > 0:
            index: list[Any] = [slice(None)] * x.ndim
            index[axis] = slice(taken.start, max(taken.stop, taken.start), taken.step)
            x = x[tuple(index)]
        else:
            x = x.index_select(axis, torch.tensor(list(taken), dtype=torch.int64, device=x.device))
    return x


def gather(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """Return what stands at indices along an axis; negative ones count from the end."""
    axis = int(call.get("axis", 0)) % x.ndim
    flat = _positive(indices, x.shape[axis]).reshape(-1)
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    return x.index_select(axis, flat).reshape(shape)


def gather_elements(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """Return the elements at indices along an axis, each at its own place along all others."""
    axis = int(call.get("axis", 0))
    return x.gather(axis, _positive(indices, x.shape[axis]))


def gather_nd(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """Return what stands at tuples of indices."""
    batch = int(call.get("batch_dims", 0))
    count = math.prod(x.shape[:batch])
    data = x.reshape(count, *x.shape[batch:])
    places = indices.reshape(count, -1, indices.shape[-1])
    rows = torch.arange(count, device=x.device).unsqueeze(1)
    index = [_positive(places[..., i], data.shape[i + 1]) for i in range(places.shape[-1])]
    made = data[(rows, *index)]
    return made.reshape(*indices.shape[:-1], *made.shape[2:])


def scatter_elements(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Return a tensor with elements replaced along an axis."""
    axis = int(call.get("axis", 0))
    places = _positive(indices, x.shape[axis])
    return x.scatter(axis, places, updates) if _replaces(call) else x.scatter_add(axis, places, updates)


def scatter_nd(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Return a tensor with what stands at tuples of indices replaced."""
    places = tuple(_positive(indices[..., i], x.shape[i]) for i in range(indices.shape[-1]))
    return x.index_put(places, updates, accumulate=not _replaces(call))


def _replaces(call: Call) -> bool:
    return bool(call.get("reduction", "none") == "none")


def scatters(call: Call) -> str | None:
    """Return why what is scattered is neither put nor added; None where it is."""
    kind = call.get("reduction", "none")
    return None if kind in ("none", "add") else f"reduces what it scatters by {kind}"


def _positive(indices: Tensor, size: int) -> Tensor:
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + size, indices)


def pad(
    call: Call, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    """Return a tensor padded by a value or by its own elements; negative numbers cut."""
    given = listed(call, "pads", pads) or []
    which = [a % x.ndim for a in numbers(axes)] if axes is not None else list(range(x.ndim))
    begins, ends = [0] * x.ndim, [0] * x.ndim
    for i, axis in enumerate(which):
        begins[axis], ends[axis] = given[i], given[len(which) + i]
    mode = call.get("mode", "constant")
    if mode == "constant":
        filled = call.get("value", 0.0) if value is None else value.item()
        return padded(x, [*begins, *ends], filled)
    for axis in range(x.ndim):
        if begins[axis] or ends[axis]:
            places = _places(mode, x.shape[axis], begins[axis], ends[axis])
            x = x.index_select(axis, torch.tensor(places, dtype=torch.int64, device=x.device))
    return x


def _places(mode: str, size: int, begin: int, end: int) -> list[int]:
    """The index of the element that stands at each place of a padded axis."""
    wanted = range(-begin, size + end)
    if mode == "edge":
        return [min(max(i, 0), size - 1) for i in wanted]
    if mode == "wrap":
        return [i % size for i in wanted]
    period = 2 * (size - 1)
    return [0 if period == 0 else min(i % period, period - i % period) for i in wanted]


def depth_to_space(call: Call, x: Tensor) -> Tensor:
    """Return blocks of channels laid out in space."""
    n, c, h, w = x.shape
    b = int(call.get("blocksize"))
    if call.get("mode", "DCR") == "DCR":
        x = x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(n, c // b**2, h * b, w * b)


def space_to_depth(call: Call, x: Tensor) -> Tensor:
    """Return blocks of space laid out in channels."""
    n, c, h, w = x.shape
    b = int(call.get("blocksize"))
    order = (0, 3, 5, 1, 2, 4) if call.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return x.reshape(n, c, h // b, b, w // b, b).permute(order).reshape(n, c * b * b, h // b, w // b)


def trilu(call: Call, x: Tensor, k: Tensor | None = None) -> Tensor:
    """Return the upper or the lower triangle."""
    offset = 0 if k is None else int(k)
    return torch.triu(x, offset) if call.get("upper", 1) else torch.tril(x, offset)


def one_hot(call: Call, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """Return a tensor with one value at the indices, and another elsewhere."""
    size = int(depth)
    axis = int(call.get("axis", -1)) % (indices.ndim + 1)
    found = functional.one_hot(torch.remainder(indices.to(torch.int64), size), size)
    inside = ((indices >= -size) & (indices < size)).unsqueeze(-1)
    return torch.where((found == 1) & inside, values[1], values[0]).movedim(-1, axis)
