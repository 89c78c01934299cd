"""How good a plan is: the SQNR of the outputs, as onnxruntime executes it, on a few samples."""

from collections.abc import Mapping, Sequence

import numpy as np

from qtool.core.plan import Plan
from qtool.core.verification import signal_to_noise
from qtool.graph import model_io
from qtool.graph.edit import Model
from qtool.runtime.session import Session
from qtool.stages.rewrite import rewrite


class Yardstick:
    """Runs the float graph once and compares plans with it.

    Args:
        prepared: the prepared graph.
        examples: batches of inputs.
        config: session configuration of the target.
    """

    def __init__(
        self, prepared: Model, examples: Sequence[Mapping[str, np.ndarray]], config: Mapping[str, str]
    ) -> None:
        session = Session(model_io.serialize(prepared), name="the prepared model")
        self._prepared, self._examples, self._config = prepared, examples, config
        self._exact = [session.run(example) for example in examples]
        self._names = [name for name in session.outputs if self._exact[0][name].dtype.kind == "f"]

    def sqnr_db(self, plan: Plan, prepared: Model | None = None) -> float:
        """The mean over the float outputs of each one's SQNR over the examples, none counted beyond 100 dB.

        `prepared` is the graph of the plan where that is another form of the same function.
        """
        model = model_io.consume(rewrite(self._prepared if prepared is None else prepared, plan))
        session = Session(model, config=self._config, name="the quantised model")
        outputs = [session.run(example) for example in self._examples]
        figures = []
        for name in self._names:
            a = np.concatenate([e[name].reshape(-1) for e in self._exact])
            b = np.concatenate([r[name].reshape(-1) for r in outputs])
            figures.append(float(np.clip(signal_to_noise(a, b), -100.0, 100.0)))
        return sum(figures) / len(figures) if figures else 0.0
