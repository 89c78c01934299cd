"""choose: from statistics to ranges, one a tensor. Pure."""

from collections.abc import Mapping

from qtool.core.errors import CalibrationError
from qtool.core.placement import Placement
from qtool.core.ranges import Calibrator, choose_range
from qtool.core.statistics import Statistics


def choose(placement: Placement, statistics: Statistics, calibrator: Calibrator) -> Mapping[str, tuple[float, float]]:
    """Root tensor -> (low, high) by `calibrator`.

    Raises:
        CalibrationError: the statistics lack a tensor.
    """
    specs = {site.root: site.spec for site in placement.sites}
    unions = {site.root: site.union for site in placement.sites if site.union and site.root == site.tensor}
    ranges: dict[str, tuple[float, float]] = {}
    for tensor in placement.observed:
        if tensor in unions:
            joined = [ranges[part] for part in unions[tensor]]
            ranges[tensor] = (min(low for low, _ in joined), max(high for _, high in joined))
            continue
        if tensor in statistics.ranges:
            ranges[tensor] = statistics.ranges[tensor]
            continue
        histogram = statistics.tensors.get(tensor)
        if histogram is None:
            raise CalibrationError(f"{statistics.name}: holds no statistics of tensor {tensor!r}; calibrate again")
        ranges[tensor] = choose_range(histogram.distribution(), calibrator, specs[tensor])
    return ranges
