"""The target that tuning aims at, and a model in its terms."""

import math
from dataclasses import dataclass

from qtool.core.errors import UsageError, arg
from qtool.core.numerics.sqnr import loudness
from qtool.core.records.evaluation import Evaluation, MaxDrop, MetricKind, ModelResult
from qtool.core.records.tuning import AGREEMENT, Step
from qtool.evaluation.decoding.user import DecodeSpec
from qtool.evaluation.evaluate import Probed
from qtool.evaluation.gates import ROUNDING
from qtool.evaluation.metrics.registry import MetricSpec

DEFAULT_DROP = MaxDrop(0.01, relative=True)
_NOTHING = (
    f"there are neither labels nor class scores to aim at; give {arg('min_sqnr')}, {arg('decode')} where the outputs "
    f"are boxes, or labels and {arg('metric')}"
)
_NO_NUMBERS = f"there are neither labels, class scores nor numbers to aim at; give labels and {arg('metric')}"


@dataclass(frozen=True, slots=True)
class Reached:
    """A model in the terms of the target.

    name: of the measure that is to be held: the metric, or `agreement` with float where there are no labels, or `sqnr`.
    value: of that measure. drop: of it, in the terms of the target, relative or absolute; inf where it is NaN, None
    where the measure cannot drop. sqnr_db: of the worst output; NaN where none is measured.
    """

    name: str
    value: float
    drop: float | None
    sqnr_db: float


@dataclass(frozen=True, slots=True)
class Aim:
    """The target that tuning aims at.

    metric, decode: as in `evaluate`; without labels, and where both are None, agreement with the float model.
    asked_drop: of that metric; None is 1 %, and nothing where there are no labels and an SQNR is asked for. min_sqnr:
    of the worst output, dB, or None. max_float_macs: the share of multiply-accumulates that may stay float.
    """

    metric: MetricSpec | None
    asked_drop: MaxDrop | None
    min_sqnr: float | None
    max_float_macs: float
    decode: DecodeSpec | None = None

    @property
    def max_drop(self) -> MaxDrop:
        """The drop that is asked for, where one is."""
        return self.asked_drop or DEFAULT_DROP

    def reached(self, result: ModelResult) -> Reached:
        """Return what a model reaches of the target; without labels a drop is the share of predictions that differ."""
        score = result.scores[0]
        sqnr = math.nan if result.sqnr_db is None else loudness(result.sqnr_db)
        stands_in = self.asked_drop is not None or self.min_sqnr is None
        if score.drop is None and result.agreement is not None and stands_in:
            return Reached(AGREEMENT, result.agreement, 1.0 - result.agreement, sqnr)
        if score.drop is None:
            return Reached(score.metric, score.value, None, sqnr)
        found = score.relative_drop if self.max_drop.relative else score.drop
        if found is None:
            found = 0.0 if score.drop <= 0 else math.inf
        return Reached(score.metric, score.value, math.inf if math.isnan(found) else found, sqnr)

    def misses(self, result: ModelResult) -> tuple[str, ...]:
        """Return a text for each part of the target that a model misses: what was found, and what was asked for.

        Raises:
            UsageError: an SQNR is asked for that cannot be measured, or there is nothing to aim at.
        """
        reached, missed = self.reached(result), []
        if self.min_sqnr is not None and result.sqnr_db is None:
            known = reached.drop is not None or result.agreement is not None
            raise self._no_sqnr("no output of numbers keeps its shape", known=known)
        if reached.drop is None and self.min_sqnr is None:
            raise UsageError(_NOTHING)
        if reached.drop is not None and not reached.drop <= self.max_drop.value + ROUNDING:
            drop = f"{100 * reached.drop:.2f} %" if self.max_drop.relative else f"{reached.drop:.4g}"
            missed.append(f"{reached.name} drop {drop}, asked at most {self.max_drop}")
        if self.min_sqnr is not None and not reached.sqnr_db >= self.min_sqnr:
            missed.append(
                f"SQNR {reached.sqnr_db:.1f} dB, asked at least {self.min_sqnr:.4g} dB "
                f"({self.min_sqnr - reached.sqnr_db:.1f} dB short)"
            )
        return tuple(missed)

    def holds(self, step: Step) -> bool:
        """Return whether a model that was tried meets the target, however much of it is in float."""
        dropped = step.drop is not None and not step.drop <= self.max_drop.value + ROUNDING
        return not dropped and (self.min_sqnr is None or loudness(step.sqnr_db) >= self.min_sqnr)

    def short_db(self, result: ModelResult) -> float:
        """Return the decibels that are missing to the SQNR that is asked for, 0 where none are or none is asked for."""
        sqnr = self.reached(result).sqnr_db
        return max(self.min_sqnr - sqnr, 0.0) if self.min_sqnr is not None and math.isfinite(sqnr) else 0.0

    def one_sample(self, evaluation: Evaluation, *, by_sample: bool) -> float | None:
        """Return how much one sample more or less counts in the measure, in the terms of the target.

        None where the measure is no share of samples. `by_sample`: whether classes are those of samples, not of tokens.
        """
        result, reference = evaluation.candidates[0], evaluation.float_model.scores[0].value
        name, one = self.reached(result).name, 1.0 / evaluation.samples
        if evaluation.states or not by_sample or name not in (AGREEMENT, "top1"):
            return None
        if name == AGREEMENT or not self.max_drop.relative:
            return one
        return one / reference if reference else None

    def check(self, found: Probed) -> None:
        """Refuse a target that cannot be measured.

        Raises:
            UsageError: there are neither labels nor classes, and no SQNR is asked for; or one is that no output has.
        """
        known = found.classes or found.metrics[0].kind is not MetricKind.SIMILARITY or found.metrics[0].share
        if self.min_sqnr is not None and not found.numbers:
            raise self._no_sqnr("no output holds numbers", known=known)
        if self.min_sqnr is None and not known:
            raise UsageError(_NOTHING if found.numbers else _NO_NUMBERS)

    def _no_sqnr(self, why: str, *, known: bool) -> UsageError:
        """`known`: whether there is something else to aim at."""
        remedy = "leave it out" if known else f"give labels and {arg('metric')} instead"
        return UsageError(f"{arg('min_sqnr', self.min_sqnr)}: {why}, so SQNR is not measured; {remedy}")
