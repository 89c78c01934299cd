"""The float model's outputs as `quantize` judges them: parts by themselves, and places not in decibels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qtool.core.errors import QtoolError
from qtool.core.numerics.padding import Padding
from qtool.core.numerics.sqnr import Parts
from qtool.graph import compose, edit, model_io
from qtool.graph.edit import Array
from qtool.graph.parts import output_parts, parted_tensors, place_outputs, saturating_ends
from qtool.graph.positions import find_padding
from qtool.runtime.session import Session


@dataclass(frozen=True, slots=True)
class FloatOutputs:
    """The outputs of a float model.

    parts: of those that have several. places: those that say places or classes. ended: those that a Sigmoid or Softmax
    ends, in front of which `quantize` judges too. padding: where they hold padded positions; None where no mask
    says so.
    """

    parts: Mapping[str, Parts] = field(default_factory=dict)
    places: frozenset[str] = frozenset()
    ended: tuple[str, ...] = ()
    padding: Padding | None = None


def float_outputs(path: Path, first: Callable[[], Mapping[str, Array]] | None, mask: str | None = None) -> FloatOutputs:
    """Return what the graph of a float model says of its outputs; nothing where it cannot be looked into.

    `mask`: the input whose zeros are padding. `first`: gives a batch of its inputs; it is only called where there may
    be parts, which without it there are not.
    """
    try:
        model = model_io.load(path).model
        places = place_outputs(model)
        ended = tuple(dict.fromkeys(end.output for end in saturating_ends(model) if not end.chooses))
        names = [str(value.name) for value in model.graph.outputs]
        padding = find_padding(model, mask, names) if mask is not None else None
        values = edit.named_values(model.graph)
        tensors = [name for name in parted_tensors(model) if name in values]
        if not tensors or first is None:
            return FloatOutputs(places=places, ended=ended, padding=padding)
        fed = first()
        computed = [name for name in tensors if name not in fed]
        shapes = {name: array.shape for name, array in fed.items()}
        shapes |= {n: a.shape for n, a in Session(compose.with_outputs(model, computed)).run(fed).items()}
        return FloatOutputs(output_parts(model, shapes), places, ended, padding)
    except QtoolError:
        # a model that `quantize` does not take may be compared all the same
        return FloatOutputs()
