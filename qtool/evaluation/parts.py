"""The parts of the float model's outputs that are judged by themselves, as `quantize` judges them."""

from collections.abc import Callable, Mapping
from pathlib import Path

from qtool.core.errors import QtoolError
from qtool.core.numerics.sqnr import Parts
from qtool.graph import compose, edit, model_io
from qtool.graph.edit import Array
from qtool.graph.parts import output_parts, parted_tensors
from qtool.runtime.session import Session


def float_parts(path: Path, first: Callable[[], Mapping[str, Array]]) -> Mapping[str, Parts]:
    """Return the parts of each output of a float model that has several; none where it cannot be looked into.

    `first`: gives a batch of its inputs; it is only called where there may be any.
    """
    try:
        model = model_io.load(path).model
        values = edit.named_values(model.graph)
        tensors = [name for name in parted_tensors(model) if name in values]
        if not tensors:
            return {}
        fed = first()
        computed = [name for name in tensors if name not in fed]
        shapes = {name: array.shape for name, array in fed.items()}
        shapes |= {n: a.shape for n, a in Session(compose.with_outputs(model, computed)).run(fed).items()}
        return output_parts(model, shapes)
    except QtoolError:
        # a model that `quantize` does not take may be compared all the same
        return {}
