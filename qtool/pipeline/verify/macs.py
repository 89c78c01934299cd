"""Multiply-accumulates of all nodes, from the shapes that one batch of inputs leads to."""

from collections.abc import Iterable, Mapping

import numpy as np

from qtool.graph import compose, edit, products
from qtool.graph.bodies import parts
from qtool.graph.edit import Model, Node
from qtool.graph.layers import Shape
from qtool.runtime.bodies import BodyRuns
from qtool.runtime.session import Session


def macs_of(model: Model, shapes: Mapping[str, Shape]) -> dict[str, int | None]:
    """Return the multiply-accumulates of one run by node, from the shapes of the values that are needed.

    None where it is unknown: a shape is missing, or the node stands in the body of an If, Loop or Scan, which may run
    any number of times: `count_macs` counts those.
    """
    inside = {node: node.graph is not model.graph for node in _products(model)}
    return {str(node.name): None if within else products.macs(node, shapes) for node, within in inside.items()}


def count_macs(model: Model, example: Mapping[str, np.ndarray]) -> dict[str, int | None]:
    """Return the multiply-accumulates of a run of the prepared graph on `example` (one batch of inputs), by node.

    None for a node of which the number is unknown. In the bodies of If, Loop and Scan each run of these counts.
    """
    macs = macs_of(model, shapes_of(model, example))
    inside = {part.body.name: [n for n in part.model.graph if products.multiplies(n)] for part in parts(model)}
    wanted = {
        body: list(
            dict.fromkeys(str(v.name) for node in nodes for v in products.counted(node) if not v.is_initializer())
        )
        for body, nodes in inside.items()
        if nodes
    }
    if not wanted:
        return macs
    macs |= {str(node.name): 0 for body in wanted for node in inside[body]}
    for run in BodyRuns(model, wanted, name="the prepared model").run(example):
        shapes = {name: array.shape for name, array in run.found.items()}
        for node in inside[run.body]:
            so_far, now = macs[str(node.name)], products.macs(node, shapes)
            macs[str(node.name)] = None if so_far is None or now is None else so_far + now
    return macs


def shapes_of(
    model: Model, example: Mapping[str, np.ndarray], names: Iterable[str] = (), *, run: bool = True
) -> dict[str, Shape]:
    """Return the shapes in a run on `example` (one batch of inputs) of what `macs_of` asks for, and of values `names`.

    The graph is run where its inferred shapes do not follow from those of its inputs; without `run` these are left out.
    """
    shapes: dict[str, Shape] = {name: array.shape for name, array in example.items()}
    sizes: dict[str | None, int] = {}
    for value in model.graph.inputs:
        if value.shape is not None:
            known = zip(value.shape, shapes[str(value.name)], strict=False)
            sizes |= {d.value: n for d, n in known if not isinstance(d, int) and d.value}
    missing = []
    nodes = [node for node in _products(model) if node.graph is model.graph]
    values = edit.named_values(model.graph)
    counted = [value for node in nodes for value in products.counted(node) if value.name]
    for value in [*counted, *(values[name] for name in names if name in values)]:
        name = str(value.name)
        dims = None if value.shape is None else [d if isinstance(d, int) else sizes.get(d.value) for d in value.shape]
        if dims is not None and all(d is not None and d >= 0 for d in dims):
            shapes.setdefault(name, tuple(d for d in dims if d is not None))
        elif name not in shapes:
            missing.append(name)
    if missing and run:
        session = Session(compose.with_outputs(model, list(dict.fromkeys(missing))), name="the prepared model")
        shapes |= {name: array.shape for name, array in session.run(example).items()}
    return shapes


def known_total(macs: Mapping[str, int | None]) -> int:
    """Return the sum of what is known: a share of it is at most that of the whole."""
    return sum(number for number in macs.values() if number is not None)


def _products(model: Model) -> Iterable[Node]:
    return (node for node in model.graph.all_nodes() if products.multiplies(node))
