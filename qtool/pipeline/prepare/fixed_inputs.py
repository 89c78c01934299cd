"""Inputs that always have one value become constants inside of the model: what hangs on them is folded.

An If that such an input decides becomes the branch that is taken, whose layers can be quantised. The input stays in the
signature, so that callers go on feeding it, and is not read any more; the model's metadata says so.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from qtool.core.errors import UsageError, arg
from qtool.core.records.recipe import FIXED, text_of
from qtool.core.tensorspec import InputSpec
from qtool.core.text import amount
from qtool.graph import edit
from qtool.graph.edit import Array, Model, Value

Fixed = Mapping[str, tuple[float, ...]]
Fixing = Mapping[str, float | Sequence[float]] | Sequence[str]
_TRUTH = {"true": 1.0, "false": 0.0}


def fix_inputs(model: Model, fixed: Fixed, name: str) -> None:
    """Let nothing read the inputs that are fixed, but a constant in their place; in place.

    `name`: what to call the model in messages.

    Raises:
        UsageError: there is no such input, its shape is not fixed, or it cannot have that value.
    """
    if not fixed:
        return
    inputs = {str(v.name): v for v in model.graph.inputs if not v.is_initializer()}
    specs = {spec.name: spec for spec in edit.input_specs(model)}
    names = edit.Names(model.graph)
    for wanted, numbers in fixed.items():
        if wanted not in inputs:
            raise UsageError(
                f"{arg('fix', text_of(wanted, numbers))}: {name} has no such input, only {', '.join(inputs)}"
            )
        value = inputs[wanted]
        array = _array(value, specs[wanted], numbers, arg("fix", text_of(wanted, numbers)))
        constant = edit.add_initializer(model.graph, names.fresh(f"{wanted}_fixed"), array)
        for node, index in list(value.uses()):
            node.replace_input_with(index, constant)
        model.metadata_props[f"{FIXED}{wanted}"] = text_of(wanted, numbers).removeprefix(f"{wanted}=")


def with_fixed(inputs: Mapping[str, Array], fixed: Fixed | None) -> dict[str, Array]:
    """Return inputs in which those that are fixed have their values."""
    result = dict(inputs)
    for name, numbers in (fixed or {}).items():
        shape, dtype = result[name].shape, result[name].dtype
        result[name] = np.resize(np.asarray(numbers), shape).astype(dtype)
    return result


def parse_fixed(given: Fixing) -> Fixed:
    """Read what a user fixes: texts such as `sr=16000` or `sizes=1,2`, or numbers by input.

    Raises:
        UsageError: something else is given, or an input twice.
    """
    result: dict[str, tuple[float, ...]] = {}
    if isinstance(given, Mapping):
        return {name: tuple(map(float, np.asarray(numbers).reshape(-1))) for name, numbers in given.items()}
    for text in given:
        name, equals, numbers = text.rpartition("=")
        try:
            values = tuple(_read(number) for number in numbers.split(","))
        except ValueError:
            values = ()
        if not (equals and name and values and np.isfinite(values).all()):
            raise UsageError(f"{arg('fix', text)}: give the name of an input and its value, such as sr=16000")
        if name in result:
            raise UsageError(f"{arg('fix', text)}: {name!r} is fixed twice; give it one value")
        result[name] = values
    return result


def _read(number: str) -> float:
    truth = _TRUTH.get(number.strip().lower())
    return float(number) if truth is None else truth


def _array(value: Value, spec: InputSpec, numbers: Sequence[float], option: str) -> Array:
    shape = edit.static_shape(value)
    if shape is None:
        raise UsageError(f"{option}: the input has no fixed shape; only one of a fixed shape can be fixed")
    if spec.dtype.kind not in "fiub":
        raise UsageError(f"{option}: the input is {spec.dtype}; only numbers can be fixed")
    size = int(np.prod(shape))
    if len(numbers) not in (1, size):
        raise UsageError(
            f"{option}: the input has {amount(size, 'element')}; give one number, or as many with commas between"
        )
    array = np.broadcast_to(np.asarray(numbers, np.float64), size)
    with np.errstate(all="ignore"):
        result = array.astype(spec.dtype)
    if spec.dtype.kind != "f" and not (result == array).all():
        raise UsageError(f"{option}: the input is {spec.dtype}, which cannot hold that; give another number")
    return result.reshape(shape)
