"""Weights and biases against plain integer arithmetic: no overflow, no saturation, half a step of error."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.core.numerics.affine import dequantize
from qtool.core.numerics.weights import (
    bias_floor,
    bias_scale,
    quantize_bias,
    quantize_weight,
    saturating_channels,
    seven_bit_steps,
    weight_qparams,
)

INT32 = (-(2**31), 2**31 - 1)
finite = st.floats(-(2.0**100), 2.0**100, width=32)
usual = st.floats(-2, 2, width=32)
tiny = st.floats(-(2.0**-100), 2.0**-100, width=32)
any_weight = usual | finite | tiny | st.just(0.0)


@st.composite
def weights(draw, elements=any_weight):
    shape = draw(st.sampled_from([(3, 4), (2, 3, 2, 2), (4, 1), (1, 6), (2, 2, 3)]))
    n = int(np.prod(shape))
    return np.array(draw(st.lists(elements, min_size=n, max_size=n)), np.float32).reshape(shape)


@settings(max_examples=200)
@given(weights(), st.sampled_from([None, 0, 1]), st.sampled_from([127.0, 64.0]))
def test_weights_are_symmetric_and_half_a_step_off_at_most(weight, axis, steps):
    params = weight_qparams(weight, axis, steps=steps)
    channels = 1 if axis is None else weight.shape[axis]
    assert (len(params.scale), set(params.zero_point), params.dtype, params.axis) == (channels, {0}, "int8", axis)
    quantized = quantize_weight(weight, params)
    assert quantized.dtype == np.int8
    assert np.abs(quantized.astype(int)).max() <= steps
    error = np.abs(dequantize(quantized, params).astype(np.float64) - weight)
    shape = [1] * weight.ndim
    if axis is not None:
        shape[axis] = -1
    step = np.array(params.scale).reshape(shape)
    assert (error <= step * (0.5 + 1e-5)).all()
    largest = np.abs(weight.astype(np.float64)).max(
        axis=None if axis is None else tuple({*range(weight.ndim)} - {axis})
    )
    for (
        scale,
        top,
    ) in zip(params.scale, np.atleast_1d(largest), strict=True):
        assert scale == float(np.float32(scale)) > 0.0
        if top >= 2.0**-90:
            assert scale == pytest.approx(top / steps, rel=1e-6)


def test_each_channel_uses_all_of_its_own_127_steps():
    weight = np.random.default_rng(0).normal(size=(5, 3, 3, 3)).astype(np.float32)
    weight *= np.array([1e-6, 1e-3, 1.0, 1e3, 1e6], np.float32).reshape(5, 1, 1, 1)
    quantized = quantize_weight(weight, weight_qparams(weight, 0))
    assert np.abs(quantized.astype(int)).reshape(5, -1).max(axis=1).tolist() == [127] * 5
    one = quantize_weight(weight, weight_qparams(weight, None))
    assert np.abs(one.astype(int)).reshape(5, -1).max(axis=1).tolist() == [0, 0, 0, 0, 127]


def test_a_channel_of_zeros_stays_zero():
    weight = np.array([[0.0, -0.0], [1.0, 0.5]], np.float32)
    params = weight_qparams(weight, 0)
    assert params.scale[0] == 1.0
    assert quantize_weight(weight, params).tolist() == [[0, 0], [127, 64]]
    assert weight_qparams(np.zeros((0, 3), np.float32), None).scale == (1.0,)


def test_minus_128_is_not_used():
    params = weight_qparams(np.array([[1.0]], np.float32), 0)
    assert quantize_weight(np.array([[-5.0, -1.0, 5.0]], np.float32), params).tolist() == [[-127, -127, 127]]


@settings(max_examples=300)
@given(
    weight=st.lists(usual | tiny | st.just(0.0), min_size=1, max_size=6),
    bias=usual | st.floats(-(2.0**60), 2.0**60, width=32) | tiny,
    input_scale=st.floats(2.0**-60, 2.0**10, width=32),
    repeated=st.integers(1, 5_000),
    zero_point=st.integers(0, 255),
)
def test_the_accumulator_never_overflows(weight, bias, input_scale, repeated, zero_point):
    """The worst activations there are, accumulated with the bias in Python's integers."""
    row = np.array([weight], np.float32)
    accumulated = len(weight) * repeated
    biases = np.array([bias], np.float32)
    params = weight_qparams(row, 0, bias_floor(biases, input_scale, accumulated))
    scale = bias_scale(input_scale, params)
    quantized = quantize_weight(row, params)[0].tolist()
    start = int(quantize_bias(biases, scale)[0])
    for worst in (
        sum(max(w * (0 - zero_point), w * (255 - zero_point)) for w in quantized),
        sum(min(w * (0 - zero_point), w * (255 - zero_point)) for w in quantized),
    ):
        assert INT32[0] <= start + worst * repeated <= INT32[1]
        # as summed by the kernel: raw activations first, the zero point's share taken off after
    for raw in (sum(max(w, 0) for w in quantized), sum(min(w, 0) for w in quantized)):
        assert INT32[0] <= start + raw * 255 * repeated <= INT32[1]
    # and the bias was not cut down to fit: half a step of its own
    assert start * scale[0] == pytest.approx(bias, rel=1e-9, abs=scale[0] * 0.5000001)
    # the product of scales is a normal float32
    assert scale[0] >= 2.0**-126


