"""The remedy where all layers lie in branches of an If that an input decides: fix the input to its one value."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import numpy as np

from qtool.core.errors import DataError, NothingToQuantizeError, arg
from qtool.core.records.recipe import text_of
from qtool.feeds import Feeds
from qtool.graph import compose, edit
from qtool.graph.edit import Model
from qtool.pipeline.prepare import Prepared

# an input of more elements is data
_FEW = 16


@contextmanager
def advising(prepared: Prepared, feeds: Callable[[], Feeds] | None) -> Iterator[None]:
    """Return a block in which the error that there is nothing to quantise names an input to fix, if that is a remedy.

    `feeds`: opens the data; None without any.
    """
    try:
        yield
    except NothingToQuantizeError as error:
        names = deciding_inputs(prepared.model)
        found: dict[str, list[float]] | None = None
        if names and feeds is not None:
            # data that cannot be read is told of once there is something to quantise
            with suppress(DataError):
                found = _single_values(names, feeds())
        said = error.marked.removesuffix("; use it as it is")
        for name, values in (found or {}).items():
            raise NothingToQuantizeError(
                f"{said}; input {name!r} decides what runs, and is the same in all data: give "
                f"{arg('fix', text_of(name, values))}"
            ) from error
        if names and found is None:
            name = next(iter(names))
            raise NothingToQuantizeError(
                f"{said}; input {name!r} decides what runs: if it always has one value, give it, as in "
                f"{arg('fix', f'{name}=VALUE')}"
            ) from error
        raise


def deciding_inputs(model: Model) -> dict[str, int]:
    """Return the inputs that the condition of an If hangs on alone, and how many elements each has."""
    wanted = [node.inputs[0] for node in model.graph if edit.is_main_op(node, "If")]
    seen = set(wanted)
    while wanted:
        value = wanted.pop()
        maker = None if value is None else value.producer()
        for source in [] if maker is None else compose.reads(maker):
            if source not in seen:
                seen.add(source)
                wanted.append(source)
    inputs = [v for v in model.graph.inputs if v in seen]
    shapes = {str(v.name): edit.static_shape(v) for v in inputs}
    sizes = {name: math.prod(shape) for name, shape in shapes.items() if shape is not None}
    return {name: size for name, size in sizes.items() if 0 < size <= _FEW}


def _single_values(sizes: dict[str, int], feeds: Feeds) -> dict[str, list[float]]:
    """Those inputs whose value is the same in all data, at every step of a sequence; one number if all are equal."""
    found: dict[str, np.ndarray] = {}
    left = dict(sizes)
    for batch in feeds:
        for name, size in list(left.items()):
            rows = batch.inputs[name].reshape(-1, size)
            first = found.setdefault(name, rows[0].copy())
            if not (rows == first).all():
                del left[name], found[name]
    return {name: row[: 1 if (row == row[0]).all() else None].tolist() for name, row in found.items()}
