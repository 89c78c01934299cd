"""Census: what onnxruntime will really run, read from the optimised graph of a default session."""

import os
import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from qtool.graph.optimized import ExecutedNode, executed_nodes
from qtool.graph.serialized import Serialized
from qtool.runtime.session import Session

# what onnxruntime's layout transformation and QDQ propagation append to the name of a node that they replace
_SUFFIX = re.compile(r"(_token_\d+|/duplicated(_token_\d+)?|_nchwc)+$")


@dataclass(frozen=True, slots=True)
class Census:
    """kernels: operator -> how often it stands in the optimised graph; nodes: the graph itself."""

    kernels: dict[str, int]
    nodes: tuple[ExecutedNode, ...]

    def runs_as(self, name: str, kernels: tuple[str, ...]) -> bool:
        """Return whether a node that stands for the layer `name` is one of `kernels`."""
        return any(n.op_type in kernels and _SUFFIX.sub("", n.name) == name for n in self.nodes)


def take_census(model: bytes | Serialized, config: Mapping[str, str] | None = None) -> tuple[Session, Census]:
    """Load a model as a user would and read the graph that is executed.

    Raises:
        ModelError: onnxruntime cannot load the model.
    """
    with tempfile.TemporaryDirectory(prefix="qtool-") as folder:
        path = Path(folder) / "optimized.onnx"
        with suppress(OSError):
            # nobody reads the weights
            (path.parent / "weights").symlink_to(os.devnull)
        session = Session(model, save_optimized=path, save_weights="weights", config=config, name="the quantised model")
        nodes = tuple(executed_nodes(path))
    return session, Census(dict(sorted(Counter(n.op_type for n in nodes).items())), nodes)
