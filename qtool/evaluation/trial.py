"""One model being measured: it runs each batch, and keeps the sums of every metric."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from qtool.core.errors import DataError, ModelError, arg
from qtool.core.numerics.sqnr import unlike
from qtool.core.records.evaluation import NanFound, Score
from qtool.core.tensorspec import Dimensions
from qtool.evaluation.metrics.classes import Agreement
from qtool.evaluation.metrics.heads import Heads
from qtool.evaluation.metrics.observation import Observation, rows
from qtool.evaluation.metrics.registry import ByClass, Metric
from qtool.evaluation.metrics.similarity import Sqnr
from qtool.runtime.session import Session


class Measurement:
    """The accumulators of one candidate, or of the float model where `is_float`.

    Float needs none for what compares with float: it is perfect there by definition.
    """

    def __init__(self, session: Session, metrics: Sequence[Metric], heads: Heads, *, is_float: bool) -> None:
        self.session = session
        self.is_float = is_float
        self.sqnr = None if is_float else Sqnr(heads.parts, heads.places, heads.padding)
        predicted = heads.predicted
        self.agreement = None if is_float or predicted is None else Agreement(predicted, likely=heads.likely)
        self.nan: NanFound | None = None
        self.by_class: dict[str, tuple[tuple[str, float], ...]] = {}
        self._perfect = {m.name: m.perfect for m in metrics if is_float and m.perfect is not None}
        self._accumulators = {m.name: m.start(heads) for m in metrics if m.name not in self._perfect}

    def update(self, seen: Observation) -> None:
        """Add one batch of this model's outputs. Raises `DataError` where a metric cannot take it."""
        if not self.is_float:
            self._look_for_unlike(seen)
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
            if isinstance(accumulator, ByClass):
                self.by_class[name] = tuple(accumulator.by_class().items())
            if self.is_float and np.isnan(values[name]):
                raise DataError(
                    f"{arg('metric', name)}: is NaN for {self.session.name}; correct the metric or the labels"
                )
        return values

    def _look_for_unlike(self, seen: Observation) -> None:
        found = first_unlike(seen.outputs, seen.reference, seen.size)
        if found is None:
            return
        output, bad = found
        if self.nan is None:
            sample = int(bad.argmax())
            what = _what(seen.outputs[output], seen.reference[output])
            self.nan = NanFound(output, seen.start + sample, int(bad.sum()), what)
        else:
            self.nan = replace(self.nan, samples=self.nan.samples + int(bad.sum()))


def run_numeric(session: Session, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run one batch; return the outputs by name, read-only. Raises `DataError` where the model does not run on it."""
    outputs = session.run(inputs)
    for output in outputs.values():
        output.flags.writeable = False
    return outputs


def check_outputs(session: Session, outputs: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    """Refuse outputs whose kind of type is not float's, or of which the model declares another shape.

    A shape that depends on the values of a batch may be another there.

    Raises:
        ModelError: an output is so.
    """
    declared = {spec.name: spec.shape for spec in session.output_specs}
    for name, reference in wanted.items():
        found = outputs[name]
        if found.shape != reference.shape and _contradicts(declared.get(name), reference.shape):
            raise ModelError(
                f"{session.name}: output '{name}' has shape {list(found.shape)}, float's has "
                f"{list(reference.shape)}; compare models made from the same float model"
            )
        if (found.dtype.kind == "f") != (reference.dtype.kind == "f"):
            raise ModelError(
                f"{session.name}: output '{name}' is {found.dtype}, float's is {reference.dtype}; "
                "compare models with the same types"
            )


def _contradicts(declared: Dimensions | None, shape: Sequence[int]) -> bool:
    if not declared:
        # no shape, which onnxruntime does not tell from that of a scalar
        return False
    return len(declared) != len(shape) or any(
        isinstance(d, int) and d >= 0 and d != n for d, n in zip(declared, shape, strict=True)
    )


def first_unlike(
    outputs: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], size: int
) -> tuple[str, np.ndarray] | None:
    """Return the output that holds NaN or Inf unlike float's in the earliest sample, and which samples do, bool [size].

    Unlike is what is not finite in one alone, or differently so; None where nothing is. Outputs of another shape than
    float's have nothing to compare.
    """
    bad = np.zeros(size, bool)
    first = ""
    for name, output in outputs.items():
        if output.shape != reference[name].shape:
            continue
        odd = unlike(reference[name], output)
        if not odd.any():
            continue
        here = np.broadcast_to(rows(odd, size).any(axis=1), (size,))
        if not bad.any() or here.argmax() < bad.argmax():
            first = name
        bad |= here
    return (first, bad) if first else None


def _what(output: np.ndarray, reference: np.ndarray) -> str:
    """What stands at the first place that is unlike float's."""
    place = np.unravel_index(int(unlike(reference, output).argmax()), output.shape)
    value = output[place]
    return "NaN" if np.isnan(value) else "Inf" if np.isinf(value) else "a number for NaN or Inf"


def scores_of(values: Mapping[str, float]) -> list[Score]:
    """Return values as scores without a drop, as float has them."""
    return [Score(name, value) for name, value in values.items()]
