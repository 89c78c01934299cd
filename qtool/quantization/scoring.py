"""The score of a plan: the SQNR of the outputs, as onnxruntime executes it, on a few samples."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from qtool.core.concurrency import side_by_side
from qtool.core.numerics.sqnr import SignalToNoise, loudness, measured_outputs, worst
from qtool.core.numerics.weights import WeightMemo
from qtool.core.records.plan import Plan
from qtool.graph import edit, model_io
from qtool.graph.edit import Model
from qtool.pipeline.rewrite.static import rewrite
from qtool.runtime.session import Session

Arrays = Mapping[str, np.ndarray]


class Scorer:
    """Runs the float graph once and compares plans with it.

    Args:
        prepared: the prepared graph.
        examples: batches of inputs.
        config: session configuration of the target.
        exact: the outputs of the float graph for each example, where they are known.
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
            exact = list(side_by_side(Session(model_io.serialize(prepared), name="the prepared model").run, examples))
        self._exact = exact
        names = [str(v.name) for v in prepared.graph.outputs]
        self._names = measured_outputs({name: self._exact[0][name] for name in names})

    def sqnr_db(self, plan: Plan, prepared: Model | None = None, memo: WeightMemo | None = None) -> float | None:
        """Return the worst output's SQNR in dB over the examples; None where there is none to measure.

        `prepared` is the graph of the plan where that is another form of the same function; `memo` is that graph's.
        """
        session = self._session(plan, prepared, memo)
        return self._figure(list(side_by_side(session.run, self._examples)))

    def compare(self, plans: Sequence[Plan], prepared: Model, memo: WeightMemo) -> Iterator[float | None]:
        """Yield the figure that `sqnr_db` gives for each of several plans of one graph, in their order."""
        if len(plans) == 1:
            yield self.sqnr_db(plans[0], prepared, memo)
            return
        quantize_ahead(prepared, plans, memo)

        def measure(plan: Plan) -> float | None:
            session = self._session(plan, prepared, memo)
            return self._figure([session.run(example) for example in self._examples])

        yield from side_by_side(measure, plans)

    def _session(self, plan: Plan, prepared: Model | None, memo: WeightMemo | None) -> Session:
        model = rewrite(self._prepared if prepared is None else prepared, plan, memo)
        return Session(model_io.consume(model), config=self._config, name="the quantised model")

    def _figure(self, outputs: Sequence[Arrays]) -> float | None:
        found = {name: SignalToNoise() for name in self._names}
        for exact, made in zip(self._exact, outputs, strict=True):
            for name, noise in found.items():
                noise.add(exact[name], made[name])
        figure = worst(noise.db for noise in found.values())
        return None if figure is None else loudness(figure)


def quantize_ahead(prepared: Model, plans: Sequence[Plan], memo: WeightMemo) -> None:
    """Fill the memo with the integers that the plans need, so that they are not made twice at once."""
    wanted = {(w.tensor, w.params) for plan in plans for w in (*plan.weights, *plan.dynamic, *plan.stored)}
    initializers = prepared.graph.initializers
    for _ in side_by_side(lambda w: memo.quantized(w[0], edit.constant(initializers[w[0]]), w[1]), wanted):
        pass
