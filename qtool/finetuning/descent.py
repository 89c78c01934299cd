"""Steps of Adam on tensors that are learned, with a warm-up and a cosine: what every training here is made of.

Sources: Kingma and Ba 2015, "Adam"; Loshchilov and Hutter 2017, "SGDR" (one cosine).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qtool.finetuning.learned import Learned

RATES = {"weight": 0.02, "bias": 0.02, "scale": 0.002}
"""How far a step of Adam moves: weights in their own steps, biases in those of the output, scales as a share."""
WEIGHT, BIAS, ROUNDING = "weight", "bias", "rounding"
_WAY = 2.0
"""How far the logits of a rounding move in all steps together, at most."""
_COARSE_DB = 15.0
"""Steps are that far where the model to begin with has this SQNR or less; where it has more, less by as much."""
_WARM_UP = 0.1
_BETAS, _NOTHING = (0.9, 0.99), 1e-16
Part = tuple[float, Callable[[], Tensor]]
"""The share of a batch, and what returns its loss."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The way of training.

    epochs, steps: how often each sample is seen, or how many steps; one of them. seconds: an end besides, or None.
    batch: samples of a step. rate: the factor of `RATES`. seed: of the order of samples. blocks: whether the first half
    is of single blocks. memory: bytes that the activations of a block may take of it. views: whether training end to
    end sees other views of pictures, where no labels join.
    """

    epochs: int
    steps: int | None
    seconds: float | None
    batch: int
    rate: float
    seed: int
    blocks: bool = False
    memory: int = 2**30
    views: bool = True

    def describe(self) -> dict[str, Any]:
        """Return what another training must have in common to go on with this one."""
        return {
            "epochs": self.epochs,
            "steps": self.steps,
            "batch": self.batch,
            "rate": self.rate,
            "seed": self.seed,
            "blocks": self.blocks,
            "views": self.views,
        }

    def rate_at(self, held_out_db: float) -> float:
        """Return the factor of `RATES` for a model that has this SQNR to begin with."""
        return self.rate * min(1.0, math.pow(10.0, -(held_out_db - _COARSE_DB) / 20.0))


class Descent:
    """Steps of Adam on some of the tensors of `learned`, by their names there.

    own: the factor that was asked for, with which roundings move. rate: the factor of `RATES`, by `Settings.rate_at`.
    """

    def __init__(self, tensors: Mapping[str, Tensor], learned: Learned, own: float, rate: float) -> None:
        self._tensors, self._learned, self._own, self.rate = dict(tensors), learned, own, rate
        self._noise: float | None = None
        groups = [
            {"params": kindred, "lr": rate, "kind": kind}
            for kind in (*RATES, ROUNDING)
            if (kindred := [tensor for name, tensor in tensors.items() if name.split(" ")[0] == kind])
        ]
        self.adam = torch.optim.Adam(groups, betas=_BETAS, eps=_NOTHING)

    def kinds(self) -> Counter[str]:
        """Return how many tensors of each kind move: of `RATES`, or roundings."""
        return Counter({group["kind"]: len(group["params"]) for group in self.adam.param_groups})

    def step(self, done: float, share: float, parts: Iterable[Part], *, only: str | None = None) -> float:
        """Take a step, and return the loss of its batch.

        done: of the training, 0 to 1, before this step. share: the step's of it. parts: of the batch. only: the one
        kind of tensors that moves, where the others rest.
        """
        rise = min(1.0, (done + share) / _WARM_UP)
        factor = rise * 0.5 * (1.0 + math.cos(math.pi * done))
        for group in self.adam.param_groups:
            kind = group["kind"]
            rate = self._own * _WAY * share if kind == ROUNDING else self.rate * RATES[kind]
            group["lr"] = factor * rate if only in (None, kind) else 0.0
        self.adam.zero_grad()
        loss = 0.0
        for weight, found in parts:
            noise = found() * weight
            noise.backward()
            loss += float(noise.detach())
        self._noise = loss if self._noise is None else self._noise
        undecided = self._learned.undecided(self._tensors.keys(), done)
        if undecided is not None:
            (undecided * self._noise).backward()
        self.adam.step()
        self._learned.keep_within()
        return loss
