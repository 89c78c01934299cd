"""The outputs of the model as it came, which everything that is made of it is held against."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from qtool.core.concurrency import side_by_side
from qtool.core.numerics.sqnr import SignalToNoise, measured_outputs
from qtool.graph import model_io
from qtool.graph.edit import Model
from qtool.graph.serialized import Serialized
from qtool.runtime.session import Session, kept

Arrays = Mapping[str, np.ndarray]
CHECKED = 8
"""On at most so many examples the model as it came, and all layers, are compared with what was made of them."""
# relative: some last bits of a float32, as much as sums in another order differ
_LITTLE = 2.0**-20


@dataclass(frozen=True)
class Original:
    """A model as it came, and what it computes on the first examples (batches of inputs): run once, when asked for.

    source: its path. widened: of a float16 model, the same in float32 as it was before all passes. examples: what is
    quantised is compared with float on all of them. absent: why there are none, where there are none. few: other
    examples, on which a graph that may be another function is held against the model. compared: on how many of the
    examples, the first, the model as it came and all layers are compared with what was made of them.
    """

    source: Path
    widened: Model | None
    examples: Sequence[Arrays]
    absent: str = "there are no examples"
    few: Sequence[Arrays] = ()
    compared: int = CHECKED

    @property
    def checked(self) -> Sequence[Arrays]:
        """The first examples, which are enough to find layers that compute something else."""
        return self.examples[: self.compared]

    @cached_property
    def halves(self) -> Sequence[Arrays]:
        """The outputs of a float16 model in its own arithmetic, for each checked example; empty for another model."""
        return _outputs(self.session(), self.checked) if self.widened is not None else ()

    @cached_property
    def outputs(self) -> Sequence[Arrays]:
        """The outputs of the model in float32, for each checked example."""
        return self._singles[len(self.few) :]

    @property
    def outputs_of_few(self) -> Sequence[Arrays]:
        """The outputs of the model in float32, for each of the few other examples."""
        return self._singles[: len(self.few)]

    @cached_property
    def _singles(self) -> Sequence[Arrays]:
        return _outputs(self._session(), [*self.few, *self.checked])

    def rounding_db(self, prepared: Model) -> Mapping[str, float]:
        """Return the SQNR in dB of each output where float32 is rounded otherwise: the worst of three comparisons.

        The model as it came and `prepared` without onnxruntime's optimisations, each with itself, and the model on
        inputs that differ in their last bits. A function that loses much so, such as a probability that is 0 but for
        its last bits, loses it by any change. Found out once for each `prepared`.
        """
        if id(prepared) not in self._rounding:
            self._rounding[id(prepared)] = (prepared, self._rounding_db(prepared))
        return self._rounding[id(prepared)][1]

    @cached_property
    def _rounding(self) -> dict[int, tuple[Model, Mapping[str, float]]]:
        return {}

    def _rounding_db(self, prepared: Model) -> Mapping[str, float]:
        moved = [{name: _moved(array) for name, array in example.items()} for example in self.checked]
        serialized = model_io.serialize(prepared)
        ready, plain = (_outputs(Session(serialized, optimize=o), self.checked) for o in (True, False))
        pairs = (
            (self.outputs, _outputs(self._session(optimize=False), self.checked)),
            (self.outputs, _outputs(self._session(), moved)),
            (ready, plain),
        )
        result: dict[str, float] = {}
        for wanted, other in pairs:
            for name, db in _sqnr(wanted, other).items():
                result[name] = min(db, result.get(name, math.inf))
        return result

    def session(self, *, optimize: bool = True) -> Session:
        """Return the model as it came, loaded."""
        return Session(self._file, optimize=optimize, name=str(self.source))

    @cached_property
    def _file(self) -> Serialized:
        return model_io.refer(self.source)

    def _session(self, *, optimize: bool = True) -> Session:
        if self.widened is None:
            return self.session(optimize=optimize)
        return Session(model_io.serialize(self.widened), optimize=optimize, name="the model in float32")


def _sqnr(wanted: Sequence[Arrays], other: Sequence[Arrays]) -> dict[str, float]:
    noise: dict[str, SignalToNoise] = {}
    for one, two in zip(wanted, other, strict=True):
        for name in measured_outputs(one):
            noise.setdefault(name, SignalToNoise()).add(one[name], two[name])
    return {name: one.db for name, one in noise.items() if one.db is not None}


def _moved(array: np.ndarray) -> np.ndarray:
    """Each float32 a little larger or smaller."""
    if array.dtype != np.float32:
        return array
    factors = np.random.default_rng(0).choice(np.array([1 - _LITTLE, 1 + _LITTLE], np.float32), array.shape)
    with np.errstate(over="ignore"):
        result: np.ndarray = array * factors
    return result


def _outputs(session: Session, examples: Sequence[Arrays]) -> list[dict[str, np.ndarray]]:
    names = [spec.name for spec in session.inputs]

    def run(example: Arrays) -> dict[str, np.ndarray]:
        return kept(session.run({n: example[n] for n in names if n in example}))

    return list(side_by_side(run, examples))
