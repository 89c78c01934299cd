"""The times of single nodes, from onnxruntime's profiler."""

import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from qtool.core.scratch import scratch_folder
from qtool.graph.optimized import ExecutedNode, OwnNames, executed_nodes
from qtool.graph.serialized import Serialized
from qtool.runtime.session import Session

_EVENT = "_kernel_time"
_BEGINS = '{"cat" : "'
_UNESCAPED = re.compile(
    r'Node","pid" :\d+,"tid" :\d+,"dur" :(?P<us>\d+),"ts" :\d+,"ph" : "X","name" :"(?P<name>.*?)'
    + _EVENT
    + r'","args" : \{.*?"op_name" : "(?P<op>[^"]*)"',
    re.DOTALL,
)
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
        taken, _ = _profiled(session, examples, seconds)
    result: dict[str, float] = {}
    for (name, _), times in taken.items():
        before = own.before(name)
        before = before.removesuffix(_BLOCKED) if before == name else before
        result[before] = result.get(before, 0.0) + float(np.median(times))
    return result


def timed_nodes(
    model: Serialized, examples: Sequence[Mapping[str, np.ndarray]], seconds: float, name: str = "the model"
) -> tuple[tuple[ExecutedNode, ...], tuple[float, ...]]:
    """Run a model in a default session with onnxruntime's profiler, and return the graph that is executed, with times.

    Of each node the milliseconds of one run, the median over the runs, 0 for one that did not run; of an If, Loop or
    Scan those that it takes beside the nodes of its bodies. `seconds`: after as long, the last run begins.
    `name`: what to call the model in messages.

    Raises:
        DataError, ModelError: the model does not run on an example, or does not load.
    """
    own = OwnNames.of(model)
    with scratch_folder(_ROOM + len(model.graph)) as folder:
        path = folder / "optimized.onnx"
        with suppress(OSError):
            # nobody reads the weights
            (folder / "weights").symlink_to(os.devnull)
        session = Session(
            own.model, profile_to=folder / "profile", save_optimized=path, save_weights="weights", name=name
        )
        taken, runs = _profiled(session, examples, seconds)
        nodes = tuple(executed_nodes(path, own))
    return nodes, _by_node(nodes, taken, runs)


def _by_node(
    nodes: Sequence[ExecutedNode], taken: Mapping[tuple[str, str], Sequence[float]], runs: int
) -> tuple[float, ...]:
    alike = Counter((node.label, node.op_type) for node in nodes)
    result = []
    for node in nodes:
        key = (node.label, node.op_type)
        times = taken.get(key, ())
        # nodes in the body of a Loop run several times a run
        each = float(np.median(times)) * len(times) / (runs * alike[key]) if times else 0.0
        result.append(each / 1e6)
    places = {node.label: number for number, node in enumerate(nodes)}
    for number, node in enumerate(nodes):
        if node.inside in places:
            holder = places[node.inside]
            result[holder] = max(result[holder] - result[number], 0.0)
    return tuple(result)


def _profiled(
    session: Session, examples: Sequence[Mapping[str, np.ndarray]], seconds: float
) -> tuple[dict[tuple[str, str], list[float]], int]:
    """The nanoseconds of each run of each node, by its name and operator; and how many runs there were."""
    end, runs = time.perf_counter() + seconds, 0
    while runs < 2 or (runs < _RUNS and time.perf_counter() < end):
        session.run_list(examples[runs % len(examples)], session.outputs)
        runs += 1
    taken: dict[tuple[str, str], list[float]] = {}
    for name, op_type, duration in _events(Path(session.end_profile()).read_text(encoding="utf-8")):
        taken.setdefault((name, op_type), []).append(1000.0 * duration)
    return taken, runs


def _events(profile: str) -> Iterator[tuple[str, str, float]]:
    """The name, the operator and the microseconds of each run of a node.

    onnxruntime 1.24 writes names as they are, so that a tensor's with a quotation mark in it, by which it calls a
    convolution, is no JSON.
    """
    try:
        events = json.loads(profile)
    except json.JSONDecodeError:
        for found in filter(None, map(_UNESCAPED.match, profile.split(_BEGINS))):
            yield found["name"], found["op"], float(found["us"])
        return
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_EVENT):
            yield event["name"].removesuffix(_EVENT), event["args"]["op_name"], event["dur"]
