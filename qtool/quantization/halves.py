"""The examples that choose among plans, and those that report what was chosen: no more than their runs may cost."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from qtool.core.records.examples import halves
from qtool.core.records.statistics import Statistics
from qtool.graph import edit
from qtool.graph.edit import Array
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.recovery.attention import attentions
from qtool.pipeline.recovery.masks import has_masks
from qtool.pipeline.verify.macs import known_total, macs_of, shapes_of
from qtool.pipeline.verify.original import CHECKED, Original

Arrays = Mapping[str, Array]
_SMALL = 2**25
"""A graph of fewer weights may be run once to find out its shapes."""
_ALWAYS = 8
"""So many of each half, if there are as many, whatever they cost."""
_FEW = 2
_MACS, _NUMBERS = 2**33, 2**25
"""More of them while together they multiply so often, and their outputs hold no more numbers than that; as many of
those that report are compared tensor by tensor, where a number that is computed counts as `_PER_NUMBER`."""
_PER_NUMBER = 2**6
_REPORTS = 4
"""So many times as much may be multiplied to report: it is done once, and a few samples may make most of the noise."""


@dataclass(frozen=True, slots=True)
class Halves:
    """choosing: the statistics with the examples that choose. reporting: batches of inputs, for the figures.

    One that is alone does both. compared: on how many of those that report all tensors are compared.
    """

    choosing: Statistics
    reporting: Sequence[Arrays]
    compared: int

    @property
    def few(self) -> Sequence[Arrays]:
        """The first examples that choose: enough to see whether a graph computes what the model as it came does."""
        return self.choosing.examples[:_FEW]

    @property
    def chose(self) -> Collection[int]:
        """The samples of the data that choose, by the index of the first of each batch or sequence."""
        return set(self.choosing.starts)

    @property
    def held_out(self) -> bool:
        """Whether the examples that report did not choose."""
        return len(self.choosing.examples) != 1 or self.reporting[0] is not self.choosing.examples[0]


def halved(prepared: Prepared, statistics: Statistics) -> Halves:
    """Return the halves of the examples: as many as the multiply-accumulates of the graph allow, whatever the clock."""
    choosing, reporting = halves(statistics.examples)
    if len(choosing) <= _FEW:
        return Halves(_choosing(statistics), reporting, CHECKED)
    macs, given = _work(prepared, choosing[0])
    most, reports = (
        max(_ALWAYS, min(times * _MACS // max(macs, 1), _NUMBERS // max(given, 1))) for times in (1, _REPORTS)
    )
    numbers = sum(histogram.count for histogram in statistics.tensors.values()) // max(statistics.samples, 1)
    compared = max(_FEW, min(CHECKED, _MACS // max(macs + _PER_NUMBER * numbers, 1)))
    return Halves(_choosing(statistics, most), reporting[:reports], compared)


def _choosing(statistics: Statistics, most: int | None = None) -> Statistics:
    """The statistics with the examples that choose, at most so many."""
    examples, starts = halves(statistics.examples)[0], halves(statistics.starts)[0]
    return replace(statistics, examples=examples[:most], starts=starts[:most])


def original_of(prepared: Prepared, half: Halves, absent: str = "there are no examples") -> Original:
    """Return the model that a prepared graph came from, on the examples that report; `absent` as in `Original`."""
    # a graph with mild masks may be another function, and one with joined attention rounds otherwise
    few = half.few if has_masks(prepared.model) or attentions(prepared.model) else ()
    return Original(prepared.path, prepared.widened, half.reporting, absent, few, half.compared)


def _work(prepared: Prepared, example: Arrays) -> tuple[int, int]:
    """The multiply-accumulates of a run on an example, and the numbers in its outputs."""
    model = prepared.model
    outputs = [str(v.name) for v in model.graph.outputs if edit.is_tensor(v)]
    constants = (v.const_value for graph in model.graphs() for v in graph.initializers.values())
    weights = sum(constant.size for constant in constants if constant is not None)
    shapes = shapes_of(model, example, outputs, run=weights < _SMALL)
    macs = macs_of(model, shapes)
    total = known_total(macs)
    if None in macs.values():
        # in the body of an If or Loop, or of a large model whose shapes only a run would tell: by its tokens
        total += weights * max(array.size for array in example.values())
    numbers = sum(math.prod(shapes.get(name, ())) for name in outputs)
    return total, numbers
