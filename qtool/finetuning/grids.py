"""Rounding with gradients: what the integer kernels compute, as if it were smooth within the grid.

Source: Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons" (straight through); Esser
et al. 2020, "Learned Step Size Quantization" (the gradient of a scale); Choi et al. 2018, PACT (of what saturates).
"""

from typing import Any

import torch
from torch import Tensor


class _OnGrid(torch.autograd.Function):  # type: ignore[misc]
    """A tensor on a grid. `steps` are its values in steps, `held` those that the grid has."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: float, high: float) -> Tensor:
        steps = x / scale
        held = torch.round(steps).clamp_(low, high)
        inside = (steps >= low - 0.5) & (steps <= high + 0.5)
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(inside, held - torch.where(inside, steps, 0.0))
        else:
            ctx.save_for_backward(inside)
        return held.mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        (grad,) = grads
        inside, *by_scale = ctx.saved_tensors
        of_scale = (grad * by_scale[0]).sum() if by_scale else None
        return grad * inside, of_scale, None, None


class _Rounded(torch.autograd.Function):  # type: ignore[misc]
    """A tensor with its values rounded half to even; its gradient passes as it is."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(_: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def on_grid(x: Tensor, scale: Tensor, zero_point: int, low: int, high: int) -> Tensor:
    """Return the real numbers that QuantizeLinear and DequantizeLinear make of x, with a grid for the whole tensor.

    Args:
        x: any shape.
        scale: one number, of no dimensions.
        zero_point: the integer that stands for 0.
        low, high: the smallest and largest integer.
    """
    result: Tensor = _OnGrid.apply(x, scale, float(low - zero_point), float(high - zero_point))
    return result


def rounded(x: Tensor) -> Tensor:
    """Return x, any shape, rounded half to even."""
    result: Tensor = _Rounded.apply(x)
    return result
