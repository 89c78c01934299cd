"""Which layers over tokens are better dynamic, and which static, one by one: by what rounding their input costs.

A calibrated range is as wide as all samples together, less what the calibrator clips; the range of one run is as wide
as that run. The first costs step^2 / 12 and the clipped part, the second its own step^2 / 12, on average over the
examples.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from qtool.core.placement import Placement
from qtool.graph import compose
from qtool.graph.edit import Model
from qtool.runtime.session import Session

_WORTH = 0.7
"""Finding the range costs time: a layer is dynamic where its noise falls below this share of the static one's."""


def better_dynamic(
    model: Model,
    placement: Placement,
    ranges: Mapping[str, tuple[float, float]],
    layers: Sequence[str],
    examples: Sequence[Mapping[str, np.ndarray]],
) -> tuple[str, ...]:
    """Those of `layers` (placed static, with these ranges by root tensor) that are better dynamic, in their order."""
    roots = {name: site.root for site in placement.sites for name, index in site.readers if index == 0}
    tensors = {str(n.name): str(n.inputs[0].name) for n in model.graph if n.name in layers and n.inputs[0] is not None}
    wanted = {name: tensor for name, tensor in tensors.items() if roots.get(name) in ranges}
    fed = {v.name for v in model.graph.inputs}
    computed = [t for t in dict.fromkeys(wanted.values()) if t not in fed]
    session = Session(compose.with_outputs(model, computed), name="the prepared model") if computed else None
    static, dynamic = dict.fromkeys(wanted, 0.0), dict.fromkeys(wanted, 0.0)
    for example in examples:
        arrays = {**example, **(session.run(example) if session else {})}
        for name, tensor in wanted.items():
            low, high = ranges[roots[name]]
            array = arrays[tensor]
            clipped = array - np.clip(array, low, high)
            static[name] += (high - low) ** 2 / 255.0**2 / 12.0 + float(np.square(clipped, dtype=np.float64).mean())
            width = max(float(array.max(initial=0.0)), 0.0) - min(float(array.min(initial=0.0)), 0.0)
            dynamic[name] += width**2 / 255.0**2 / 12.0
    return tuple(name for name in layers if name in wanted and dynamic[name] < _WORTH * static[name])
