"""The times of single nodes, from onnxruntime's profiler."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from qtool.core.scratch import scratch_folder
from qtool.graph.optimized import OwnNames
from qtool.graph.serialized import Serialized
from qtool.runtime.session import Session

_EVENT = "_kernel_time"
_BLOCKED = "_nchwc"
_RUNS = 40
_ROOM = 2**24


def node_times(
    model: Serialized, examples: Sequence[Mapping[str, np.ndarray]], config: Mapping[str, str] | None, seconds: float
) -> dict[str, float]:
    """Run a model with onnxruntime's profiler, and return the nanoseconds of each node: medians over the runs.

    The key is the name of the node, or, for a convolution in blocks of channels, of its output
    (`core/optimizer/nchwc_transformer.cc` names them so). `seconds`: after as long, the last run begins.

    Raises:
        DataError, ModelError: the model does not run on an example, or does not load.
    """
    own = OwnNames.of(model)
    with scratch_folder(_ROOM) as folder:
        session = Session(own.model, config=config, profile_to=folder / "profile", name="the model")
        end, runs = time.perf_counter() + seconds, 0
        while runs < 2 or (runs < _RUNS and time.perf_counter() < end):
            session.run_list(examples[runs % len(examples)], session.outputs)
            runs += 1
        events = json.loads(Path(session.end_profile()).read_text(encoding="utf-8"))
    taken: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_EVENT):
            taken.setdefault(event["name"].removesuffix(_EVENT), []).append(1000.0 * event["dur"])
    result: dict[str, float] = {}
    for name, times in taken.items():
        before = own.before(name)
        before = before.removesuffix(_BLOCKED) if before == name else before
        result[before] = result.get(before, 0.0) + float(np.median(times))
    return result
