"""The data of a search by what it is for: what calibrates, what chooses, and what reports."""

from dataclasses import dataclass

from qtool.feeds import Data, Feeds, LabelledOptions, open_for_model
from qtool.feeds.reading import unlabelled
from qtool.pipeline.prepare import Prepared
from qtool.tuning.budget import Budget, Portion
from qtool.tuning.split import Subset, evaluation_subsets, parts

KEPT = 2**28
"""Bytes of the data that chooses that are kept, since every model is judged on it."""


@dataclass(frozen=True, slots=True)
class Shares:
    """The data by what it is for. feeds: what calibrates, which is `calibrating` where that is a part of more.

    words: who does what. notes: what of the data that has labels is left out.
    """

    feeds: Feeds
    calibrating: Portion
    choosing: Portion
    reporting: Portion
    words: str
    notes: tuple[str, ...] = ()


def part_data(
    prepared: Prepared,
    data: Data,
    eval_data: Data | None,
    samples: int | None,
    reading: LabelledOptions,
    budget: Budget,
    threads: int,
    *,
    apart: bool = False,
) -> Shares:
    """Open the data and let its samples take turns.

    `apart`: what calibrates trains, so that it does not choose.

    Raises:
        DataError: see `open_for_model`.
    """
    plain = reading if eval_data is None else unlabelled(reading)
    feeds = open_for_model(prepared.model, data, samples=samples, **plain)
    if eval_data is not None:
        other = open_for_model(prepared.model, eval_data, samples=samples, **reading)
        calibrating, choosing, reporting, words = evaluation_subsets(feeds, other, apart=apart)
    else:
        calibrating, choosing, reporting, words = parts(feeds)
    budget.ratio = _ratio(choosing, reporting)
    timed, is_part = Portion(calibrating, budget.part), eval_data is None or calibrating.modulus > 1
    return Shares(
        # all of it is read as it is, and where workers can, by them
        open_for_model(prepared.model, timed, **feeds.again) if is_part or budget.seconds else feeds,
        timed,
        Portion(choosing, budget.part, kept=KEPT),
        Portion(reporting, lambda: budget.end, ahead=threads + 1),
        words,
        choosing.feeds.notes,
    )


def _ratio(choosing: Subset, reporting: Subset) -> float | None:
    if choosing.feeds is reporting.feeds:
        return len(reporting.turns) / len(choosing.turns)
    known = (choosing.feeds.samples, reporting.feeds.samples)
    return None if None in known else (known[1] or 0) / (known[0] or 1)
