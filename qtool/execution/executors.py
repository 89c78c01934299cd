"""The executor that a number of workers, or the address of a cluster, stands for."""

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from qtool.core.errors import UsageError, arg, naming


@contextmanager
def opened(workers: int | None = None, cluster: str | None = None) -> Iterator[Executor | None]:
    """Open processes on this machine, or the Dask cluster at an address; yields None for neither.

    Raises:
        UsageError: both, no worker at all, or a cluster that cannot be used.
    """
    if workers is not None and cluster is not None:
        raise UsageError(f"{arg('workers')} runs on this machine and {arg('cluster')} on others; leave one of them out")
    executor: Executor
    if cluster is not None:
        from qtool.execution.cluster import Cluster

        with naming(address="cluster"):
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
