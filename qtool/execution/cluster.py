"""An executor on a Dask cluster, whose scheduler gives the work of workers that died to others."""

import importlib
import logging
import warnings
from collections.abc import Callable
from concurrent.futures import Executor, Future
from importlib import metadata
from typing import Any, ParamSpec, TypeVar

from qtool.core.arguments import checked_types
from qtool.core.errors import UsageError, WorkerError, arg, naming
from qtool.core.extras import installed_by

RETRIES = 3
"""How often work that a worker failed at is begun again elsewhere."""
_PATIENCE = "30s"
"""For a cluster to answer."""
_PACKAGES = ("qtool", "onnxruntime", "numpy")
_P = ParamSpec("_P")
_T = TypeVar("_T")


class Cluster(Executor):
    """An executor on a Dask cluster, once it is known that its workers can do the work.

    Args:
        address: of the scheduler, such as tcp://10.0.0.1:8786.

    Raises:
        UsageError: dask.distributed is not installed, nothing answers, there are no workers, or they have other
            versions of qtool, onnxruntime or numpy than this machine, which might compute something else.
    """

    @naming(cluster="address")
    @checked_types
    def __init__(self, address: str) -> None:
        try:
            distributed: Any = importlib.import_module("distributed")
        except ImportError as error:
            raise UsageError(f"{arg('cluster')} needs dask.distributed: {installed_by('cluster')}") from error
        # what goes wrong is told in one line, below
        for logger in ("distributed", "distributed.client"):
            logging.getLogger(logger).setLevel(logging.CRITICAL)
        # data that no worker can open has to be sent
        warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
        self._client = distributed.Client.__new__(distributed.Client)
        try:
            self._client.__init__(address, timeout=_PATIENCE, set_as_default=False)
        except BaseException as error:
            # else it waits for a minute for what it has not begun, and prints a traceback
            self._client.status = "closed"
            if not isinstance(error, OSError | ValueError | TypeError):
                raise
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"{arg('cluster', address)}: no Dask scheduler answers there ({reason}); correct the address, or start "
                "one with `dask scheduler`"
            ) from error
        try:
            self._check(address)
        except BaseException:
            self._client.close()
            raise
        self._executor = self._client.get_executor(pure=False, retries=RETRIES)

    def _check(self, address: str) -> None:
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        if not workers:
            raise UsageError(f"{arg('cluster', address)}: has no workers; start some with `dask worker {address}`")
        wanted = versions()
        for worker, found in self._client.run(versions, on_error="return").items():
            if isinstance(found, Exception):
                raise UsageError(
                    f"{arg('cluster', address)}: worker {worker} cannot import qtool ({found}); install it there"
                ) from found
            for name, version in wanted.items():
                if found.get(name) != version:
                    raise UsageError(
                        f"{arg('cluster', address)}: worker {worker} has {name} {found.get(name)}, this machine "
                        f"{version}; install the same there"
                    )

    @property
    def width(self) -> int:
        """The number of pieces of work done at a time: one for each thread of the workers that are there now.

        Raises:
            WorkerError: the scheduler does not answer any more.
        """
        try:
            return max(1, sum(map(int, self._client.nthreads().values())))
        except OSError as error:
            raise WorkerError(
                f"the cluster does not answer any more; start it again, or leave {arg('cluster')} out"
            ) from error

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> "Future[_T]":
        """Send a call to the cluster, and return its future, as `Executor.submit` does."""
        future: Future[_T] = self._executor.submit(fn, *args, **kwargs)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Do as `Executor.shutdown`; the cluster stays."""
        if wait and not cancel_futures:
            self._executor.shutdown()
        self._client.close()


def versions() -> dict[str, str]:
    """Return the versions of the packages that must be the same for the same bits, by package."""
    return {name: metadata.version(name) for name in _PACKAGES}
