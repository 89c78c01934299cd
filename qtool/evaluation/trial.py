"""One model being measured: it runs each batch, and keeps the sums of every metric."""

from collections.abc import Mapping, Sequence

import numpy as np

from qtool.core.errors import DataError, ModelError, arg
from qtool.core.records.evaluation import NanFound, Score
from qtool.evaluation.metrics.classes import Agreement
from qtool.evaluation.metrics.heads import Heads
from qtool.evaluation.metrics.observation import Observation, rows
from qtool.evaluation.metrics.registry import Metric
from qtool.evaluation.metrics.similarity import Sqnr
from qtool.runtime.session import Session


class Measurement:
    """The accumulators of one candidate, or of the float model where `is_float`.

    Float needs none for what compares with float: it is perfect there by definition.
    """

    def __init__(self, session: Session, metrics: Sequence[Metric], heads: Heads, *, is_float: bool) -> None:
        self.session = session
        self.is_float = is_float
        self.sqnr = None if is_float else Sqnr()
        predicted = heads.predicted
        self.agreement = None if is_float or predicted is None else Agreement(predicted)
        self.nan: NanFound | None = None
        self._perfect = {m.name: m.perfect for m in metrics if is_float and m.perfect is not None}
        self._accumulators = {m.name: m.start(heads) for m in metrics if m.name not in self._perfect}

    def update(self, seen: Observation) -> None:
        """Add one batch of this model's outputs. Raises `DataError` where a metric cannot take it."""
        if not self.is_float:
            self._look_for_nan(seen)
        for accumulator in self._accumulators.values():
            accumulator.update(seen)
        if self.sqnr is not None:
            self.sqnr.update(seen)
        if self.agreement is not None:
            self.agreement.update(seen)

    def values(self) -> dict[str, float]:
        """Return each metric's value by name. Raises `DataError` where a metric has none, or is NaN for float."""
        values: dict[str, float] = dict(self._perfect)
        for name, accumulator in self._accumulators.items():
            values[name] = accumulator.result()
            if self.is_float and np.isnan(values[name]):
                raise DataError(
                    f"{arg('metric', name)}: is NaN for {self.session.name}; correct the metric or the labels"
                )
        return values

    def _look_for_nan(self, seen: Observation) -> None:
        found = first_nan(seen.outputs, seen.size)
        if found is None:
            return
        output, bad = found
        if self.nan is None:
            self.nan = NanFound(output, seen.start + int(bad.argmax()), int(bad.sum()))
        else:
            self.nan = NanFound(self.nan.output, self.nan.sample, self.nan.samples + int(bad.sum()))


def run_numeric(session: Session, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run one batch; return the outputs by name, read-only.

    Raises:
        ModelError: an output is not a tensor of numbers.
        DataError: the model does not run on these inputs.
    """
    outputs = session.run(inputs)
    for name, output in outputs.items():
        if not isinstance(output, np.ndarray) or output.dtype.kind not in "fiub":
            raise ModelError(
                f"{session.name}: output '{name}' is no tensor of numbers; remove it from the model's outputs"
            )
        output.flags.writeable = False
    return outputs


def check_outputs(session: Session, outputs: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    """Refuse outputs of another shape or kind of type than float's. Raises `ModelError`."""
    for name, reference in wanted.items():
        found = outputs[name]
        if found.shape != reference.shape:
            raise ModelError(
                f"{session.name}: output '{name}' has shape {list(found.shape)}, float's has "
                f"{list(reference.shape)}; compare models whose output shapes do not depend on the values"
            )
        if (found.dtype.kind == "f") != (reference.dtype.kind == "f"):
            raise ModelError(
                f"{session.name}: output '{name}' is {found.dtype}, float's is {reference.dtype}; "
                "compare models with the same types"
            )


def first_nan(outputs: Mapping[str, np.ndarray], size: int) -> tuple[str, np.ndarray] | None:
    """Return the output with NaN in the earliest sample, and which samples have any, bool [size]; None if none."""
    bad = np.zeros(size, bool)
    first = ""
    for name, output in outputs.items():
        if output.dtype.kind != "f" or not np.isnan(output).any():
            continue
        here = np.broadcast_to(np.isnan(rows(output, size)).any(axis=1), (size,))
        if not bad.any() or here.argmax() < bad.argmax():
            first = name
        bad |= here
    return (first, bad) if first else None


def scores_of(values: Mapping[str, float]) -> tuple[Score, ...]:
    """Return values as scores without a drop, as float has them."""
    return tuple(Score(name, value) for name, value in values.items())
