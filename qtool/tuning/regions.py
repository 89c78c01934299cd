"""The regions that `quantize` would leave in float, as a step of tuning."""

from collections.abc import Callable, Sequence

from qtool.core.numerics.calibrators import Calibrator
from qtool.core.progress import Progress
from qtool.quantization.candidate import Candidate
from qtool.quantization.graphs import FloatGraph
from qtool.quantization.partial import PartialSearch
from qtool.quantization.request import Request
from qtool.quantization.wanted import MIN_SQNR, Wanted
from qtool.tuning.start import Start

Regions = Callable[[Start, float], Candidate | None]
"""The best candidate with regions in float that comes of a start, for that SQNR at least; None where none gains."""


def regions_by_quantize(
    start: Start, demand_db: float, calibrators: Sequence[Calibrator], progress: Progress
) -> Candidate | None:
    """Return the plan of a start with what `quantize` would leave in float; None where that is nothing.

    `demand_db`: the SQNR that is asked for besides what tuning aims at.

    Raises:
        ModelError, VerificationError, DataError: onnxruntime does not run a part of it.
    """
    planner, aim = start.judge.planner, start.judge.aim
    graph = FloatGraph(planner.prepared, planner.statistics, None, memo=planner.memo)
    plan = planner.plan(start.calibrator, corrected=start.corrected, refined=start.refined)
    request = Request(planner.scheme, planner.target, None, tuple(calibrators), "auto", "off", "accuracy", progress)
    least = max(MIN_SQNR if aim.min_sqnr is None else aim.min_sqnr, demand_db)
    search = PartialSearch(
        Candidate(graph, planner, start.calibrator, plan), Wanted(least, aim.max_float_macs), None, request
    )
    found, left = search.found(search.figure)
    return found if left else None
