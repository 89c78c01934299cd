"""The search for what NaN or Inf comes from: which input, initializer or layer."""

from dataclasses import dataclass

import numpy as np

from qtool.core.errors import DataError
from qtool.graph import compose, edit
from qtool.graph.edit import Model
from qtool.runtime.session import Session


@dataclass(frozen=True, slots=True)
class ModelRun:
    """The inputs of one run of the model, and what to call it in a message."""

    inputs: dict[str, np.ndarray]
    origin: str


class NotFiniteDataError(DataError):
    """A tensor held NaN or Inf in a run; `explained` finds out where it comes from."""

    def __init__(self, tensor: str, run: ModelRun) -> None:
        super().__init__(f"{run.origin}: tensor {tensor!r} holds NaN or Inf; remove the sample or repair the model")
        self.tensor = tensor
        self.run = run


def explained(model: Model, error: NotFiniteDataError, name: str) -> DataError:
    """Return the error with the place in its message where NaN or Inf is born, or as it is where that is not found.

    Runs the model once more, as it is written, with all tensors as outputs.
    """
    run = error.run
    for tensor, array in run.inputs.items():
        if not _finite(array):
            return DataError(f"{run.origin}: input {tensor!r} holds NaN or Inf; remove the sample or repair the data")
    makers = {str(o.name): node for node in model.graph for o in node.outputs if o.uses() or o.is_graph_output()}
    session = Session(compose.with_outputs(model, list(makers)), optimize=False, name=name)
    with np.errstate(all="ignore"):
        for tensor, array in session.run(run.inputs).items():
            if not _finite(array):
                node = makers[tensor]
                for value in node.inputs:
                    constant = edit.constant_or_none(value)
                    if value is not None and constant is not None and not _finite(constant):
                        return DataError(
                            f"{name}: initializer {value.name!r} of layer {node.name!r} ({node.op_type}) holds NaN or "
                            "Inf; repair the model"
                        )
                return DataError(
                    f"{run.origin}: NaN or Inf is born in layer {node.name!r} ({node.op_type}, output {tensor!r}); "
                    "remove the sample, or repair the model"
                )
    return error


def _finite(array: np.ndarray) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())
