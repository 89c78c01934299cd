"""Rounding to what a layer computes: against nearest integers, the paper's own algorithm, and trying all scales."""

import numpy as np
import pytest

from qtool.core.numerics.rounding import (
    LEAST_SHARE,
    Moments,
    WeightGrids,
    best_scales,
    costs,
    fitted,
    nearest,
    rounded,
    scales_tried,
)


def layer(seed, groups=1, outputs=6, length=12, positions=60):
    """(a weight, H of inputs that hang together, grids of 127 steps)."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(groups, length, length)) * rng.lognormal(0.0, 1.0, (groups, length, 1))
    moments = Moments.of(mixing @ rng.normal(size=(groups, length, positions)))
    weight = rng.standard_t(4, (groups, outputs, length))
    scale = np.abs(weight).max(axis=2) / 127.0
    return weight, moments.mean(centred=bool(seed % 2)), WeightGrids(scale, np.full(scale.shape, 127.0))


@pytest.mark.parametrize("bits", [8, 7, 4])
@pytest.mark.parametrize("seed", range(6))
def test_rounding_costs_no_more_than_the_nearest_integers(seed, bits):
    weight, h, grids = layer(seed, groups=1 + seed % 3)
    limit = 2.0 ** (bits - 1) - 1.0
    grids = WeightGrids(grids.scale * 127.0 / limit, np.full(grids.scale.shape, limit))
    found, plain = rounded(weight, h, grids), nearest(weight, grids)
    step = grids.scale[:, :, None]
    before, after = costs(weight, plain * step, h), costs(weight, found * step, h)
    assert (after <= before).all() and after.sum() < 0.8 * before.sum()
    assert np.abs(found).max() <= limit and (found == np.rint(found)).all()


def test_it_is_the_algorithm_of_the_paper():
    """Algorithm 1 of GPTQ with blocks of one column: the rest of a row takes up its error by the inverse of H."""
    weight, h, grids = layer(3, length=90, positions=400)
    damped = h[0] + 0.01 * np.diag(h[0]).mean() * np.eye(90)
    order = np.argsort(-np.diag(damped), kind="stable")
    rest, inverse = weight[0][:, order].copy(), np.linalg.inv(damped[np.ix_(order, order)])
    integers = np.empty_like(rest)
    for i in range(90):
        integers[:, i] = np.clip(np.rint(rest[:, i] / grids.scale[0]), -127, 127)
        error = (rest[:, i] - integers[:, i] * grids.scale[0]) / inverse[i, i]
        rest -= np.outer(error, inverse[i])
        inverse -= np.outer(inverse[:, i], inverse[i]) / inverse[i, i]
    expected = np.empty_like(integers)
    expected[:, order] = integers
    found = rounded(weight, h, grids)[0]
    kept = (found == nearest(weight, grids)[0]).all(axis=1)
    assert not kept.all()
    np.testing.assert_array_equal(found[~kept], expected[~kept])


@pytest.mark.parametrize("shared", [False, True])
def test_no_other_scale_is_better(shared):
    weight, h, grids = layer(4)
    floor = np.zeros(grids.scale.shape)
    floor[0, 0] = 0.97 * grids.scale[0, 0]
    start = np.full(grids.scale.shape, grids.scale.max()) if shared else grids.scale
    found = best_scales(weight, h, WeightGrids(start, np.full(start.shape, 7.0), shared), np.zeros(start.shape))
    bound = best_scales(weight, h, WeightGrids(start, np.full(start.shape, 7.0), shared), floor)
    assert shared or (bound[0, 0] >= np.float32(floor[0, 0]) and (bound[0, 1:] == found[0, 1:]).all())

    def cost(channel, scale):
        integers = np.clip(np.rint(weight[0, channel] / scale), -7, 7)
        return float(np.diag(h[0]) @ np.square(weight[0, channel] - integers * scale))

    shares = np.float32(np.arange(1.0, LEAST_SHARE - 0.01, -0.05))
    if shared:
        best = min(sum(cost(m, start[0, m] * share) for m in range(6)) for share in shares)
        assert len(set(found[0])) == 1
        assert sum(cost(m, found[0, m]) for m in range(6)) == pytest.approx(best, rel=1e-5)
    else:
        for m in range(6):
            assert cost(m, found[0, m]) == pytest.approx(min(cost(m, start[0, m] * s) for s in shares), rel=1e-5)


def test_short_sums_find_a_scale_on_which_all_their_numbers_lie_nearly():
    weight, h, grids = layer(7, groups=40, outputs=1, length=9)
    floor = np.where(np.arange(40) < 3, 1.05, 0.0)[:, None] * grids.scale
    scale, integers = fitted(weight, h, grids, floor)
    coarse = best_scales(weight, h, grids, np.zeros(grids.scale.shape))
    before = costs(weight, rounded(weight, h, WeightGrids(coarse, grids.limit)) * coarse[:, :, None], h)
    after = costs(weight, integers * scale[:, :, None], h)
    assert (after[3:] <= before[3:]).all() and after[3:].sum() < 0.6 * before[3:].sum()
    assert (scale >= np.float32(floor)).all() and (integers == np.rint(integers)).all()
    assert np.abs(integers).max() <= 127.0 and scale.max() <= 1.16 * grids.scale.max()


def test_long_sums_try_few_scales_and_one_scale_for_all_channels_is_the_best_by_the_diagonal():
    assert (scales_tried(9), scales_tried(256), scales_tried(5000)) == (64, 16, 0)
    weight, h, grids = layer(5)
    shared = WeightGrids(np.full(grids.scale.shape, grids.scale.max()), grids.limit, True)
    scale, integers = fitted(weight, h, shared, np.zeros(grids.scale.shape))
    expected = best_scales(weight, h, shared, np.zeros(grids.scale.shape))
    np.testing.assert_array_equal(scale, expected)
    np.testing.assert_array_equal(integers, rounded(weight, h, WeightGrids(expected, shared.limit, True)))


def test_groups_are_rounded_each_by_itself():
    weight, h, grids = layer(6, groups=5, outputs=1, length=9)
    together = rounded(weight, h, grids)
    for g in range(5):
        one = slice(g, g + 1)
        alone = rounded(weight[one], h[one], WeightGrids(grids.scale[one], grids.limit[one]))
        np.testing.assert_array_equal(together[one], alone)


def test_inputs_that_are_always_zero_change_nothing():
    weight, _, grids = layer(2)
    np.testing.assert_array_equal(rounded(weight, np.zeros((1, 12, 12)), grids), nearest(weight, grids))


def test_moments_about_the_mean_are_covariances():
    x = np.random.default_rng(0).normal(3.0, 1.0, (1, 4, 50))
    both = Moments.of(x[:, :, :20]).plus(Moments.of(x[:, :, 20:]))
    np.testing.assert_allclose(both.mean(centred=True)[0], np.cov(x[0], bias=True), rtol=1e-9)
    np.testing.assert_allclose(both.mean(centred=False)[0], x[0] @ x[0].T / 50, rtol=1e-12)
