"""The cheapest division against all divisions, one by one."""

import itertools
import random

import pytest

from qtool.core.partition import Division

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("seed", range(20))
def test_no_other_division_is_cheaper(seed):
    choose = random.Random(seed)
    things = range(7)
    stands = {thing: (choose.randint(0, 9), choose.randint(0, 9)) for thing in things}
    borders = [(*choose.sample(things, 2), choose.randint(0, 6)) for _ in range(12)]

    def cost(right):
        standing = sum(stands[thing][thing in right] for thing in things)
        return standing + sum(c for a, b, c in borders if a not in right and b in right)

    division = Division()
    for thing, (left, right) in stands.items():
        division.stand(thing, left, right)
    for border in borders:
        division.border(*border)
    found, right = division.cheapest()
    every = [set(some) for n in range(8) for some in itertools.combinations(things, n)]
    assert found == cost(right) == min(map(cost, every))
    # of equal ones, that with the most on the left
    assert all(right <= other for other in every if cost(other) == found)


def test_what_cannot_stand_left_stands_right():
    division = Division()
    division.stand("a", float("inf"), 5.0)
    division.stand("b", 1.0, 2.0)
    assert division.cheapest() == (6.0, {"a"})
