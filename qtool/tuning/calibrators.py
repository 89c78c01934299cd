"""The paper's first step: every calibrator on the same statistics, the best is kept (section 6)."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from qtool.core.ranges import Calibrator
from qtool.core.results import Trial
from qtool.core.verification import signal_to_noise
from qtool.graph import model_io
from qtool.graph.edit import Model
from qtool.runtime.session import Session


def try_calibrators(
    prepared: Model,
    candidates: Sequence[Calibrator],
    quantized: Callable[[Calibrator], bytes],
    examples: Sequence[Mapping[str, np.ndarray]],
    config: Mapping[str, str],
) -> list[Trial]:
    """The SQNR of the outputs over the examples, as executed, for each candidate; the best first.

    The outputs are weighed alike: the figure is the mean over the float outputs of each one's SQNR in dB, none counted
    beyond 100 dB. Equal figures keep the order of the candidates.
    """
    session = Session(model_io.to_bytes(prepared), name="the prepared model")
    names = session.outputs
    exact = [session.run(example) for example in examples]
    names = [name for name in names if exact[0][name].dtype.kind == "f"]
    trials = []
    for candidate in candidates:
        ran = Session(quantized(candidate), config=config, name="the quantised model")
        outputs = [ran.run(example) for example in examples]
        trials.append(Trial(candidate, _mean_sqnr(names, exact, outputs)))
    return sorted(trials, key=lambda trial: -trial.sqnr_db)


def _mean_sqnr(names: Sequence[str], exact: list[dict[str, np.ndarray]], ran: list[dict[str, np.ndarray]]) -> float:
    figures = []
    for name in names:
        a = np.concatenate([e[name].reshape(-1) for e in exact])
        b = np.concatenate([r[name].reshape(-1) for r in ran])
        figures.append(float(np.clip(signal_to_noise(a, b), -100.0, 100.0)))
    return sum(figures) / len(figures) if figures else 0.0
