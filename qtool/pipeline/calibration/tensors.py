"""The choice of tensors that a calibration takes statistics of, so that they serve every target."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from qtool.core.errors import ModelError, NothingToQuantizeError
from qtool.core.numerics.padding import Padding
from qtool.core.records.options import Scheme
from qtool.core.records.placement import Placement
from qtool.graph import edit
from qtool.graph.edit import Model
from qtool.graph.positions import find_padding
from qtool.pipeline.planning.place import place
from qtool.pipeline.planning.selection import static_scheme
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.recovery.smoothing import smoothable_tensors
from qtool.targets.tables import distinct_targets


@dataclass(frozen=True, slots=True)
class CalibratedTensors:
    """The names of what is counted: of `tensors` the values, of `channels` the range of each channel too.

    finite: those that may hold neither NaN nor Inf, since every target of this machine quantises them. padding: where
    those that are computed hold padded positions, which are not counted; None where no mask says so.
    """

    tensors: tuple[str, ...]
    channels: tuple[str, ...]
    finite: frozenset[str] = frozenset()
    padding: Padding | None = None

    def masked(self, model: Model, mask: str | None) -> "CalibratedTensors":
        """Return what is counted where the zeros of an input are padding; inputs of the graph are counted whole."""
        if mask is None:
            return self
        fed = {value.name for value in model.graph.inputs}
        computed = [name for name in dict.fromkeys((*self.tensors, *self.channels)) if name not in fed]
        return replace(self, padding=find_padding(model, mask, computed))


def find_tensors(prepared: Prepared) -> CalibratedTensors:
    """Find the tensors that statistics must hold for any target, in graph order.

    Steps that are decided from data (`qtool.pipeline.recovery.steps.decide`) change only constants, none of these.

    Raises:
        NothingToQuantizeError: no target finds anything.
        ModelError: a constant that is to be quantised holds NaN or Inf.
    """
    placements: list[Placement] = []
    own: list[Placement] = []
    failure: NothingToQuantizeError | None = None
    for target in distinct_targets():
        try:
            # where no layer has calibrated ranges there is nothing to count, and yet examples to keep
            scheme = static_scheme(prepared.model, target, Scheme())
            found = place(prepared.model, target, scheme, name=prepared.name)
        except NothingToQuantizeError as error:
            failure = failure or error
            continue
        placements.append(found)
        if target.on_cpu:
            own.append(found)
    if not placements:
        assert failure is not None
        raise failure
    tensors = dict.fromkeys(tensor for placement in placements for tensor in placement.calibrated)
    _refuse_not_finite(prepared, placements)
    finite = frozenset.intersection(*(frozenset(placement.calibrated) for placement in own or placements))
    return CalibratedTensors(tuple(tensors), tuple(smoothable_tensors(prepared.model)), finite)


def _refuse_not_finite(prepared: Prepared, placements: Sequence[Placement]) -> None:
    """Refuse weights and other constants that no grid can hold."""
    for placement in placements:
        readers = {site.tensor: site.readers[0] for site in (*placement.weights, *placement.dynamic)}
        readers |= {site.tensor: site.readers[0] for site in placement.constants}
        readers |= {site.tensor: site.reader for site in placement.biases}
        for tensor, (layer, _) in readers.items():
            if not np.isfinite(edit.constant(prepared.model.graph.initializers[tensor])).all():
                raise ModelError(
                    f"{prepared.name}: initializer {tensor!r} of layer {layer!r} holds NaN or Inf; repair the model"
                )
