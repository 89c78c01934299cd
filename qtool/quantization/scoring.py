"""The score of a plan: the SQNR of the outputs, as onnxruntime executes it, on the examples that choose."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from qtool.core.concurrency import side_by_side
from qtool.core.numerics.sqnr import loudness
from qtool.core.numerics.weights import WeightMemo
from qtool.core.records.plan import Plan
from qtool.graph import compose, edit, model_io
from qtool.graph.edit import Model
from qtool.graph.parts import saturating_ends
from qtool.pipeline.rewrite.static import rewrite
from qtool.pipeline.verify.judged import OutputJudge
from qtool.runtime.session import Session

Arrays = Mapping[str, np.ndarray]


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
            exact = list(side_by_side(Session(graph, name="the prepared model").run, examples))
        self._exact = exact
        self._judge = OutputJudge(prepared, examples[0], exact[0])

    def sqnr_db(self, plan: Plan, prepared: Model | None = None, memo: WeightMemo | None = None) -> float | None:
        """Return the worst output's SQNR in dB over the examples; None where there is none to measure.

        That of its worst part, and of what a saturated Sigmoid or Softmax reads: see `OutputJudge`.

        `prepared` is the graph of the plan where that is another form of the same function; `memo` is that graph's.
        """
        return self._figure(list(side_by_side(self._runner(plan, prepared, memo), self._examples)))

    def compare(self, plans: Sequence[Plan], prepared: Model, memo: WeightMemo) -> Iterator[float | None]:
        """Yield the figure that `sqnr_db` gives for each of several plans of one graph, in their order."""
        if len(plans) == 1:
            yield self.sqnr_db(plans[0], prepared, memo)
            return
        quantize_ahead(prepared, plans, memo)

        def measure(plan: Plan) -> float | None:
            run = self._runner(plan, prepared, memo)
            return self._figure([run(example) for example in self._examples])

        yield from side_by_side(measure, plans)

    def _runner(self, plan: Plan, prepared: Model | None, memo: WeightMemo | None) -> Callable[[Arrays], Arrays]:
        model = rewrite(self._prepared if prepared is None else prepared, plan, memo)
        reads = compose.hand_out_reads(model, {end.node: end.reads for end in self._judge.ends})
        session = Session(model_io.consume(model), config=self._config, name="the quantised model")

        def run(example: Arrays) -> Arrays:
            made = session.run(example)
            return made | {name: made[output] for name, output in reads.items()}

        return run

    def _figure(self, outputs: Sequence[Arrays]) -> float | None:
        judged = self._judge.start()
        for exact, made in zip(self._exact, outputs, strict=True):
            judged.add(exact, made)
        figure = judged.figure()
        return None if figure is None else loudness(figure)


def quantize_ahead(prepared: Model, plans: Sequence[Plan], memo: WeightMemo) -> None:
    """Fill the memo with the integers that the plans need, so that they are not made twice at once."""
    rows = [row for plan in plans for row in (*plan.weights, *plan.dynamic, *plan.stored)]
    wanted = {(row.tensor, row.params) for row in rows if row.integers is None}
    initializers = prepared.graph.initializers
    for _ in side_by_side(lambda w: memo.quantized(w[0], edit.constant(initializers[w[0]]), w[1]), wanted):
        pass
