"""Learned rounding: of each weight, whether it is rounded down or up, with the gradient of something smooth between.

Source: Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization" (AdaRound), section 3.2: the
rectified sigmoid, and the term that pushes it to 0 or 1, with an exponent that falls while training goes on. Other than
there the forward pass computes with the integers themselves, since in some hundred steps few roundings come to an end.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_HIGH, _LOW = 1.1, -0.1
"""The sigmoid is stretched to these, and cut at 1 and 0."""
_FREE = 0.2
"""The share of a training in which nothing pushes."""
_FIRST, _LAST = 20.0, 2.0
"""The exponent falls from one to the other."""
_BESIDE = 0.01
"""What begins on the other side than the nearest integer begins so far from the middle."""


@dataclass(slots=True)
class LearnedRounding:
    """The rounding of a weight that is learned: `below`, the integers below, and `logit`, which decides.

    lowest, highest: bounds of the integers.
    """

    below: Tensor
    logit: Tensor
    lowest: Tensor
    highest: Tensor

    @classmethod
    def of(cls, exact: Tensor, begun: Tensor, lowest: Tensor, highest: Tensor) -> "LearnedRounding":
        """Return the rounding of a weight that begins with given integers.

        Args:
            exact: the float weight in steps of its grid.
            begun: the integers to begin with, of its shape; one of the two beside each number, where they are near.
            lowest, highest: bounds, which broadcast.
        """
        near = torch.minimum(torch.maximum(exact, begun - 1.0), begun + 1.0)
        below = torch.where(near < begun, begun - 1.0, begun)
        share = near - below
        up = begun > below
        share = torch.where(up, share.clamp_min(0.5 + _BESIDE), share.clamp_max(0.5 - _BESIDE))
        logit = -torch.log((_HIGH - _LOW) / (share.clamp(0.0, 1.0) - _LOW) - 1.0)
        return cls(below, logit.requires_grad_(), lowest, highest)

    def share(self) -> Tensor:
        """Return how far up each number is, 0 to 1."""
        return (torch.sigmoid(self.logit) * (_HIGH - _LOW) + _LOW).clamp(0.0, 1.0)

    def steps(self) -> Tensor:
        """Return the weight in steps, which are integers, with the gradient of what lies between them."""
        share = self.share()
        found = self.below + share + ((share >= 0.5).to(share.dtype) - share).detach()
        return torch.minimum(torch.maximum(found, self.lowest), self.highest)


def undecided(rounding: Sequence[LearnedRounding], progress: float) -> Tensor | None:
    """Return the mean over several weights of how undecided their numbers are, 0 to 1; None where that is not asked.

    `progress`: of the training, 0 to 1; in its first fifth nothing is asked.
    """
    if not rounding or progress < _FREE:
        return None
    done = (progress - _FREE) / (1.0 - _FREE)
    exponent = _LAST + (_FIRST - _LAST) * 0.5 * (1.0 + math.cos(math.pi * done))
    sums = [(1.0 - (2.0 * one.share() - 1.0).abs().pow(exponent)).sum() for one in rounding]
    return torch.stack(sums).sum() / sum(one.logit.numel() for one in rounding)
