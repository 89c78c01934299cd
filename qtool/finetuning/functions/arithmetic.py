"""Arithmetic and comparisons of each element, broadcast. Source: the operators' pages of ONNX."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from qtool.finetuning.calls import NUMBERS, TYPES, Call

Function = Callable[..., Tensor]


def unary(function: Callable[[Tensor], Tensor]) -> Function:
    """Return the function of an operator that torch has as a function of one tensor."""
    return lambda _call, x: function(x)


def binary(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """Return the function of an operator that torch has as a function of two tensors."""
    return lambda _call, a, b: function(a, b)


def variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """Return the function of an operator that takes any number of tensors, two after two."""
    return lambda _call, *operands: functools.reduce(function, operands)


def div(_call: Call, a: Tensor, b: Tensor) -> Tensor:
    """Return a quotient, of integers rounded towards zero."""
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def power(_call: Call, a: Tensor, b: Tensor) -> Tensor:
    """Return a power, of the base's type."""
    return torch.pow(a, b).to(a.dtype)


def mod(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """Return what a division leaves, with the sign of the divisor, or where the node says so of the dividend."""
    return torch.fmod(a, b) if call.get("fmod", 0) else torch.remainder(a, b)


def mean(_call: Call, *operands: Tensor) -> Tensor:
    """Return the mean of tensors."""
    return functools.reduce(torch.add, operands) / len(operands)


def cast(call: Call, x: Tensor) -> Tensor:
    """Return the elements in another type."""
    return x.to(TYPES[NUMBERS[call.get("to")]])


def cast_like(_call: Call, x: Tensor, like: Tensor) -> Tensor:
    """Return the elements in the type of another tensor."""
    return x.to(like.dtype)


def has_type(call: Call) -> str | None:
    """Return why torch has not the type that a node asks for; None where it has."""
    wanted = call.get("to", call.get("dtype", 1))
    return None if wanted in NUMBERS else "makes numbers of a type that torch does not compute with here"


def where(_call: Call, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return elements of the first tensor where a condition holds, else of the second."""
    return torch.where(condition, a, b)


def is_infinite(call: Call, x: Tensor) -> Tensor:
    """Return where elements are infinite, of the signs that the node asks for."""
    above = (x == torch.inf) & bool(call.get("detect_positive", 1))
    return above | ((x == -torch.inf) & bool(call.get("detect_negative", 1)))


def cumsum(call: Call, x: Tensor, axis: Tensor) -> Tensor:
    """Return the sums of all elements up to each one along an axis."""
    dim, reverse = int(axis), bool(call.get("reverse", 0))
    x = x.flip(dim) if reverse else x
    made = torch.cumsum(x, dim).to(x.dtype)
    made = made - x if call.get("exclusive", 0) else made
    return made.flip(dim) if reverse else made
