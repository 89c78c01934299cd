"""A part of a graph that onnxruntime computes between tensors of torch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from qtool.finetuning.calls import tensor_of
from qtool.graph import compose
from qtool.graph.edit import Model
from qtool.graph.model_io import serialize
from qtool.runtime.session import Session


class Cutout:
    """The nodes that make `outputs` of the values `fed`, as a session, which is started when it is first run."""

    def __init__(self, model: Model, fed: tuple[str, ...], outputs: tuple[str, ...], threads: int) -> None:
        self._model, self._fed, self._outputs, self._threads = model, fed, outputs, threads
        self._session: Session | None = None

    def run(self, values: Mapping[str, Any], device: torch.device) -> Sequence[Tensor]:
        """Run it on tensors or arrays by name, and return the tensors of its outputs, without gradient."""
        if self._session is None:
            part = compose.part(self._model, list(self._fed), list(self._outputs))
            self._session = Session(serialize(part), threads=self._threads)
        feeds = {spec.name: _array(values[spec.name]) for spec in self._session.inputs}
        return [tensor_of(array, device) for array in self._session.run_list(feeds, self._outputs)]


def _array(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value
