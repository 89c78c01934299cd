"""calibrate: one streaming pass of the float graph over the data; memory does not grow with the number of samples."""

from collections.abc import Sequence

from qtool.core.errors import DataError
from qtool.core.examples import EXAMPLES, Examples
from qtool.core.progress import Progress, silent
from qtool.core.statistics import Statistics
from qtool.graph import compose
from qtool.graph.edit import Model
from qtool.runtime.observe import Observer
from qtool.stages.calibrate.explain import NotFiniteDataError, explained
from qtool.stages.calibrate.feed import Feed
from qtool.stages.calibrate.observing import Counter, run_all

__all__ = ["collect"]


def collect(
    model: Model,
    tensors: Sequence[str],
    feed: Feed,
    *,
    name: str,
    digest: str,
    channels: Sequence[str] = (),
    threads: int = 1,
    progress: Progress = silent,
) -> Statistics:
    """Statistics of `tensors` of a prepared graph over all batches of `feed`; of those in `channels`, by channel too.

    Raises:
        DataError: there is no data, the model cannot run on it, or NaN or Inf is in it or is born in a layer, which is
            named then.
    """
    try:
        return _collect(model, tensors, channels, feed, name, digest, threads, progress)
    except NotFiniteDataError as error:
        raise explained(model, error, name) from error


def _collect(
    model: Model,
    tensors: Sequence[str],
    channels: Sequence[str],
    feed: Feed,
    name: str,
    digest: str,
    threads: int,
    progress: Progress,
) -> Statistics:
    inputs = {v.name for v in model.graph.inputs}
    computed = [t for t in dict.fromkeys((*tensors, *channels)) if t not in inputs]
    outputs = [str(v.name) for v in model.graph.outputs if v.name not in computed]
    carried = {state.output for state in feed.states}
    any_order = [t for t in computed if t not in carried and t not in channels]
    session = Observer(compose.with_outputs(model, [*computed, *outputs]), any_order, name)
    fed = [t for t in dict.fromkeys((*tensors, *channels)) if t in inputs]
    observer = Counter(name, session, fed, computed, channels, feed.states)
    samples = 0
    examples = Examples()
    for batch, runs in run_all(observer, feed, threads):
        if samples < EXAMPLES:
            examples.add(runs)
        samples += batch.size
        progress("calibrate", samples, feed.samples)
    if samples == 0:
        raise DataError(f"{feed.name}: holds no samples; give at least one")
    histograms = {t: observer.histograms[t] for t in tensors}
    by_channel = {t: observer.channels[t] for t in channels if t in observer.channels}
    return Statistics(name, digest, samples, histograms, examples.chosen(), channels=by_channel)
