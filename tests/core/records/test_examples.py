"""Which runs become examples: spread over all data, the same whatever parts it is read in, within their room."""

import numpy as np
import pytest

from qtool.core.records.examples import BYTES, EXAMPLES, candidates, chosen, halves, in_turns, joined, row_of, with_room


def rows(count, size=64):
    """Rows of one batch each that holds its own number, `size` bytes large."""
    return [row_of(start, ({"x": np.full(size // 4, start, np.float32)},)) for start in range(count)]


def numbers(runs):
    return [int(run["x"][0]) for run in runs]


def test_they_are_spread_over_all_of_the_data():
    found = numbers(chosen(rows(1000)))
    assert len(set(found)) == EXAMPLES
    # of 1000 batches each fifth has its share, and so have the first eight of each half
    assert (np.bincount(np.array(found) // 200, minlength=5) >= 7).all()
    for half in halves(found):
        assert len(half) == EXAMPLES // 2
        assert max(half[:8]) > 650 and min(half[:8]) < 300


@pytest.mark.parametrize("size", [64, BYTES // 100, BYTES // 20, BYTES])
def test_any_parts_in_any_order_give_the_same(size):
    rng = np.random.default_rng(0)
    # of unequal sizes, so that large ones are met where small ones would still fit
    every = [row_of(s, ({"x": np.full(int(n), s, np.float32)},)) for s, n in enumerate(rng.integers(1, size // 2, 30))]
    wanted = numbers(chosen(every))
    for parts in (2, 3, 7):
        owner = rng.integers(0, parts, len(every))
        kept = [with_room(row for row, o in zip(every, owner, strict=True) if o == part) for part in range(parts)]
        total = ()
        for part in rng.permutation(parts):
            total = with_room((*total, *kept[part]))
        assert numbers(chosen(total)) == wanted
    one_by_one = ()
    for row in rng.permutation(len(every)):
        one_by_one = joined(one_by_one, every[row])
    assert numbers(chosen(one_by_one)) == wanted


def test_they_take_no_more_than_their_room_but_there_are_two():
    """Where samples are large, a few may take three times as much."""
    sizes = {BYTES // 40: 40, BYTES // 10: 16, BYTES // 4: 12, BYTES: 3, 4 * BYTES: 2}
    blank = np.zeros(4 * BYTES, np.uint8)
    for size, kept in sizes.items():
        large = [row_of(start, ({"x": blank[:size]},)) for start in range(50)]
        assert len(chosen(large)) == kept
        assert len(chosen(large[:1])) == 1
    assert chosen([]) == ()


def test_a_view_does_not_keep_what_it_is_of():
    large = np.zeros((1000, 4), np.float32)
    (row,) = joined((), row_of(3, ({"x": large[3:4]},)))
    assert row.runs[0]["x"].base is None


def test_each_half_has_steps_from_all_along_each_sequence():
    """Of one, of two, and of more sequences than there are examples; as shares of their length."""
    for count in (1, 2, 64, 100):
        steps = candidates(640, 4)
        sequences = [row_of(s, tuple({"x": np.array([[s, step]])} for step in steps)) for s in range(count)]
        for half in halves([run["x"][0] for run in chosen(sequences)]):
            found = np.array(half)
            assert len(found) == EXAMPLES // 2
            assert (np.bincount(found[:, 1] // 160, minlength=4) >= 4).all()
            assert len(set(found[:, 0])) >= min(count, EXAMPLES // 2)


def test_halves_of_few_and_of_several_calibrations():
    assert halves([]) == ((), ())
    assert halves([1]) == ((1,), (1,))
    assert halves([1, 2, 3]) == ((1, 3), (2,))
    first, other = (tuple({"x": np.array([n])} for n in group) for group in ((0, 1, 2, 3), (10, 11, 12)))
    both = numbers(in_turns([first, other]))
    assert both == [0, 1, 10, 11, 2, 3, 12]
    assert all({n // 10 for n in half} == {0, 1} for half in halves(both))
