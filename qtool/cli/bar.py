"""The progress bar: it shows what takes over a second, and no estimate that it cannot keep."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from qtool.cli.outputs import show

_DELAY_S = 1.0
_TICK_S = 0.5
_REDRAW_S = 0.1
_EVEN = frozenset({"calibrate", "evaluating", "timing", "measure channels", "run the float model", "train"})
"""Steps whose units take alike long, so that the time that is left can be told from those that are done."""
_COUNTED = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}]"
_EVENLY = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"
_UNKNOWN = "{desc} [{elapsed}]"


@contextmanager
def progress_bar(quiet: bool, first: str = "loading") -> Iterator["Bar"]:
    """Yield a `Progress` that draws a bar on stderr, on a terminal, as soon as nothing was to be seen for a second.

    first: what is done until the first step is reported.
    """
    bar = Bar(shown=not quiet and sys.stderr.isatty())
    bar(first, 0, None)
    try:
        yield bar
    finally:
        bar.close()


class Bar:
    """One tqdm bar a step, which makes way for lines on stdout; nothing where it is not `shown`.

    A thread draws it again meanwhile, so that a step that reports nothing while it works is seen to take time.
    """

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown
        self._bar: Any = None
        self._step = ""
        self._done, self._total = 0, None if not shown else 0
        self._began = self._drawn = self._seen = time.monotonic()
        self._lock = threading.RLock()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def __call__(self, step: str, done: int, total: int | None) -> None:
        """Draw how far a step is, see `Progress`."""
        if not self._shown:
            return
        with self._lock:
            if step != self._step or done < self._done:
                self._clear()
                self._step, self._began = step, time.monotonic()
            self._done, self._total = done, total
            self._draw()
        if self._thread is None:
            self._thread = threading.Thread(target=self._tick, daemon=True)
            self._thread.start()

    def write(self, line: str) -> None:
        """Print a line on stdout, above the bar."""
        with self._lock:
            self._seen = time.monotonic()
            if self._bar is None:
                show(line)
                return
            with self._bar.external_write_mode(file=sys.stdout):
                show(line)

    def close(self) -> None:
        """Take the bar off the screen; nothing is drawn any more."""
        self._end.set()
        with self._lock:
            self._clear()
            self._shown = False

    def _tick(self) -> None:
        while not self._end.wait(_TICK_S):
            with self._lock:
                if self._shown:
                    self._draw()

    def _draw(self) -> None:
        now = time.monotonic()
        # not since this step began: many short ones are a long wait too
        if now - self._seen < _DELAY_S or (self._bar is not None and now - self._drawn < _REDRAW_S):
            return
        if self._bar is None:
            from tqdm import tqdm

            even = self._step in _EVEN
            form = _UNKNOWN if not self._total else _EVENLY if even and self._done else _COUNTED
            # smoothing 0: the mean of all units, not of the last ones
            self._bar = tqdm(
                desc=self._step, file=sys.stderr, leave=False, dynamic_ncols=True, smoothing=0, bar_format=form,
                total=self._total or None, delay=1e-9,
            )  # fmt: skip
            # as if it had been there from the beginning, and drawn once
            self._bar.start_t -= now - self._began
            self._bar.last_print_t = self._bar.start_t + _DELAY_S + 1.0
        self._bar.n, self._bar.total = self._done, self._total or None
        self._bar.refresh()
        self._drawn = now

    def _clear(self) -> None:
        self._done = 0
        if self._bar is not None:
            self._bar.close()
            self._bar = None
