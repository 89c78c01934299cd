"""The score of a plan: the SQNR of the outputs, as onnxruntime executes it, on the examples that choose."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qtool.core.concurrency import side_by_side
from qtool.core.numerics.sqnr import loudness
from qtool.core.numerics.weights import WeightMemo
from qtool.core.records.plan import Plan
from qtool.graph import compose, edit, model_io
from qtool.graph.edit import Model
from qtool.graph.parts import saturating_ends
from qtool.pipeline.rewrite.static import rewrite
from qtool.pipeline.verify.judged import Judged, OutputJudge
from qtool.runtime.session import Session, kept

Arrays = Mapping[str, np.ndarray]
KEPT = 3
"""Of the models that are compared on a few examples, so many of the best are worth to be compared on all."""


@dataclass(frozen=True, slots=True)
class _Begun:
    """A loaded model, and what it gave on the first `count` examples."""

    run: Callable[[Arrays], Arrays]
    judged: Judged
    count: int

    @property
    def figure(self) -> float | None:
        return _figure(self.judged)

    @property
    def worth(self) -> float:
        """The figure; the least there is for none."""
        return loudness(self.figure)


def _figure(judged: Judged) -> float | None:
    figure = judged.figure()
    return None if figure is None else loudness(figure)


def content(plan: Plan) -> Hashable:
    """Return what plans for one graph that give the same model have in common."""
    activations = tuple((row.tensor, row.params) for row in plan.activations)
    rows = (*plan.weights, *plan.dynamic, *plan.stored)
    weights = tuple((row.tensor, row.params, row.integers) for row in rows)
    return activations, weights, plan.blocks, plan.shifts


class Scorer:
    """Runs the float graph once and compares plans with it.

    Args:
        prepared: the prepared graph.
        examples: batches of inputs.
        config: session configuration of the target.
        exact: the outputs of the float graph for each example, where they are known, with what the Sigmoids and
            Softmaxes in `saturating_ends` read.
    """

    def __init__(
        self,
        prepared: Model,
        examples: Sequence[Arrays],
        config: Mapping[str, str],
        exact: Sequence[Arrays] | None = None,
    ) -> None:
        self._prepared, self._examples, self._config = prepared, examples, config
        if exact is None:
            names = [str(v.name) for v in prepared.graph.outputs]
            reads = [end.reads for end in saturating_ends(prepared)]
            graph = compose.with_outputs(prepared, list(dict.fromkeys([*names, *reads])))
            run = Session(graph, name="the prepared model").run
            exact = list(side_by_side(lambda example: kept(run(example)), examples))
        # the mask of padded positions lies among the inputs
        self._exact = [{**example, **outputs} for example, outputs in zip(examples, exact, strict=True)]
        self._judge = OutputJudge(prepared, examples[0], exact[0])
        self._begun: dict[tuple[int, Hashable], _Begun] = {}

    @property
    def samples(self) -> int:
        """The number of examples."""
        return len(self._examples)

    def sqnr_db(self, plan: Plan, prepared: Model | None = None, memo: WeightMemo | None = None) -> float | None:
        """Return the worst output's SQNR in dB over the examples; None where there is none to measure.

        That of its worst part, and of what a saturated Sigmoid or Softmax reads: see `OutputJudge`.

        `prepared` is the graph of the plan where that is another form of the same function; `memo` is that graph's.
        """
        judged = self._judge.start()
        made = side_by_side(self._runner(plan, prepared, memo), self._examples)
        for exact, outputs in zip(self._exact, made, strict=True):
            judged.add(exact, outputs)
        return _figure(judged)

    def by_example(self, plan: Plan, prepared: Model) -> list[float | None]:
        """Return the figure that `sqnr_db` gives for each example by itself."""
        figures = []
        for exact, outputs in zip(self._exact, map(self._runner(plan, prepared, None), self._examples), strict=True):
            judged = self._judge.start()
            judged.add(exact, outputs)
            figures.append(_figure(judged))
        return figures

    def compare(
        self, plans: Sequence[Plan], prepared: Model, memo: WeightMemo, *, first: int | None = None
    ) -> Iterator[float | None]:
        """Yield the figure that `sqnr_db` gives for each of several plans of one graph, in their order.

        `first`: on so many of the examples alone, the first. The models of the best `KEPT` stay loaded then, and run on
        the others alone when they are compared on all; until `forget`.
        """
        if len(plans) > 1:
            quantize_ahead(prepared, plans, memo)
        each = side_by_side if len(plans) == 1 else map

        def measure(plan: Plan) -> _Begun:
            begun = self._begun.get((id(prepared), content(plan)))
            begun = begun or _Begun(self._runner(plan, prepared, memo), self._judge.start(), 0)
            examples = self._examples[begun.count : first]
            outputs = each(begun.run, examples)
            for exact, made in zip(self._exact[begun.count : first], outputs, strict=True):
                begun.judged.add(exact, made)
            return replace(begun, count=begun.count + len(examples))

        for plan, begun in zip(plans, side_by_side(measure, plans), strict=True):
            self._begun.pop((id(prepared), content(plan)), None)
            if first is not None:
                self._begun[id(prepared), content(plan)] = begun
                if len(self._begun) > KEPT:
                    del self._begun[min(self._begun, key=lambda key: self._begun[key].worth)]
            yield begun.figure

    def forget(self) -> None:
        """Let go of the models that are loaded."""
        self._begun.clear()

    def _runner(self, plan: Plan, prepared: Model | None, memo: WeightMemo | None) -> Callable[[Arrays], Arrays]:
        model = rewrite(self._prepared if prepared is None else prepared, plan, memo)
        reads = compose.hand_out_reads(model, {end.node: end.reads for end in self._judge.ends})
        session = Session(model_io.consume(model), config=self._config, name="the quantised model")

        def run(example: Arrays) -> Arrays:
            made = session.run(example)
            return made | {name: made[output] for name, output in reads.items()}

        return run


def quantize_ahead(prepared: Model, plans: Sequence[Plan], memo: WeightMemo) -> None:
    """Fill the memo with the integers that the plans need, so that they are not made twice at once."""
    rows = [row for plan in plans for row in (*plan.weights, *plan.dynamic, *plan.stored)]
    wanted = {(row.tensor, row.params) for row in rows if row.integers is None}
    initializers = prepared.graph.initializers
    for _ in side_by_side(lambda w: memo.quantized(w[0], edit.constant(initializers[w[0]]), w[1]), wanted):
        pass
