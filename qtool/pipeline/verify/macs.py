"""Multiply-accumulates of all nodes, from the shapes that inputs lead to, and from how often bodies run."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from qtool.graph import compose, edit, products
from qtool.graph.bodies import parts
from qtool.graph.edit import Model, Node
from qtool.graph.layers import Shape
from qtool.runtime.bodies import BodyRuns
from qtool.runtime.session import Session

Arrays = Mapping[str, np.ndarray]


def macs_of(model: Model, shapes: Mapping[str, Shape]) -> dict[str, int | None]:
    """Return the multiply-accumulates of one run by node, from the shapes of the values that are needed.

    None where it is unknown: a shape is missing, or the node stands in the body of an If, Loop or Scan, which may run
    any number of times: `count_macs` counts those.
    """
    inside = {node: node.graph is not model.graph for node in _products(model)}
    return {str(node.name): None if within else products.macs(node, shapes) for node, within in inside.items()}


def count_macs(model: Model, examples: Sequence[Arrays]) -> dict[str, int | None]:
    """Return the multiply-accumulates of a run of the prepared graph on an example (one batch of inputs), by node.

    None for a node of which the number is unknown. The first example says them; where there are bodies of If, Loop and
    Scan, of which inputs decide whether and how often they run, it is the mean over all, see `MacCount`.
    """
    count = MacCount(model)
    for example in examples if count.varies else examples[:1]:
        count.add(example)
    return count.mean()


class MacCount:
    """Counts the multiply-accumulates of a prepared graph over examples; in bodies each run of these counts.

    `varies` says whether examples of the same shapes may differ: there are products in bodies.
    """

    def __init__(self, model: Model) -> None:
        self._shapes = _Shapes(model)
        inside = {part.body.name: [n for n in part.model.graph if products.multiplies(n)] for part in parts(model)}
        self._inside = {body: nodes for body, nodes in inside.items() if nodes}
        wanted = {
            body: list(
                dict.fromkeys(str(v.name) for node in nodes for v in products.counted(node) if not v.is_initializer())
            )
            for body, nodes in self._inside.items()
        }
        self._runs = BodyRuns(model, wanted, name="the prepared model") if wanted else None
        self._total: dict[str, int | None] = {}
        self._examples = 0
        self.varies = bool(wanted)

    def add(self, example: Arrays) -> None:
        """Add a run on an example (one batch of inputs). Raises `DataError`: the model does not run on it."""
        macs = macs_of(self._shapes.model, self._shapes.of(example))
        macs |= {str(node.name): 0 for nodes in self._inside.values() for node in nodes}
        for run in () if self._runs is None else self._runs.run(example):
            shapes = {name: array.shape for name, array in run.found.items()}
            for node in self._inside[run.body]:
                macs[str(node.name)] = _sum(macs[str(node.name)], products.macs(node, shapes))
        self._total = {name: _sum(self._total.get(name, 0), number) for name, number in macs.items()}
        self._examples += 1

    def mean(self) -> dict[str, int | None]:
        """Return the mean of the examples by node, rounded up: what runs in one of many is not nothing."""
        return {name: None if n is None else -(-n // self._examples) for name, n in self._total.items()}


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def shapes_of(model: Model, example: Arrays, names: Iterable[str] = (), *, run: bool = True) -> dict[str, Shape]:
    """Return the shapes in a run on `example` (one batch of inputs) of what `macs_of` asks for, and of values `names`.

    The graph is run where its inferred shapes do not follow from those of its inputs; without `run` these are left out.
    """
    return _Shapes(model, names).of(example, run=run)


class _Shapes:
    """The shapes of values of a graph, which is run where they are not inferred: in one session for all examples."""

    def __init__(self, model: Model, names: Iterable[str] = ()) -> None:
        self.model = model
        values = edit.named_values(model.graph)
        nodes = [node for node in _products(model) if node.graph is model.graph]
        counted = [value for node in nodes for value in products.counted(node) if value.name]
        self._wanted = [*counted, *(values[name] for name in names if name in values)]
        self._sessions: dict[tuple[str, ...], Session] = {}

    def of(self, example: Arrays, *, run: bool = True) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {name: array.shape for name, array in example.items()}
        missing = tuple(dict.fromkeys(self._infer(shapes)))
        if missing and run:
            if missing not in self._sessions:
                graph = compose.with_outputs(self.model, list(missing))
                self._sessions[missing] = Session(graph, name="the prepared model")
            shapes |= {name: array.shape for name, array in self._sessions[missing].run(example).items()}
        return shapes

    def _infer(self, shapes: dict[str, Shape]) -> list[str]:
        """Add the shapes that follow from those of inputs, and return of which values they are missing."""
        sizes: dict[str | None, int] = {}
        for value in self.model.graph.inputs:
            if value.shape is not None:
                known = zip(value.shape, shapes[str(value.name)], strict=False)
                sizes |= {d.value: n for d, n in known if not isinstance(d, int) and d.value}
        missing = []
        for value in self._wanted:
            name, shape = str(value.name), value.shape
            dims = None if shape is None else [d if isinstance(d, int) else sizes.get(d.value) for d in shape]
            if dims is not None and all(d is not None and d >= 0 for d in dims):
                shapes.setdefault(name, tuple(d for d in dims if d is not None))
            elif name not in shapes:
                missing.append(name)
        return missing


def known_total(macs: Mapping[str, int | None]) -> int:
    """Return the sum of what is known: a share of it is at most that of the whole."""
    return sum(number for number in macs.values() if number is not None)


def _products(model: Model) -> Iterable[Node]:
    return (node for node in model.graph.all_nodes() if products.multiplies(node))
