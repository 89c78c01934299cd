"""What a sensitivity analysis costs beside the naive way (one session and one full pass a layer), on MobileNetV2.

    python -m bench.sensitivity_cost [--samples N] [--rounds R]

Both get the pictures as arrays, one thread, and the same plans; the two ways are interleaved.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import qtool
from bench.machine import machine
from bench.zoo_models import ZooModel, vision_models, zoo_folder
from qtool.core.numerics.calibrators import Max
from qtool.core.records.options import Scheme
from qtool.core.records.sensitivity import VIEWS, Figures, View
from qtool.feeds import open_feeds
from qtool.graph import edit, model_io
from qtool.pipeline.planning.planner import Planner
from qtool.pipeline.prepare import prepare
from qtool.report.text import markdown
from qtool.targets.tables import find_target
from qtool.tuning.sensitivity.analyze import measure_layers
from qtool.tuning.sensitivity.variants import PlanOf
from tests.support.naive_sensitivity import naive

Found = dict[tuple[str, View], Figures]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    zoo = zoo_folder()
    if zoo is None:
        sys.exit("no zoo: set QTOOL_ZOO to its folder")
    model = next(m for m in vision_models(zoo) if m.name == "mobilenetv2")
    print(machine())
    print(sensitivity_cost(model, options.samples, options.rounds))


def sensitivity_cost(model: ZooModel, samples: int, rounds: int) -> str:
    """The table: for each view the ratio of times, and how far the figures are apart."""
    prepared, target = prepare(model_io.load(model.model)), find_target("auto")
    specs = edit.input_specs(prepared.model)
    calibration = qtool.calibrate(model.model, str(model.calibration), samples=16, preprocess=model.preprocess)
    pictures = list(open_feeds(str(model.evaluation), specs, preprocess=model.preprocess, samples=samples))
    parts = [{**batch.inputs, **batch.labels} for batch in pictures]
    feeds = open_feeds({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, specs)
    batches = list(feeds)

    def planner() -> PlanOf:
        made = Planner(prepared, calibration.statistics, target, Scheme())
        return lambda floating: made.plan(Max(), floating=floating, corrected=False)

    def fast(views: Sequence[View]) -> Found:
        found = measure_layers(prepared, planner(), target, feeds, metric=model.metric, views=views)
        rows = [(layer.name, view, layer.figures(view)) for layer in found.layers for view in views]
        return {(name, view): figures for name, view, figures in rows if figures is not None}

    def slow(views: Sequence[View]) -> Found:
        made = planner()
        return {
            (name, view): figures
            for view in views
            for name, figures in naive(prepared, made, target, batches, model.metric, view)
        }

    rows = []
    for views in (VIEWS[:1], VIEWS[1:], VIEWS):
        times = []
        for _ in range(rounds):
            *ours, found = _timed(fast, views)
            *theirs, wanted = _timed(slow, views)
            times.append((*ours, *theirs))
        metric, apart = _apart(found, wanted)
        wall, cpu = (statistics.median(row[i] / row[i + 2] for row in times) for i in (0, 1))
        seconds = [f"{statistics.median(row[i] for row in times):.1f}" for i in (0, 2)]
        rows.append([" and ".join(views), f"{wall:.2f}", f"{cpu:.2f}", *seconds, str(metric), f"{apart:.1e}"])
    return markdown(
        ["view", "time ratio", "CPU time ratio", "s", "naive s", "other metrics", "largest difference, dB"], rows
    )


def _timed(work: Callable[[Sequence[View]], Found], views: Sequence[View]) -> tuple[Any, ...]:
    """Wall and CPU seconds, and what was found."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work(views)
    return time.perf_counter() - wall, time.process_time() - cpu, found


def _apart(ours: Found, theirs: Found) -> tuple[int, float]:
    """In how many rows the metric is another one, and the largest difference of the SQNR."""
    if ours.keys() != theirs.keys():
        sys.exit("the two ways measured other layers")
    differences = [abs((ours[row].sqnr_db or 0.0) - (theirs[row].sqnr_db or 0.0)) for row in ours]
    return sum(ours[row].value != theirs[row].value for row in ours), max(differences)


if __name__ == "__main__":
    main()