@pytest.mark.parametrize("accumulated", [1, 64, 1_000, 33_000])
@pytest.mark.parametrize("share", [0.4, 0.9, 0.99999, 1.0, 1.00001, 1.5, 40.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_bias_near_the_end_of_int32_leaves_room_for_the_products(accumulated, share, sign):
    """Every weight of the bias's sign, every activation 255, and a bias that alone would fill the accumulator."""
    weight = np.full((1, 8), sign, np.float32)
    bias = np.array([sign * share * 2.0**31 * 0.02 / 127], np.float32)
    params = weight_qparams(weight, 0, bias_floor(bias, 0.02, accumulated))
    quantized = int(quantize_weight(weight, params)[0, 0])
    start = int(quantize_bias(bias, bias_scale(0.02, params))[0])
    assert quantized * sign >= 1
    assert INT32[0] <= start + 255 * quantized * accumulated <= INT32[1]


def test_a_bias_that_fits_leaves_the_weights_their_precision():
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(8, 64)).astype(np.float32), rng.normal(size=8).astype(np.float32)
    assert weight_qparams(weight, 0, bias_floor(bias, 0.02, 64)) == weight_qparams(weight, 0)


def test_only_the_channel_that_needs_it_gets_a_larger_scale():
    weight = np.full((2, 4), 1e-9, np.float32)
    bias = np.array([0.0, 1000.0], np.float32)
    plain, floored = weight_qparams(weight, 0), weight_qparams(weight, 0, bias_floor(bias, 0.01, 4))
    assert floored.scale[0] == plain.scale[0]
    assert floored.scale[1] > plain.scale[1]
    assert np.abs(quantize_bias(bias, bias_scale(0.01, floored))).max() < 2**31 - 1


@settings(deadline=None)
@given(st.floats(2.0**-60, 2.0**20, width=32), st.lists(st.floats(2.0**-60, 2.0**20, width=32), min_size=1, max_size=5))
def test_the_scale_of_a_bias_is_the_float32_product(input_scale, scales):
    weight = weight_qparams(np.array(scales, np.float32)[:, None], 0, steps=1.0)
    assert weight.scale == tuple(scales)
    expected = np.array([input_scale], np.float32) * np.array(scales, np.float32)
    assert np.array(bias_scale(input_scale, weight), np.float32).tobytes() == expected.tobytes()
    assert all(float(np.float32(s)) == s for s in bias_scale(input_scale, weight))


def test_one_scale_serves_every_bias():
    assert quantize_bias(np.array([1.0, -2.0, 0.26], np.float32), (0.5,)).tolist() == [2, -4, 1]
    assert quantize_bias(np.array([1.0, -2.0], np.float32), (0.5, 0.25)).tolist() == [2, -8]
    assert quantize_bias(np.zeros(2, np.float32), (1.0,)).dtype == np.int32


def saturates(row: list[int]) -> bool:
    """vpmaddubsw over neighbours from either alignment: any activations whose pair sum leaves int16."""
    for start in (0, 1):
        for w0, w1 in zip(row[start::2], row[start + 1 :: 2], strict=False):
            for a0 in (0, 255):
                for a1 in (0, 255):
                    if not -(2**15) <= a0 * w0 + a1 * w1 <= 2**15 - 1:
                        return True
    return False


int8_weights = st.integers(-127, 127) | st.integers(60, 70) | st.sampled_from([-127, -65, -64, 0, 64, 65, 127])


@st.composite
def quantized_tensors(draw, elements=int8_weights):
    shape, axis = draw(
        st.sampled_from(
            [((3, 5), 0), ((5, 3), 1), ((2, 3, 2, 2), 0), ((3, 2, 2, 1), 1), ((2, 1, 3, 3), 0), ((2, 3, 4), 0)]
        )
    )
    n = int(np.prod(shape))
    return np.array(draw(st.lists(elements, min_size=n, max_size=n)), np.int8).reshape(shape), axis


@settings(max_examples=300)
@given(quantized_tensors())
def test_saturating_channels_are_those_that_the_instruction_saturates(case):
    quantized, axis = case
    found = saturating_channels(quantized, axis)
    assert found.shape == (quantized.shape[axis],)
    for channel in range(quantized.shape[axis]):
        kernel = quantized.take(channel, axis)
        orders = [kernel.reshape(-1).tolist()]
        if kernel.ndim > 1:
            # channels last: every position in turn, all of its input channels
            orders.append([int(w) for position in kernel.reshape(kernel.shape[0], -1).T for w in position])
        assert bool(found[channel]) == any(saturates(order) for order in orders)


@settings(deadline=None)
@given(quantized_tensors(st.integers(-64, 64)))
def test_64_steps_never_saturate(case):
    assert not saturating_channels(*case).any()


@settings(deadline=None)
@given(weights())
def test_weights_of_seven_bits_never_saturate(weight):
    saturating = np.ones(weight.shape[0], bool)
    params = weight_qparams(weight, 0, steps=seven_bit_steps(saturating))
    assert not saturating_channels(quantize_weight(weight, params), 0).any()


def test_seven_bits_go_to_the_channels_that_need_them():
    weight = np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [1.0, -1.0, 1.0], [-1.0, -0.1, 0.0]], np.float32)
    saturating = saturating_channels(quantize_weight(weight, weight_qparams(weight, 0)), 0)
    assert saturating.tolist() == [True, False, False, True]
    params = weight_qparams(weight, 0, steps=seven_bit_steps(saturating))
    assert np.abs(quantize_weight(weight, params).astype(int)).max(axis=1).tolist() == [64, 127, 127, 64]
