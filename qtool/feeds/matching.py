"""Finds which array is which input of the model, and which are labels."""

from collections.abc import Mapping, Sequence

import numpy as np

from qtool.core.errors import DataError, arg
from qtool.core.state import State, common_pattern, may_feed_back, same_end
from qtool.core.tensorspec import InputSpec, describe
from qtool.core.text import closest
from qtool.feeds.boxes import BOXES, CLASSES
from qtool.feeds.checks import Described, castable, fits_dimensions, quoted

LABELS = "labels"
_LABEL_NAMES = (LABELS, "label", "targets", "target", "y", "classes", "class")
"""What arrays of labels are called; the first is the name that metrics look for."""
_CLASS_NAMES = ("label", "classes", "class")


def match_arrays(
    where: str,
    inputs: Sequence[InputSpec],
    arrays: Mapping[str, Described],
    *,
    images: bool,
    outputs: Sequence[InputSpec] = (),
) -> dict[str, str]:
    """Return the name of each input's array, by the input's; the arrays that are left over are labels.

    An array called like an input is that input. For a model with one input a single other array serves, whatever its
    name; of several, the one whose type and shape fit, and that is not called like labels.

    Args:
        where: the file or the data's name, for the message.
        inputs: the model's inputs that data must feed.
        arrays: what the data holds, by name.
        images: whether preprocessing is asked for, so that uint8 images are what is looked for.
        outputs: the model's outputs, from which a missing input may be fed.

    Raises:
        DataError: an input without an array, or with several that would do; it names what there is.
    """
    missing = [spec for spec in inputs if spec.name not in arrays]
    matched = {spec.name: spec.name for spec in inputs if spec.name in arrays}
    if not missing:
        return matched
    if len(inputs) > 1:
        raise _missing(where, missing, inputs, arrays, outputs)
    spec = inputs[0]
    candidates = [name for name in arrays if name != LABELS]
    if not candidates:
        raise _missing(where, missing, inputs, arrays)
    if len(candidates) > 1:
        fitting = [name for name in candidates if _may_feed(arrays[name], spec, images=images)]
        if not fitting:
            raise _missing(where, missing, inputs, arrays)
        fitting = [name for name in fitting if name not in _LABEL_NAMES] or fitting
        if len(fitting) > 1:
            raise DataError(
                f"{where}: {quoted(fitting)} could each be the model's input '{spec.name}'; "
                f"rename the right one to '{spec.name}'"
            )
        candidates = fitting
    return {spec.name: candidates[0]}


def with_labels(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what is no input, with the only array that is called like labels under the name `labels` as well.

    Floats are scores rather than classes, unless their name says classes; the classes of boxes are those of no sample.
    """
    boxes = arrays.get(BOXES)
    found = [name for name in _LABEL_NAMES if name in arrays]
    if boxes is not None and found == [CLASSES] and arrays[CLASSES].shape == boxes.shape[:-1]:
        return arrays
    if len(found) != 1 or LABELS in arrays:
        return arrays
    (name,) = found
    classes = arrays[name].dtype.kind != "f" or arrays[name].ndim > 1 or name in _CLASS_NAMES
    return {**arrays, LABELS: arrays[name]} if classes else arrays


def labels_called(arrays: Mapping[str, object]) -> str:
    """Return what the data itself calls the labels that `with_labels` has found; `labels` where it calls them so."""
    found = [name for name in _LABEL_NAMES[1:] if name in arrays]
    return found[0] if LABELS in arrays and len(found) == 1 else LABELS


def _may_feed(array: Described, spec: InputSpec, *, images: bool) -> bool:
    is_images = array.dtype == np.uint8 and len(array.shape) in (3, 4)
    if images:
        return is_images
    if spec.dtype.kind == "f" and spec.shape is not None and len(spec.shape) == 4 and is_images:
        return True  # the type check then says what is missing: preprocess
    if not castable(array.dtype, spec):
        return False
    if spec.shape is None:
        return True
    sample, shape = spec.shape[1:], array.shape
    return any(
        (
            fits_dimensions(shape, (None, *sample)),
            fits_dimensions(shape, (None, *spec.shape)),
            len(spec.shape) > 0 and fits_dimensions(shape, sample),
        )
    )


def _missing(
    where: str,
    missing: Sequence[InputSpec],
    inputs: Sequence[InputSpec],
    arrays: Mapping[str, Described],
    outputs: Sequence[InputSpec] = (),
) -> DataError:
    spec = missing[0]
    names = [spec.name for spec in inputs]
    spare = [name for name in arrays if name not in names]
    near = closest(spec.name, spare)
    found = ", ".join(f"'{name}' {describe(a.dtype, a.shape)}" for name, a in list(arrays.items())[:8])
    takes = f"'{spec.name}', {describe(spec.dtype, spec.shape)}"
    remedy = f"rename '{near}' to '{spec.name}'" if near else f"name the arrays after the inputs: {quoted(names)}"
    remedy += state_remedy(missing, outputs)
    return DataError(f"{where}: no array for the model's input {takes}; found {found or 'none'}; {remedy}")


def state_remedy(inputs: Sequence[InputSpec], outputs: Sequence[InputSpec]) -> str:
    """Return words that tell how to declare those of `inputs` that an output may feed, one each; empty if none."""
    states: dict[str, str] = {}
    for spec in inputs:
        free = [output for output in outputs if output.name not in states.values()]
        feeding = [output.name for output in free if may_feed_back(output, spec)]
        if feeding:
            alike = same_end(spec.name, feeding)
            states[spec.name] = alike.output if alike else closest(spec.name, feeding) or feeding[-1]
    several = common_pattern(State(name, output) for name, output in states.items()) if len(states) > 1 else None
    if several is not None:
        return f"; if {quoted(states)} are states that outputs feed, declare them: {arg('state', several)}"
    options = " ".join(arg("state", f"{name}={output}") for name, output in states.items())
    if len(states) > 1:
        return f"; if {quoted(states)} are states that outputs feed, declare them: {options}"
    return f"; if {quoted(states)} is a state that an output feeds, declare it: {options}" if states else ""
