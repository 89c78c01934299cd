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
    ranges = {}
    for tensor in placement.observed:
        histogram = statistics.tensors.get(tensor)
        if histogram is None:
            raise CalibrationError(f"{statistics.name}: holds no statistics of tensor {tensor!r}; calibrate again")
        ranges[tensor] = choose_range(histogram.distribution(), calibrator, specs[tensor])
    return ranges
