"""Where work is done: this process, worker processes, or a Dask cluster, all as `concurrent.futures.Executor`."""

from qtool.execution.executors import opened
from qtool.execution.running import Missing, run, width

__all__ = ["Missing", "opened", "run", "width"]
