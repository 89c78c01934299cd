"""The gain of what was trained beside the noise of the samples that choose: paired, sample by sample."""

import math
from collections.abc import Sequence

import numpy as np

from qtool.core.records.finetuning import PairedGain

_MOST_DB = 200.0
"""An SQNR in dB beyond it is as good as this: that of a sample without noise."""


def paired_gain(
    by: str, before: Sequence[float | None], after: Sequence[float | None], *, each: int = 1
) -> PairedGain | None:
    """Return the mean gain of samples, and its standard error; None where fewer than two have a figure in both.

    Args:
        by: what is measured.
        before, after: a figure a sample, of which more is better; None or NaN where there is none.
        each: so many figures in a row are of views of one sample, whose gain is their mean.
    """
    figures = [[math.nan if one is None else one for one in figures] for figures in (before, after)]
    one, two = np.clip(np.asarray(figures, np.float64), -_MOST_DB, _MOST_DB)
    views = (two - one).reshape(-1, each)
    there = ~np.isnan(views)
    sums, counts = np.where(there, views, 0.0).sum(axis=1), there.sum(axis=1)
    gains = sums[counts > 0] / counts[counts > 0]
    if len(gains) < 2:
        return None
    error = float(gains.std(ddof=1)) / math.sqrt(len(gains))
    return PairedGain(by, len(gains), float(gains.mean()), error)
