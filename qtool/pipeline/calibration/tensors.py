"""What a calibration observes of a model, the same wherever it runs."""

from collections.abc import Sequence

from qtool.core.errors import NothingToQuantizeError
from qtool.core.records.options import Scheme
from qtool.core.records.placement import Placement
from qtool.core.state import State
from qtool.pipeline.calibration.collector import Collector
from qtool.pipeline.planning.place import place
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.recovery.smoothing import smoothable_tensors
from qtool.targets.tables import distinct_targets


def collector_of(prepared: Prepared, states: Sequence[State], provider: str) -> Collector:
    """Of all tensors that any target may want statistics of.

    Raises:
        NothingToQuantizeError: no target finds anything.
        ModelError: onnxruntime cannot load the model with these tensors as outputs.
    """
    return Collector(
        prepared.model,
        observed_tensors(prepared),
        smoothable_tensors(prepared.model),
        states,
        prepared.name,
        prepared.digest,
        provider,
    )


def observed_tensors(prepared: Prepared) -> tuple[str, ...]:
    """The tensors that the statistics must hold so that they serve every target: those of each, in graph order.

    Raises:
        NothingToQuantizeError: no target finds anything.
    """
    placements: list[Placement] = []
    failure: NothingToQuantizeError | None = None
    for target in distinct_targets():
        try:
            placements.append(place(prepared.model, target, Scheme(), name=prepared.name))
        except NothingToQuantizeError as error:
            failure = failure or error
    if not placements:
        assert failure is not None
        raise failure
    return tuple(dict.fromkeys(tensor for placement in placements for tensor in placement.calibrated))
