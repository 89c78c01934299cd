"""A session that hands out inner tensors for counting, at little more than the cost of a plain run.

onnxruntime runs convolutions in a blocked layout (NCHWc) and copies every tensor that is also an output back to NCHW
(ReorderOutput). Counting does not care about the order of elements, so those copies are taken out of the optimised
graph, and the blocked tensors are handed out instead. Source: onnxruntime `core/optimizer/nchwc_transformer.cc`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from qtool.core.errors import ModelError
from qtool.core.scratch import scratch_folder
from qtool.graph.optimized import has_convolutions, without_reorders
from qtool.graph.serialized import Serialized
from qtool.runtime.session import Session


class Observer:
    """A session that runs a model whose outputs are the tensors to observe.

    Args:
        model: a serialised model.
        any_order: the outputs whose elements may come in any order and shape; the others come as they are.
        name: what to call the model in messages.
        provider: where it runs; layouts are blocked only on the CPU.

    Raises:
        ModelError: onnxruntime cannot load the model.
        UsageError: the provider cannot be used.
    """

    def __init__(self, model: Serialized, any_order: Sequence[str], name: str, provider: str = "cpu") -> None:
        blocked = provider == "cpu" and has_convolutions(model)
        found = _without_copies(model, any_order, name) if blocked else None
        if found is not None:
            self._session, self.outputs, self._names = found
            return
        self._session = Session(model, name=name, provider=provider)
        self.outputs = self._names = list(self._session.outputs)

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Run once, and return the outputs in the order of `self.outputs`. Raises `DataError`."""
        return self._session.run_list(feeds, self._names)


def _without_copies(
    model: Serialized, any_order: Sequence[str], name: str
) -> tuple[Session, list[str], list[str]] | None:
    """Make the session, its outputs, and what stands for each; None where onnxruntime refuses its own graph."""
    with scratch_folder(model.size) as folder:
        optimized = folder / "optimized.onnx"
        outputs = _optimized(model, optimized, name)
        trimmed, renamed = without_reorders(optimized, any_order)
        try:
            session = Session(trimmed, optimize=False, name=name)
        except ModelError:
            # another onnxruntime may not take its own optimised graph back: the copies are slower, not wrong
            return None
    return session, outputs, [renamed.get(output, output) for output in outputs]


def _optimized(model: Serialized, path: Path, name: str) -> list[str]:
    """Write what onnxruntime makes of the model, large weights beside it; returns the outputs."""
    # nothing runs in this session: preparing its weights for that would be lost
    config = {"session.disable_prepacking": "1"}
    return Session(model, save_optimized=path, save_weights="weights", config=config, name=name).outputs
