"""Counts float32 values by their upper 16 bits: compiled where the installation had a C compiler, in numpy elsewhere.

Both give the same counts.
"""

import threading
from collections.abc import Callable

import numpy as np

Array = np.ndarray
BINS = 1 << 16
_PIECE = 1 << 18
"""Elements whose keys stay in a cache."""
_Compiled = Callable[[Array, Array, Array, int], tuple[float, float] | None]


def _compiled() -> tuple[_Compiled | None, int]:
    try:
        from qtool.core.numerics._count import WIDEST, count
    except ImportError:
        return None, 0
    return count, WIDEST


COMPILED, WIDEST = _compiled()
_SCRATCH = threading.local()


def count_into(counts: Array, flat: Array) -> tuple[float, float] | None:
    """Add the keys of `flat` to `counts`; return its minimum and maximum, or None where it holds NaN or Inf.

    `flat` is float32, contiguous, [n] with n > 0; `counts` is int64, [65536]. Nothing has been added where None is
    returned.
    """
    if COMPILED is None:
        return count_with_numpy(counts, flat)
    if not hasattr(_SCRATCH, "counts"):
        _SCRATCH.counts = np.zeros(BINS, np.uint32)
    return COMPILED(flat, _SCRATCH.counts, counts, WIDEST)


def count_with_numpy(counts: Array, flat: Array) -> tuple[float, float] | None:
    """Do what `count_into` does, without the compiled kernel, and return what it returns."""
    low, high = float(flat.min()), float(flat.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        return None
    bits = flat.view(np.uint32)
    keys = np.empty(min(flat.size, _PIECE), np.intp)
    for start in range(0, flat.size, _PIECE):
        piece = bits[start : start + _PIECE]
        # bincount needs 8-byte integers; shifting into them directly saves a pass over the data
        np.right_shift(piece, 16, out=keys[: piece.size], casting="unsafe")
        found = np.bincount(keys[: piece.size])
        counts[: found.size] += found
    return low, high
