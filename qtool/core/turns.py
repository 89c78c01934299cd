"""Samples that take turns at random, by a fixed seed: data sorted by class splits evenly, as does data in a cycle."""

from functools import lru_cache

import numpy as np

_SEED = 14


def turn_of(index: int, turns: int) -> int:
    """Return the turn, from 0 on, of a sample by its index: of each `turns` samples in a row every one has its own."""
    block, place = divmod(index, turns)
    return _order(block, turns)[place]


@lru_cache(maxsize=64)
def _order(block: int, turns: int) -> tuple[int, ...]:
    """The turn of each sample of a block."""
    places = np.random.default_rng([_SEED, block]).permutation(turns)
    return tuple(np.argsort(places).tolist())
