"""The cheapest division of things into two sides, where each costs something on either side and every border does."""

from collections import deque
from collections.abc import Hashable


class Division:
    """Things that stand left or right, and what that costs.

    It is a minimum cut, found by blocking flows (Dinic 1970). Where both sides cost the same, things stand left.
    """

    _LEFT, _RIGHT = 0, 1

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._edges: list[list[int]] = [[], []]
        self._ends: list[int] = []
        self._room: list[float] = []

    def stand(self, thing: Hashable, left: float, right: float) -> None:
        """Add what it costs that a thing stands on a side; inf: it cannot stand there."""
        number = self._number(thing)
        self._edge(self._LEFT, number, right)
        self._edge(number, self._RIGHT, left)

    def border(self, left: Hashable, right: Hashable, cost: float) -> None:
        """Add what it costs that the first stands left and the second right; the other way round it costs nothing."""
        self._edge(self._number(left), self._number(right), cost)

    def cheapest(self) -> tuple[float, set[Hashable]]:
        """Find the cheapest division, and return what it costs and what stands right in it; once."""
        cost = 0.0
        while (levels := self._levels())[self._RIGHT] >= 0:
            tried = [0] * len(self._edges)
            while pushed := self._push(levels, tried):
                cost += pushed
        reaching = self._reaching()
        return cost, {thing for thing, number in self._numbers.items() if reaching[number]}

    def _number(self, thing: Hashable) -> int:
        if thing not in self._numbers:
            self._numbers[thing] = len(self._edges)
            self._edges.append([])
        return self._numbers[thing]

    def _edge(self, start: int, end: int, room: float) -> None:
        if room <= 0.0:
            return
        for a, b, free in ((start, end, room), (end, start, 0.0)):
            self._edges[a].append(len(self._ends))
            self._ends.append(b)
            self._room.append(free)

    def _levels(self) -> list[int]:
        levels = [-1] * len(self._edges)
        levels[self._LEFT] = 0
        waiting = deque([self._LEFT])
        while waiting:
            here = waiting.popleft()
            for edge in self._edges[here]:
                end = self._ends[edge]
                if self._room[edge] > 0.0 and levels[end] < 0:
                    levels[end] = levels[here] + 1
                    waiting.append(end)
        return levels

    def _push(self, levels: list[int], tried: list[int]) -> float:
        """What one more path of the level graph takes; 0: there is none left."""
        path: list[int] = []
        here = self._LEFT
        while here != self._RIGHT:
            edges = self._edges[here]
            while tried[here] < len(edges):
                edge = edges[tried[here]]
                if self._room[edge] > 0.0 and levels[self._ends[edge]] == levels[here] + 1:
                    break
                tried[here] += 1
            if tried[here] == len(edges):
                if not path:
                    return 0.0
                here = self._ends[path.pop() ^ 1]
                tried[here] += 1
                continue
            path.append(edge)
            here = self._ends[edge]
        least = min(self._room[edge] for edge in path)
        for edge in path:
            self._room[edge] -= least
            self._room[edge ^ 1] += least
        return least

    def _reaching(self) -> list[bool]:
        """What could still send something to the right."""
        found = [False] * len(self._edges)
        found[self._RIGHT] = True
        waiting = [self._RIGHT]
        while waiting:
            for edge in self._edges[waiting.pop()]:
                start = self._ends[edge]
                if self._room[edge ^ 1] > 0.0 and not found[start]:
                    found[start] = True
                    waiting.append(start)
        return found
