"""The choice of tensors that a calibration takes statistics of, so that they serve every target."""

from dataclasses import dataclass

from qtool.core.errors import NothingToQuantizeError
from qtool.core.records.options import Scheme
from qtool.core.records.placement import Placement
from qtool.pipeline.planning.place import place
from qtool.pipeline.planning.selection import static_scheme
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.recovery.smoothing import smoothable_tensors
from qtool.targets.tables import distinct_targets


@dataclass(frozen=True, slots=True)
class CalibratedTensors:
    """The names of what is counted: of `tensors` the values, of `channels` the range of each channel too."""

    tensors: tuple[str, ...]
    channels: tuple[str, ...]


def find_tensors(prepared: Prepared) -> CalibratedTensors:
    """Find the tensors that statistics must hold for any target, in graph order.

    Steps that are decided from data (`qtool.pipeline.recovery.steps.decide`) change only constants, none of these.

    Raises:
        NothingToQuantizeError: no target finds anything.
    """
    placements: list[Placement] = []
    failure: NothingToQuantizeError | None = None
    for target in distinct_targets():
        try:
            # where no layer has calibrated ranges there is nothing to count, and yet examples to keep
            scheme = static_scheme(prepared.model, target, Scheme())
            placements.append(place(prepared.model, target, scheme, name=prepared.name))
        except NothingToQuantizeError as error:
            failure = failure or error
    if not placements:
        assert failure is not None
        raise failure
    tensors = dict.fromkeys(tensor for placement in placements for tensor in placement.calibrated)
    return CalibratedTensors(tuple(tensors), tuple(smoothable_tensors(prepared.model)))
