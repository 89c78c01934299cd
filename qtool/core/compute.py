"""The place where work is done, with how many threads, and who is told of it: one value from a call to its sessions."""

from concurrent.futures import Executor
from dataclasses import dataclass

from qtool.core.errors import UsageError, arg
from qtool.core.progress import Progress, silent

PROVIDERS = ("cpu", "cuda", "tensorrt")
"""Where onnxruntime runs models; `qtool.runtime.providers` says what each asks for."""

MOST = 512
"""Threads, or worker processes: all of them start at once, so that a slip of the keyboard would take the machine."""


def check_provider(name: str) -> None:
    """Refuse a name that is no provider's. Raises `UsageError`; whether this machine has it is not looked at."""
    if name not in PROVIDERS:
        raise UsageError(f"unknown provider {name!r}; choose one of {', '.join(PROVIDERS)}")


@dataclass(frozen=True, slots=True)
class Compute:
    """The way a call computes, which changes no result but for the provider's own rounding.

    Attributes:
        threads: how many a process uses, 1 to `MOST`.
        provider: where onnxruntime runs the models, one of `PROVIDERS`.
        executor: what does the work, a block at a time; None is this process.
        progress: is told how far the work is.

    Raises:
        UsageError: no threads, or too many, or an unknown provider.
    """

    threads: int = 1
    provider: str = "cpu"
    executor: Executor | None = None
    progress: Progress = silent

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise UsageError(f"{arg('threads', self.threads)}: give 1 or more")
        if self.threads > MOST:
            raise UsageError(f"{arg('threads', self.threads)}: give at most {MOST}; more than cores gain nothing")
        check_provider(self.provider)

    def in_worker(self) -> "Compute":
        """Return the settings for one worker of the executor, to be pickled: it computes by itself and tells nobody."""
        return Compute(self.threads, self.provider)


HERE = Compute()
"""This process, with one thread, on the CPU."""
