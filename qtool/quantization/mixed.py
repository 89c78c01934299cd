"""The choice which layers over tokens are dynamic and which static, one by one: by what rounding their input costs.

A calibrated range is as wide as all samples together, less what the calibrator clips; the range of one run is as wide
as that run. The first costs step^2 / 12 and the clipped part, the second its own step^2 / 12, on average over the
examples.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from qtool.core.records.placement import Placement
from qtool.core.records.statistics import Statistics
from qtool.graph.edit import Model
from qtool.pipeline.recovery.example_statistics import Channels

_WORTH = 0.7
"""Finding the range costs time: a layer is dynamic where its noise falls below this share of the static one's."""


def better_dynamic(
    model: Model,
    placement: Placement,
    ranges: Mapping[str, tuple[float, float]],
    layers: Sequence[str],
    statistics: Statistics,
    seen: Mapping[str, Channels],
) -> tuple[str, ...]:
    """Return the names among `layers`, placed static, that are better dynamic, in their order.

    `ranges`: those of the static placement, by root tensor. `seen`: the extremes of the layers' inputs on the examples.
    What is clipped is counted in the histograms.
    """
    roots = {name: site.root for site in placement.sites for name, index in site.readers if index == 0}
    tensors = {str(n.name): str(n.inputs[0].name) for n in model.graph if n.name in layers and n.inputs[0] is not None}
    result = []
    for name in layers:
        if roots.get(name) not in ranges or tensors[name] not in seen:
            continue
        low, high = ranges[roots[name]]
        source = tensors[name] if tensors[name] in statistics.tensors else roots[name]
        static = (high - low) ** 2 / 255.0**2 / 12.0 + _clipped(statistics, source, low, high)
        found = seen[tensors[name]]
        widths = np.maximum(found.highs.max(axis=1), 0.0) - np.minimum(found.lows.min(axis=1), 0.0)
        if float(np.square(widths, dtype=np.float64).mean()) / 255.0**2 / 12.0 < _WORTH * static:
            result.append(name)
    return tuple(result)


def _clipped(statistics: Statistics, tensor: str, low: float, high: float) -> float:
    """The mean square of what lies outside of [low, high]; nothing where a range alone is known: it is exact."""
    if tensor in statistics.ranges or tensor not in statistics.tensors:
        return 0.0
    bins = statistics.tensors[tensor].distribution()
    middle = (bins.low + bins.high) / 2.0
    return float(bins.counts @ np.square(middle - np.clip(middle, low, high))) / max(float(bins.counts.sum()), 1.0)
