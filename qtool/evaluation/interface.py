"""Checks whether models can be compared: the same inputs, the same outputs, a batch that fits all of them."""

from qtool.core.errors import ModelError, arg
from qtool.core.tensorspec import InputSpec
from qtool.runtime.session import Session


def check_interface(reference: Session, candidate: Session, batch_size: int) -> None:
    """Refuse a candidate that cannot take the float model's place.

    Raises:
        ModelError: inputs or outputs differ in name, type or shape, or the candidate's batch is fixed and
            float's not.
    """
    _same_names(candidate.name, "inputs", [i.name for i in reference.inputs], [i.name for i in candidate.inputs])
    _same_names(candidate.name, "outputs", reference.outputs, candidate.outputs)
    found = {spec.name: spec for spec in candidate.inputs}
    for wanted in reference.inputs:
        _same_input(candidate.name, wanted, found[wanted.name], batch_size)


def _same_names(model: str, what: str, wanted: list[str], found: list[str]) -> None:
    if set(wanted) == set(found):
        return
    raise ModelError(
        f"{model}: its {what} are {', '.join(sorted(found))}, float's are {', '.join(sorted(wanted))}; "
        "compare models made from the same float model"
    )


def _same_input(model: str, wanted: InputSpec, found: InputSpec, batch_size: int) -> None:
    name = wanted.name
    if wanted.dtype != found.dtype:
        raise ModelError(
            f"{model}: input '{name}' is {found.dtype}, float's is {wanted.dtype}; compare models with the same types"
        )
    if not wanted.shape or not found.shape:
        # no shape, which onnxruntime does not tell from that of a scalar
        return
    dimensions = list(zip(wanted.shape, found.shape, strict=False))
    if len(wanted.shape) != len(found.shape) or any(
        isinstance(w, int) and isinstance(f, int) and w != f for w, f in dimensions
    ):
        raise ModelError(
            f"{model}: input '{name}' has shape {_shape(found)}, float's has {_shape(wanted)}; "
            "compare models made "
            "from the same float model"
        )
    if dimensions:
        _same_batch(model, name, dimensions[0][0], dimensions[0][1], batch_size)


def _same_batch(model: str, name: str, wanted: int | str | None, found: int | str | None, batch_size: int) -> None:
    if isinstance(wanted, int) or not isinstance(found, int) or found == batch_size == 1:
        return
    remedy = f"use {arg('batch_size', 1)}" if found == 1 else "make it from float with the dynamic batch kept"
    raise ModelError(
        f"{model}: input '{name}' has a fixed batch of {found}, float's is dynamic and runs with {batch_size}; {remedy}"
    )


def _shape(spec: InputSpec) -> str:
    return "[" + ", ".join("?" if d is None else str(d) for d in spec.shape or ()) + "]"
