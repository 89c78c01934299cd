"""Batches of padded sequences, cut to the longest sequence in each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from qtool.core.errors import DataError, UsageError, arg
from qtool.core.tensorspec import InputSpec, describe
from qtool.core.text import amount, meant
from qtool.feeds.batching import Batch
from qtool.feeds.checks import quoted


@dataclass(frozen=True, slots=True)
class Trim:
    """A cut of the second axis of batches, to the largest sum of a row of the mask [samples, length].

    Cut are all inputs whose first two axes are the mask's, where the model leaves the second one free, and labels of
    exactly its shape. At least one position stays.

    Attributes:
        mask: the input that is 1 where a token is and 0 where padding is.
        followers: the inputs that may be cut, the mask among them.
    """

    mask: str
    followers: frozenset[str]

    @classmethod
    def of(cls, mask: str, inputs: Sequence[InputSpec]) -> "Trim":
        """Return the cut bound to a model's inputs.

        Raises:
            UsageError: the model has no such input, or one with another or a fixed shape.
        """
        known = {spec.name: spec for spec in inputs}
        if mask not in known:
            raise UsageError(
                f"{arg('trim', mask)}: is no input of the model{meant(mask, known)}; its inputs are {quoted(known)}"
            )
        shape = known[mask].shape
        if shape is not None and (len(shape) != 2 or isinstance(shape[1], int)):
            kind = describe(known[mask].dtype, shape)
            raise UsageError(
                f"{arg('trim', mask)}: the input is {kind}; it must be [samples, length] with a free length"
            )
        axis = None if shape is None else shape[1]
        return cls(mask, frozenset(spec.name for spec in inputs if _may_follow(spec, axis)))

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch without what is padding in all of its samples.

        Raises:
            DataError: the mask has other values than 0 and 1, or a 1 behind a 0; a label would be cut off.
        """
        mask = batch.inputs[self.mask]
        if mask.ndim != 2:
            raise DataError(
                f"{batch.origin}: '{self.mask}' has {amount(mask.ndim, 'axis', 'axes')}; {arg('trim')} needs "
                "[samples, length]"
            )
        on = mask != 0
        if not ((mask == 1) | ~on).all():
            raise DataError(
                f"{batch.origin}: '{self.mask}' holds other values than 0 and 1; {arg('trim')} cannot read it"
            )
        if (on[:, 1:] & ~on[:, :-1]).any():
            raise DataError(
                f"{batch.origin}: '{self.mask}' has a 1 behind a 0; {arg('trim')} cuts at the end: pad on the right, "
                "or leave it out"
            )
        longest = max(1, int(on.sum(axis=1).max(initial=0)))
        if longest >= mask.shape[1]:
            return batch
        inputs = {
            name: np.ascontiguousarray(array[:, :longest])
            if name in self.followers and array.shape[:2] == mask.shape
            else array
            for name, array in batch.inputs.items()
        }
        labels = {
            name: _cut_labels(batch, name, array, longest) if array.shape == mask.shape else array
            for name, array in batch.labels.items()
        }
        return replace(batch, inputs=inputs, labels=labels)


def _may_follow(spec: InputSpec, axis: int | str | None) -> bool:
    """Whether the second axis of an input may be the mask's: both are named alike, or one of them has no name."""
    if spec.shape is None:
        return True
    if len(spec.shape) < 2:
        return False
    own = spec.shape[1]
    return not isinstance(own, int) and (own is None or axis is None or own == axis)


def _cut_labels(batch: Batch, name: str, labels: np.ndarray, longest: int) -> np.ndarray:
    if labels.dtype.kind not in "biuf" or (labels[:, longest:] > 0).any():
        raise DataError(
            f"{batch.origin}: '{name}' has the shape of the mask, but labels where it is 0; mark the ones without a "
            f"token with -1, or leave {arg('trim')} out"
        )
    return labels[:, :longest]
