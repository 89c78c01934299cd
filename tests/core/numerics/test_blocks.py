"""Weights in blocks: the nearest integers, searched scales, GPTQ, and how integers are packed."""

from dataclasses import replace

import numpy as np
import pytest
from onnxruntime.capi import _pybind_state as runtime

from qtool.core.numerics import blocks

WEIGHT = np.random.default_rng(0).standard_t(4, (24, 100)).astype(np.float32)
WEIGHT[3] = 0.0
WEIGHT[4:6] = np.abs(WEIGHT[4:6])
WEIGHT[6] = -np.abs(WEIGHT[6])


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("bits", "size"), [(4, 32), (4, 16), (4, 128), (8, 32), (8, 64)])
def test_the_nearest_integers_are_those_of_onnxruntimes_own_tool(bits, size, symmetric):
    channels, length = WEIGHT.shape
    count = blocks.count(length, size)
    packed = np.zeros((channels, count, size * bits // 8), np.uint8)
    scale = np.zeros(channels * count, np.float32)
    zero = np.zeros(channels * ((count * bits + 7) // 8), np.uint8)
    make = runtime.quantize_matmul_4bits if bits == 4 else runtime.quantize_matmul_8bits
    make(packed, np.ascontiguousarray(WEIGHT.T), scale, zero, size, channels, length, symmetric)
    grids = blocks.reaching(WEIGHT, bits, size, symmetric=symmetric)
    found = blocks.nearest(WEIGHT, grids)
    assert (found == blocks.unpacked(packed, bits, length)).all()
    assert (grids.scale.reshape(-1) == scale).all()
    if symmetric:
        assert grids.zero_point is None
    else:
        theirs = zero.reshape(channels, -1)
        theirs = blocks.from_bytes(theirs)[:, :count] if bits == 4 else theirs
        assert (grids.zero_point == theirs).all()
    whole = length // size * size * bits // 8
    mine = blocks.packed(found, bits, size, blocks.middle(bits)).reshape(channels, -1)
    assert (mine[:, :whole] == packed.reshape(channels, -1)[:, :whole]).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_what_integers_mean_has_the_same_integers(bits):
    grids = blocks.reaching(WEIGHT, bits, 32, symmetric=False)
    integers = blocks.nearest(WEIGHT, grids)
    real = blocks.real(integers, grids)
    assert (blocks.nearest(real, grids) == integers).all()
    step = np.repeat(np.abs(grids.scale), 32, axis=1)[:, : WEIGHT.shape[1]]
    assert (np.abs(real - WEIGHT) <= step * 1.001).all()
    assert (real[3] == 0.0).all()


@pytest.mark.parametrize("symmetric", [False, True])
def test_searched_scales_cost_less_than_those_that_reach_all(symmetric):
    weights = np.exp(np.random.default_rng(1).standard_normal(WEIGHT.shape[1]))

    def cost(grids: blocks.BlockGrids) -> np.ndarray:
        lost = (WEIGHT - blocks.real(blocks.nearest(WEIGHT, grids), grids)).astype(np.float64)
        return blocks.blocks_of(lost**2 * weights, 32).sum(axis=2)

    plain = cost(blocks.reaching(WEIGHT, 4, 32, symmetric=symmetric))
    found = cost(blocks.searched(WEIGHT, 4, 32, weights, symmetric=symmetric))
    assert (found <= plain * (1 + 1e-6)).all()
    assert found.sum() < 0.9 * plain.sum()


def test_gptq_costs_less_than_the_nearest_integers_where_inputs_hang_together():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((500, 8)) @ rng.standard_normal((8, 100)) + 0.1 * rng.standard_normal((500, 100))
    seen = blocks.Seen(x[:300].T @ x[:300] / 300, x[300:].T @ x[300:] / 200, x.T @ x / 500)
    grids = blocks.reaching(WEIGHT, 4, 32, symmetric=False)
    nearest, found = blocks.nearest(WEIGHT, grids), blocks.confirmed(WEIGHT, seen, grids)
    assert (found == blocks.compensated(WEIGHT, seen.whole, grids)).all()
    # where other data says the contrary, nothing changes
    assert (blocks.confirmed(WEIGHT, replace(seen, confirming=np.eye(100)), grids) == nearest).all()
    before, after = (((x @ (WEIGHT - blocks.real(q, grids)).T) ** 2).sum() for q in (nearest, found))
    assert after < 0.2 * before
    assert found.max() <= 15


def test_integers_of_4_bits_in_bytes():
    integers = np.arange(15, dtype=np.uint8).reshape(3, 5)
    stored = blocks.in_bytes(integers)
    assert stored.tolist() == [[0x10, 0x32, 0x04], [0x65, 0x87, 0x09], [0xBA, 0xDC, 0x0E]]
    assert (blocks.from_bytes(stored)[:, :5] == integers).all()
    assert blocks.packed(integers, 4, 16, 8).shape == (3, 1, 8)
    assert blocks.packed(integers, 4, 16, 8)[0, 0, 2] == 0x84
