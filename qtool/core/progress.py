"""How long work tells whoever watches; the terminal's bar is the command line's business."""

from typing import Protocol


class Progress(Protocol):
    """Called with the name of the step, the units done so far, and their total (None: not known)."""

    def __call__(self, step: str, done: int, total: int | None) -> None: ...


def silent(step: str, done: int, total: int | None) -> None:
    """A `Progress` that shows nothing."""
