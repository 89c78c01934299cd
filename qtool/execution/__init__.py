"""The places where work is done: this process, worker processes, or a Dask cluster, each an `Executor`."""

from importlib import import_module
from typing import TYPE_CHECKING

from qtool.execution.executors import opened
from qtool.execution.running import Missing, run, width

if TYPE_CHECKING:
    from qtool.execution.cluster import Cluster
    from qtool.execution.workers import Workers

__all__ = ["Cluster", "Missing", "Workers", "opened", "run", "width"]
_MODULES = {"Cluster": "cluster", "Workers": "workers"}


def __getattr__(name: str) -> object:
    """Import an executor once it is wanted: few commands are given one."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
