"""Opens the executor that the options for workers and for a cluster ask for."""

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from qtool.core.errors import UsageError


@contextmanager
def opened(workers: int | None = None, cluster: str | None = None) -> Iterator[Executor | None]:
    """Yield processes on this machine, the Dask cluster at an address, or None for neither.

    The executor is shut down after the block; after an error at once, without waiting for its work.

    Raises:
        UsageError: both, no worker at all, or a cluster that cannot be used.
    """
    if workers is not None and cluster is not None:
        raise UsageError("--workers runs on this machine and --cluster on others; leave one of them out")
    executor: Executor
    if cluster is not None:
        from qtool.execution.cluster import Cluster

        executor = Cluster(cluster)
    elif workers is not None:
        from qtool.execution.workers import Workers

        executor = Workers(workers)
    else:
        yield None
        return
    try:
        yield executor
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    executor.shutdown()
