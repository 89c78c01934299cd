"""The search for what NaN or Inf comes from: which input, initializer or layer."""

from dataclasses import dataclass

import numpy as np

from qtool.core.errors import DataError
from qtool.graph import compose, edit
from qtool.graph.edit import Model
from qtool.runtime.session import Session


@dataclass(frozen=True, slots=True)
class ModelRun:
    """The inputs of one run of the model, what to call it in a message, and the index of its first sample."""

    inputs: dict[str, np.ndarray]
    origin: str
    sample: int


class NotFiniteDataError(DataError):
    """A tensor held NaN or Inf in a run; `explained` finds out where it comes from."""

    def __init__(self, tensor: str, run: ModelRun) -> None:
        super().__init__(f"{run.origin}: tensor {tensor!r} holds NaN or Inf; remove the sample or repair the model")
        self.tensor = tensor
        self.run = run


def explained(model: Model, error: NotFiniteDataError, name: str) -> DataError:
    """Return the error with the place in its message where NaN or Inf is born, or as it is where that is not found.

    Runs the model once more, as it is written, with all tensors as outputs, and goes back from the tensor as long as
    what a layer reads is not finite: elsewhere it may be so by design.
    """
    run, fed = error.run, error.run.inputs
    makers = {str(o.name): node for node in model.graph for o in node.outputs if o.uses() or o.is_graph_output()}
    tensor, node = error.tensor, makers.get(error.tensor)
    found = {} if node is None else _run_all(model, list(makers), run, name)
    while node is not None:
        for value in node.inputs:
            constant = edit.constant_or_none(value)
            if value is not None and constant is not None and not _finite(constant):
                return DataError(
                    f"{name}: initializer {value.name!r} of layer {node.name!r} ({node.op_type}) holds NaN or "
                    "Inf; repair the model"
                )
        reads = [str(v.name) for v in compose.reads(node) if v.name in found or v.name in fed]
        before = next((read for read in reads if not _finite(found.get(read, fed.get(read)))), None)
        if before is None:
            return DataError(
                f"{run.origin}: NaN or Inf is born in layer {node.name!r} ({node.op_type}, output {tensor!r}); "
                "remove the sample, or repair the model"
            )
        tensor, node = before, makers.get(before)
    if tensor in fed and not _finite(fed[tensor]):
        return DataError(f"{run.origin}: input {tensor!r} holds NaN or Inf; remove the sample or repair the data")
    return error


def _run_all(model: Model, names: list[str], run: ModelRun, name: str) -> dict[str, np.ndarray]:
    session = Session(compose.with_outputs(model, names), optimize=False, name=name)
    return session.run(run.inputs)


def _finite(array: np.ndarray | None) -> bool:
    return array is None or array.dtype.kind != "f" or bool(np.isfinite(array).all())
