"""Divisions of a plan's nodes into integers and float, from few in float to many: each at the least time for its noise.

Whatever is left in float pays for its borders, and neighbours share them; what is left in float node by node may cost
more time than integers save. So noise is given a price, and the whole graph is divided at once, at the least time and
noise together (`qtool.pipeline.planning.speed.Divider`): the higher the price, the more is in float.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from qtool.pipeline.planning.speed import Divider, Prices

_RUNGS = range(-12, 25)
"""All the noise together is worth two to the half of so many times what all integers take."""
_PRICES = range(-12, 16)
"""All multiply-accumulates together are worth two to the power of so many times what all the noise is."""


@dataclass(slots=True)
class Ladder:
    """The divisions, of which none has more than the share `most` of multiply-accumulates in float.

    noise: by node, as a share of the signal's power. work: the share of multiply-accumulates, by node.
    """

    divider: Divider
    noise: Mapping[str, float]
    work: Mapping[str, float]
    most: float
    _known: dict[int, frozenset[str]] = field(default_factory=dict)

    @property
    def top(self) -> frozenset[str]:
        """The division with the least noise."""
        return self._rung(_RUNGS[-1])

    def lowest(self, enough: Callable[[frozenset[str]], bool]) -> frozenset[str]:
        """Return the division with the least in float that is enough, by bisection; the highest one is known to be."""
        few, many = _RUNGS[0] - 1, _RUNGS[-1]
        while many - few > 1:
            middle = (few + many) // 2
            rung = self._rung(middle)
            if rung and (rung == self._rung(many) or enough(rung)):
                many = middle
            else:
                few = middle
        return self._rung(many)

    def share(self, floating: frozenset[str]) -> float:
        """Return the share of multiply-accumulates of the nodes."""
        return sum(self.work.get(name, 0.0) for name in floating)

    def _rung(self, number: int) -> frozenset[str]:
        if number not in self._known:
            self._known[number] = self._within(self._worth(number))
        return self._known[number]

    def _worth(self, number: int) -> float:
        return self.divider.integer_ns * math.pow(2.0, number / 2)

    def _within(self, noise_ns: float) -> frozenset[str]:
        """The cheapest division that has no more in float than it may: at the least price of multiply-accumulates."""
        found = self.divider.cheapest(Prices(self.noise, self.work, noise_ns))
        if self.share(found) <= self.most:
            return found
        low, high, found = _PRICES[0] - 1, _PRICES[-1] + 1, frozenset()
        while high - low > 1:
            middle = (low + high) // 2
            other = self.divider.cheapest(Prices(self.noise, self.work, noise_ns, noise_ns * 2.0**middle))
            if self.share(other) <= self.most:
                high, found = middle, other
            else:
                low = middle
        return found
