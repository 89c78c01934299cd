"""The search for the node at which the prepared graph begins to compute something else than the model as it came."""

import numpy as np

from qtool.core.errors import QtoolError
from qtool.graph import compose, edit, model_io
from qtool.graph.edit import Model
from qtool.pipeline.verify.original import Original
from qtool.runtime.session import Session

# relative to the largest number; float32 reordering stays far below
_FAR = 1e-3


def first_difference(original: Original, prepared: Model) -> str | None:
    """Return the first node of a model as it came whose output differs, as "'name' (operator)"; None without one.

    Only tensors that both graphs hold are compared, on the first example.
    """
    example = original.examples[0]
    try:
        given = original.widened or model_io.load(original.source).model
        here = edit.named_values(prepared.graph)
        makers = {
            str(o.name): node for node in given.graph for o in node.outputs if o.name in here and edit.is_tensor(o)
        }
        before, after = (
            Session(compose.with_outputs(model, list(makers)), optimize=False).run(
                {str(v.name): example[str(v.name)] for v in model.graph.inputs if v.name in example}
            )
            for model in (given, prepared)
        )
    except QtoolError:
        return None
    found = next((node for name, node in makers.items() if _far(before[name], after[name])), None)
    return None if found is None else f"{found.name!r} ({found.op_type})"


def _far(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape or a.dtype.kind not in "fiub":
        return a.shape != b.shape
    a, b = a.astype(np.float64), b.astype(np.float64)
    largest = float(np.abs(a[np.isfinite(a)]).max(initial=0))
    return not np.allclose(a, b, rtol=_FAR, atol=_FAR * largest, equal_nan=True)
