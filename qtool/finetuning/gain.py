"""The gain of what was trained beside the noise of the samples that choose: paired, sample by sample."""

import math
from collections.abc import Sequence

import numpy as np

from qtool.core.records.finetuning import PairedGain

_MOST_DB = 200.0
"""An SQNR in dB beyond it is as good as this: that of a sample without noise."""


def paired_gain(by: str, before: Sequence[float | None], after: Sequence[float | None]) -> PairedGain | None:
    """Return the mean gain of samples, and its standard error; None where fewer than two have a figure in both.

    Args:
        by: what is measured.
        before, after: a figure a sample, of which more is better; None or NaN where there is none.
    """
    pairs = [
        (one, two)
        for one, two in zip(before, after, strict=True)
        if one is not None and two is not None and not math.isnan(one) and not math.isnan(two)
    ]
    if len(pairs) < 2:
        return None
    gains = np.diff(np.clip(np.asarray(pairs, np.float64), -_MOST_DB, _MOST_DB))[:, 0]
    error = float(gains.std(ddof=1)) / math.sqrt(len(gains))
    return PairedGain(by, len(gains), float(gains.mean()), error)
