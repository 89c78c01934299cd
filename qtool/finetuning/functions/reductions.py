"""Reductions over axes, which are an attribute in older opsets. Source: the operators' pages of ONNX."""

from collections.abc import Callable

import torch
from torch import Tensor

from qtool.finetuning.calls import Call, listed
from qtool.finetuning.functions.activations import first_largest


def reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[..., Tensor]:
    """Return the function of an operator that reduces axes; `function` takes the tensor, the axes, and what stays."""

    def reduced(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
        found = listed(call, "axes", axes)
        if not found:
            if call.get("noop_with_empty_axes", 0):
                # of one element each
                return function(x.unsqueeze(0), [0], False)
            found = list(range(x.ndim))
        return function(x, found, bool(call.get("keepdims", 1))) if found else function(x.unsqueeze(0), [0], False)

    return reduced


def total(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Return sums, of the type that is summed."""
    return x.sum(axes, keepdim=keep).to(x.dtype)


def average(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Return means over axes."""
    return x.mean(axes, keepdim=keep) if x.is_floating_point() else _mean_of_integers(x, axes, keep)


def _mean_of_integers(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Rounded towards zero, as onnxruntime does."""
    return x.double().mean(axes, keepdim=keep).trunc().to(x.dtype)


def largest(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Return largest elements, of nothing the least number there is."""
    return _extreme(x, axes, keep, torch.amax, largest=True)


def smallest(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Return smallest elements, of nothing the largest number there is."""
    return _extreme(x, axes, keep, torch.amin, largest=False)


def _extreme(x: Tensor, axes: list[int], keep: bool, function: Callable[..., Tensor], *, largest: bool) -> Tensor:
    if all(x.shape[axis] for axis in axes):
        return function(x, axes, keepdim=keep)
    if x.is_floating_point():
        nothing = -torch.inf if largest else torch.inf
    else:
        nothing = int(not largest) if x.dtype == torch.bool else _bounds(x.dtype)[0 if largest else 1]
    # one element stands for none
    more = [size if i not in {axis % x.ndim for axis in axes} else 1 for i, size in enumerate(x.shape)]
    return function(torch.full(more, nothing, dtype=x.dtype, device=x.device), axes, keepdim=keep)


def _bounds(kind: torch.dtype) -> tuple[int, int]:
    info = torch.iinfo(kind)
    return info.min, info.max


def product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Return products over axes."""
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = x.prod(axis, keepdim=keep).to(x.dtype)
    return x


def first_norm(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Return sums of magnitudes."""
    return total(x.abs(), axes, keep)


def second_norm(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Return roots of sums of squares, whose gradient is zero where all is zero."""
    return torch.linalg.vector_norm(x, 2, axes, keepdim=keep)


def sum_of_squares(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Return sums of squares."""
    return total(x * x, axes, keep)


def log_of_sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Return logarithms of sums."""
    return torch.log(total(x, axes, keep))


def log_of_sum_of_exponents(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Return logarithms of sums of exponents."""
    return torch.logsumexp(x, axes, keepdim=keep)


def argmax(call: Call, x: Tensor) -> Tensor:
    """Return the index of the largest element along an axis, of several the first or the last."""
    return _index(call, x)


def argmin(call: Call, x: Tensor) -> Tensor:
    """Return the index of the smallest element along an axis, of several the first or the last."""
    return _index(call, -x)


def _index(call: Call, x: Tensor) -> Tensor:
    axis = int(call.get("axis", 0))
    found = first_largest(x, axis, last=bool(call.get("select_last_index", 0)))
    return found.unsqueeze(axis) if call.get("keepdims", 1) else found


def top_k(call: Call, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest or smallest elements along an axis in order, and where they were; of equals the first."""
    axis, descending = int(call.get("axis", -1)), bool(call.get("largest", 1))
    order = torch.argsort(x, dim=axis, descending=descending, stable=True).narrow(axis, 0, int(k))
    return x.gather(axis, order), order
