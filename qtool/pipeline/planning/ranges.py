"""choose: from statistics to ranges, one a tensor. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from qtool.core.errors import CalibrationError, DataError, arg
from qtool.core.numerics.affine import TensorSpec
from qtool.core.numerics.calibrators import Calibrator
from qtool.core.numerics.histogram import Distribution, Histogram
from qtool.core.records.placement import Placement
from qtool.core.records.statistics import Statistics


@dataclass(frozen=True, slots=True)
class RangeMemo:
    """The results that choosing for several placements and calibrators shares, by tensor, of the same histograms."""

    distributions: dict[str, Distribution] = field(default_factory=dict)
    ranges: dict[tuple[str, Calibrator, TensorSpec], tuple[float, float]] = field(default_factory=dict)

    def range_of(
        self, tensor: str, histogram: Histogram, calibrator: Calibrator, spec: TensorSpec
    ) -> tuple[float, float]:
        """Return what `Calibrator.range_of` gives, found once for each tensor, calibrator and representation."""
        key = (tensor, calibrator, spec)
        if key not in self.ranges:
            if tensor not in self.distributions:
                self.distributions[tensor] = histogram.distribution()
            self.ranges[key] = calibrator.range_of(self.distributions[tensor], spec)
        return self.ranges[key]


def choose(
    placement: Placement, statistics: Statistics, calibrator: Calibrator, memo: RangeMemo | None = None
) -> Mapping[str, tuple[float, float]]:
    """Choose a range for each calibrated tensor by `calibrator`, and return root tensor -> (low, high).

    A tensor of which there are no statistics takes those of the nearest one that it is passed through from, or else of
    one that it is passed on as.

    `memo`: what was chosen from these histograms before; is added to.

    Raises:
        CalibrationError: the statistics lack a tensor.
        DataError: a tensor held NaN or Inf.
    """
    specs = {site.root: site.spec for site in placement.sites}
    unions = {site.root: site.union for site in placement.sites if site.union and site.root == site.tensor}
    origins = {site.root: site.origins for site in placement.sites if site.root == site.tensor}
    memo = memo or RangeMemo()
    ranges: dict[str, tuple[float, float]] = {}
    for tensor in placement.calibrated:
        if tensor in unions:
            joined = [ranges[part] for part in unions[tensor]]
            ranges[tensor] = (min(low for low, _ in joined), max(high for _, high in joined))
            continue
        if tensor in statistics.ranges:
            ranges[tensor] = statistics.ranges[tensor]
            continue
        passed_on = (site.tensor for site in placement.sites if site.root == tensor)
        near = (tensor, *origins.get(tensor, ()), *passed_on)
        counted = next((t for t in near if t in statistics.tensors or t in statistics.flaws), None)
        if counted is None:
            raise CalibrationError(f"{statistics.name}: holds no statistics of tensor {tensor!r}; calibrate again")
        if counted in statistics.flaws:
            raise _not_finite(tensor, statistics.flaws[counted].origin, placement)
        ranges[tensor] = memo.range_of(counted, statistics.tensors[counted], calibrator, specs[tensor])
    return ranges


def _not_finite(tensor: str, origin: str, placement: Placement) -> DataError:
    site = next(site for site in placement.sites if site.root == tensor)
    layer = (*site.readers, *site.float_readers, ("", 0))[0][0]
    return DataError(
        f"{origin}: tensor {tensor!r}, to be quantised for layer {layer!r}, holds NaN or Inf; "
        f"remove the sample and calibrate again, or leave the layer in float with {arg('exclude', layer)}"
    )
