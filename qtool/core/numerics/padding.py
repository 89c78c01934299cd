"""Positions of sequences that a mask says are padding: left out of statistics, and of the noise of outputs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from qtool.core.numerics.counting import Array


@dataclass(frozen=True, slots=True)
class Padding:
    """A mask, and where its positions lie in the tensors of a graph.

    mask: the input [batch, length] that is 1 where a token is and 0 where padding is. axes: tensor -> the axes of the
    batch and of the positions. Of a tensor with several axes of positions, such as scores of attention, the first
    counts: the last are the keys, whose masked scores a kept query still reads.
    """

    mask: str
    axes: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def kept(self, inputs: Mapping[str, Array]) -> Array | None:
        """Return which positions are no padding, bool [batch, length].

        None where all are, where none is, or where the mask holds anything but 0 and 1.
        """
        mask = inputs.get(self.mask)
        if mask is None or mask.ndim != 2:
            return None
        kept = mask == 1
        if kept.all() or not kept.any() or not (kept | (mask == 0)).all():
            return None
        return np.asarray(kept)

    def selected(self, tensor: str, array: Array, kept: Array | None) -> Array:
        """Return what stands at the kept positions of a tensor, [positions, ...]; all of it where nothing is known."""
        fronted = self._fronted(tensor, array, kept)
        return array if fronted is None else np.asarray(fronted[kept])

    def blanked(self, tensor: str, array: Array, kept: Array | None) -> Array:
        """Return a tensor with 0 at its padded positions; as it is where nothing is known."""
        if self._fronted(tensor, array, kept) is None:
            return array
        result = array.copy()
        fronted = self._fronted(tensor, result, kept)
        assert fronted is not None and kept is not None
        fronted[~kept] = 0
        return result

    def _fronted(self, tensor: str, array: Array, kept: Array | None) -> Array | None:
        """A view with batch and positions in front; None where the tensor has no such axes in this run."""
        axes = self.axes.get(tensor)
        if kept is None or axes is None or max(axes) >= array.ndim:
            return None
        view = np.moveaxis(array, axes, (0, 1))
        return view if view.shape[:2] == kept.shape else None
