"""The cheapest way to part the nodes of a network in two: a minimum cut."""

from collections import deque
from collections.abc import Hashable, Iterable

Edge = tuple[Hashable, Hashable, int]
NEVER = 10**9
"""The cost of an edge that may not be cut."""


def first_part(edges: Iterable[Edge], source: Hashable, sink: Hashable) -> set[Hashable]:
    """Return the nodes on the side of `source` in a minimum cut, the fewest where several cuts cost as much.

    `edges`: (from, to, cost); it is paid where `from` is on the side of `source` and `to` on that of `sink`. Source:
    Edmonds and Karp, 1972.
    """
    room: dict[Hashable, dict[Hashable, int]] = {source: {}, sink: {}}
    for start, end, cost in edges:
        room.setdefault(start, {})[end] = room.get(start, {}).get(end, 0) + cost
        room.setdefault(end, {}).setdefault(start, 0)
    while True:
        came_from = _reached(room, source, sink)
        if sink not in came_from:
            return set(came_from)
        path = [sink]
        while path[-1] != source:
            path.append(came_from[path[-1]])
        steps = list(zip(path[1:], path, strict=False))
        flow = min(room[start][end] for start, end in steps)
        for start, end in steps:
            room[start][end] -= flow
            room[end][start] += flow


def _reached(room: dict[Hashable, dict[Hashable, int]], source: Hashable, sink: Hashable) -> dict[Hashable, Hashable]:
    """What flow can still reach -> where it comes from; as far as the sink."""
    came_from: dict[Hashable, Hashable] = {source: source}
    waiting = deque([source])
    while waiting and sink not in came_from:
        node = waiting.popleft()
        for after, left in room[node].items():
            if left > 0 and after not in came_from:
                came_from[after] = node
                waiting.append(after)
    return came_from
