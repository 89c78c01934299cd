"""Census: what onnxruntime will really run, read from the optimised graph of a default session."""

import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from qtool.core.scratch import scratch_folder
from qtool.graph.optimized import ExecutedNode, OwnNames, executed_nodes
from qtool.graph.serialized import Serialized
from qtool.runtime.session import Session


@dataclass(frozen=True, slots=True)
class Census:
    """kernels: operator -> how often it stands in the optimised graph; nodes: the graph itself."""

    kernels: dict[str, int]
    nodes: tuple[ExecutedNode, ...]
    _by_name: dict[str, set[str]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for node in self.nodes:
            self._by_name.setdefault(node.name, set()).add(node.op_type)

    def runs_as(self, name: str, kernels: tuple[str, ...]) -> bool:
        """Return whether a node that stands for the layer `name` is one of `kernels`."""
        return not self._by_name.get(name, set()).isdisjoint(kernels)


def take_census(
    model: bytes | Serialized, config: Mapping[str, str] | None = None, name: str = "the quantised model"
) -> tuple[Session, Census]:
    """Load a model as a user would and read the graph that is executed.

    config: session configuration entries. name: what to call the model in messages.

    Raises:
        ModelError: onnxruntime cannot load the model.
        OutputError: there is no room for temporary files.
    """
    own = OwnNames.of(model)
    size = len(model) if isinstance(model, bytes) else len(model.graph)
    with scratch_folder(size) as folder:
        path = folder / "optimized.onnx"
        with suppress(OSError):
            # nobody reads the weights
            (path.parent / "weights").symlink_to(os.devnull)
        session = Session(own.model, save_optimized=path, save_weights="weights", config=config, name=name)
        nodes = tuple(executed_nodes(path, own))
    return session, Census(dict(sorted(Counter(n.op_type for n in nodes).items())), nodes)
