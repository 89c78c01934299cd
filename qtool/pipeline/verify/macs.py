"""Multiply-accumulates of the weighted layers, from the shapes that one batch of inputs leads to."""

from collections.abc import Iterator, Mapping

import numpy as np

from qtool.graph import compose
from qtool.graph.edit import Model
from qtool.graph.layers import Layer, Shape
from qtool.runtime.session import Session


def macs_of(model: Model, layers: tuple[str, ...], shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Return the multiply-accumulates of one run by layer, from the shapes of the values that `Layer.counted` names.

    Layers of which a shape is missing are left out.
    """
    return {str(layer.node.name): macs for layer in _layers(model, layers) if (macs := layer.macs(shapes)) is not None}


def layer_macs(model: Model, layers: tuple[str, ...], example: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return the multiply-accumulates of a run of the prepared graph on `example` (one batch of inputs), by layer.

    The graph is run where its inferred shapes do not follow from those of its inputs.
    """
    shapes: dict[str, Shape] = {name: array.shape for name, array in example.items()}
    sizes: dict[str | None, int] = {}
    for value in model.graph.inputs:
        if value.shape is not None:
            known = zip(value.shape, shapes[str(value.name)], strict=False)
            sizes |= {d.value: n for d, n in known if not isinstance(d, int) and d.value}
    missing = []
    for value in [value for layer in _layers(model, layers) for value in layer.counted if value.name]:
        name = str(value.name)
        dims = None if value.shape is None else [d if isinstance(d, int) else sizes.get(d.value) for d in value.shape]
        if dims is not None and None not in dims:
            shapes.setdefault(name, tuple(d for d in dims if d is not None))
        elif name not in shapes:
            missing.append(name)
    if missing:
        session = Session(compose.with_outputs(model, missing), name="the prepared model")
        shapes |= {name: array.shape for name, array in session.run(example).items()}
    return macs_of(model, layers, shapes)


def _layers(model: Model, names: tuple[str, ...]) -> Iterator[Layer]:
    wanted = set(names)
    for node in model.graph:
        layer = Layer.of(node) if node.name in wanted else None
        if layer is not None:
            yield layer
