"""Measurements that are probably asked for next, made beside the one that is, where there is a second core."""

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from itertools import islice

from qtool.core.concurrency import cores, side_by_side

AHEAD = 2
"""So many measurements are made side by side; each gives the same, whether it is asked for or not."""


@dataclass(slots=True)
class Foresight:
    """Measures sets of nodes, two of them at once. measure: one of them, which may run beside itself."""

    measure: Callable[[frozenset[str]], float]
    _foreseen: dict[frozenset[str], float] = field(default_factory=dict)

    def look(self, sets: Iterable[frozenset[str]], known: Container[frozenset[str]], room: int) -> None:
        """Measure the first of the sets that are not known, `room` of them at most, in the order they are asked for."""
        if cores() < AHEAD:
            return
        fresh = (one for one in sets if one not in known)
        wanted = list(dict.fromkeys(islice(fresh, max(min(AHEAD, room), 0))))
        missing = [one for one in wanted if one not in self._foreseen]
        if wanted[:1] == missing[:1]:
            self._foreseen.update(zip(missing, side_by_side(self.measure, missing), strict=True))

    def take(self, one: frozenset[str]) -> float:
        """Return what a set measures."""
        foreseen = self._foreseen.pop(one, None)
        return self.measure(one) if foreseen is None else foreseen

    def forget(self) -> None:
        """Remove all that was measured, since the same sets measure otherwise now."""
        self._foreseen.clear()
