"""The share of the work of a model, of any maker, that runs in integer kernels."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from qtool.anatomy.executed import Executed, is_integer, layer_kernels
from qtool.anatomy.opened import open_model
from qtool.anatomy.planned import macs_of, planned_layers, shapes_in
from qtool.runtime.census import take_census


def integer_share(path: str | Path, example: Mapping[str, np.ndarray]) -> float | None:
    """Return the share of multiply-accumulates that onnxruntime runs in integer kernels on the CPU, 0 to 1.

    None where it is unknown: nothing multiplies, or how often a layer does depends on more than shapes, as in the body
    of a Loop. Counted on an example: name of an input -> a batch for it.

    Raises:
        ModelError: the file cannot be read, or onnxruntime cannot load it.
    """
    opened = open_model(path)
    layers = planned_layers(opened.model)
    executed = Executed.of(take_census(opened.serialized, name=str(path))[1].nodes)
    kernels, shapes = layer_kernels(executed, layers), shapes_in(opened.model, example)
    macs = {layer.name: macs_of(layer, shapes) for layer in layers}
    whole = sum(number or 0 for number in macs.values())
    if not whole or None in macs.values():
        return None
    return sum(macs[name] or 0 for name, kernel in kernels.items() if is_integer(executed.nodes[kernel])) / whole
