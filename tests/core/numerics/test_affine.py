"""Scale and zero point against ONNX's own evaluator, onnxruntime and plain arithmetic."""

from functools import cache

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from qtool.core.numerics.affine import (
    MIN_SCALE,
    QParams,
    TensorSpec,
    activation_qparams,
    dequantize,
    fit_inside,
    quantize,
)

QUANTIZED = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8}
LIMITS = {"uint8": (0, 255), "int8": (-128, 127)}
SPECS = [
    TensorSpec("uint8", symmetric=False),
    TensorSpec("uint8", symmetric=True),
    TensorSpec("int8", symmetric=False),
    TensorSpec("int8", symmetric=True),
    TensorSpec("int8", symmetric=True, zero_point_zero=True),
    TensorSpec("int8", symmetric=False, zero_point_zero=True),
]

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
scales = st.floats(2.0**-120, 2.0**110, width=32)
# halves of a step are where rounding rules differ
halves = st.integers(-600, 600).map(lambda n: n / 2)


@cache
def runners(operator: str, dtype: str, axis: int | None, rank: int):
    """The one-node model, by ONNX's reference evaluator and by onnxruntime."""
    source, result = TensorProto.FLOAT, QUANTIZED[dtype]
    if operator == "DequantizeLinear":
        source, result = result, source
    vector = [] if axis is None else [None]
    attributes = {} if axis is None else {"axis": axis}
    node = helper.make_node(operator, ["x", "scale", "zero"], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info("x", source, [None] * rank),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, vector),
            helper.make_tensor_value_info("zero", QUANTIZED[dtype], vector),
        ],
        [helper.make_tensor_value_info("y", result, [None] * rank)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return ReferenceEvaluator(model), session


def by_onnx(operator: str, x: np.ndarray, params: QParams) -> list[np.ndarray]:
    shape = () if params.axis is None else (-1,)
    feeds = {
        "x": x,
        "scale": np.array(params.scale, np.float32).reshape(shape),
        "zero": np.array(params.zero_point, params.dtype).reshape(shape),
    }
    reference, session = runners(operator, params.dtype, params.axis, x.ndim)
    with np.errstate(over="ignore", invalid="ignore"):
        return [reference.run(None, feeds)[0], session.run(None, feeds)[0]]


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@st.composite
def grids(draw, channels: int | None = None, axis: int | None = None) -> QParams:
    dtype = draw(st.sampled_from(["uint8", "int8"]))
    n = channels or 1
    zero = draw(st.lists(st.integers(*LIMITS[dtype]), min_size=n, max_size=n))
    return QParams(tuple(draw(st.lists(scales, min_size=n, max_size=n))), tuple(zero), dtype, axis)


@settings(max_examples=300)
@given(grids(), st.lists(finite, max_size=40), st.lists(halves, max_size=40))
@example(QParams((0.1,), (0,), "uint8"), [-0.0, 3.4028234663852886e38, -3.4028234663852886e38, 1e-45], [0.5, 1.5, 2.5])
@example(QParams((2.0**-80,), (255,), "uint8"), [1.0, -1.0, 1e-45, 3.4028234663852886e38], [])
def test_per_tensor_quantisation_is_onnx_bit_for_bit(params, values, steps):
    with np.errstate(over="ignore"):
        x = np.array([*values, *(np.array(steps) * params.scale[0])], np.float64)
        x = x[np.abs(x) <= np.finfo(np.float32).max].astype(np.float32)
    ours = quantize(x, params)
    reference, runtime = by_onnx("QuantizeLinear", x, params)
    assert same_bits(ours, runtime)
    # the reference casts to int32 without saturating, which is undefined beyond it
    with np.errstate(over="ignore"):
        sane = np.abs(x / np.float32(params.scale[0])) < 2.0**30
    assert same_bits(ours[sane], reference[sane])


@pytest.mark.fast
@settings(max_examples=150)
@given(st.data(), st.integers(0, 2))
def test_per_channel_quantisation_is_onnx_bit_for_bit(data, axis):
    params = data.draw(grids(channels=3, axis=axis))
    shape = [2, 2, 2]
    shape[axis] = 3
    x = np.array(data.draw(st.lists(st.one_of(finite, halves), min_size=12, max_size=12)), np.float32).reshape(shape)
    ours = quantize(x, params)
    reference, runtime = by_onnx("QuantizeLinear", x, params)
    assert same_bits(ours, runtime)
    along = [1, 1, 1]
    along[axis] = 3
    with np.errstate(over="ignore"):
        sane = np.abs(x / np.array(params.scale, np.float32).reshape(along)) < 2.0**30
    assert same_bits(ours[sane], reference[sane])


@settings(max_examples=100)
@given(grids())
def test_per_tensor_dequantisation_is_onnx_bit_for_bit(params):
    q = np.arange(LIMITS[params.dtype][0], LIMITS[params.dtype][1] + 1).astype(params.dtype)
    for theirs in by_onnx("DequantizeLinear", q, params):
        assert same_bits(dequantize(q, params), theirs)


@settings(max_examples=100)
@given(st.data(), st.integers(0, 1))
def test_per_channel_dequantisation_is_onnx_bit_for_bit(data, axis):
    params = data.draw(grids(channels=4, axis=axis))
    q = np.arange(LIMITS[params.dtype][0], LIMITS[params.dtype][1] + 1).astype(params.dtype)
    q = q.reshape(-1, 4) if axis == 1 else q.reshape(4, -1)
    for theirs in by_onnx("DequantizeLinear", q, params):
        assert same_bits(dequantize(q, params), theirs)


def test_division_by_the_scale_is_not_multiplication_by_its_inverse():
    x = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    params = QParams((float(np.float32(0.0123)),), (128,), "uint8")
    assert same_bits(quantize(x, params), by_onnx("QuantizeLinear", x, params)[1])


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=150)
@given(st.data())
def test_the_grid_covers_the_range_and_holds_zero(spec, data):
    ends = st.floats(-(2.0**120), 2.0**120, width=32)
    low, high = sorted((data.draw(ends), data.draw(ends)))
    params = activation_qparams(low, high, spec)
    (scale,), (zero,) = params.scale, params.zero_point
    qmin, qmax = LIMITS[spec.dtype]
    assert qmin <= zero <= qmax
    assert scale == float(np.float32(scale))
    assert scale >= MIN_SCALE
    assert dequantize(quantize(np.zeros(1, np.float32), params), params)[0] == 0.0
    start, end = (qmin - zero) * scale, (qmax - zero) * scale
    slack = scale * (0.5 + 1e-4)
    assert start <= min(low, 0.0) + slack
    assert end >= max(high, 0.0) - slack
    # values inside the range lose half a step at most, twice half at an end that the zero point moved
    inside = np.linspace(min(low, 0.0), max(high, 0.0), 33).astype(np.float32)
    error = np.abs(dequantize(quantize(inside, params), params).astype(np.float64) - inside)
    assert error.max() <= slack * 1.01


@pytest.mark.parametrize(
    ("low", "high", "spec", "zero_point", "steps"),
    [
        (-2.0, 3.0, SPECS[1], 128, 127),
        (-3.0, 2.0, SPECS[3], 0, 127),
        (-3.0, 0.0, SPECS[1], 128, 127),
        (0.0, 3.0, SPECS[0], 0, 255),
        (0.0, 3.0, SPECS[1], 0, 255),
        (1.0, 3.0, SPECS[1], 0, 255),
        (0.0, 3.0, SPECS[2], -128, 255),
        (0.0, 3.0, SPECS[3], -128, 255),
        (0.0, 3.0, SPECS[4], 0, 127),
        (-3.0, 1.0, SPECS[4], 0, 127),
        (-3.0, 1.0, SPECS[5], 0, 127),
        (-3.0, 0.0, SPECS[0], 255, 255),
        (-3.0, -1.0, SPECS[2], 127, 255),
    ],
)
def test_where_zero_stands(low, high, spec, zero_point, steps):
    params = activation_qparams(low, high, spec)
    assert params.zero_point == (zero_point,)
    assert params.scale == (float(np.float32(3.0 / steps)),)


@pytest.mark.parametrize("spec", SPECS)
def test_a_tensor_that_is_always_zero_has_a_grid(spec):
    params = activation_qparams(0.0, 0.0, spec)
    assert params.scale == (float(np.float32(1.0 / 255.0)),)
    assert dequantize(quantize(np.zeros(3, np.float32), params), params).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(
    ("low", "high"), [(-1e-45, 1e-45), (0.0, 1e-45), (-1e-40, 0.0), (0.0, 5e-324), (-1e-30, 1e-30)]
)
def test_a_tiny_range_does_not_underflow(low, high, spec):
    params = activation_qparams(low, high, spec)
    assert params.scale[0] >= MIN_SCALE
    assert dequantize(quantize(np.array([low, high], np.float32), params), params).tolist() == pytest.approx([0, 0])


@pytest.mark.parametrize(("low", "high"), [(1.0, -1.0), (np.nan, 1.0), (0.0, np.inf), (-np.inf, 0.0), (0.0, np.nan)])
def test_what_is_not_a_range_is_refused(low, high):
    with pytest.raises(ValueError, match="not a range"):
        activation_qparams(low, high, SPECS[0])


def inside(params: QParams, low: float, high: float) -> bool:
    """Whether the grid lies in the bounds, computed in float32 as `ClipQuantFusion` does."""
    qmin, qmax = LIMITS[params.dtype]
    scale = np.float32(params.scale[0])
    start = np.float32(qmin - params.zero_point[0]) * scale
    end = np.float32(qmax - params.zero_point[0]) * scale
    return bool(np.float32(low) <= start and end <= np.float32(high))


bounds_of_a_clip = st.one_of(
    st.sampled_from([(0.0, 6.0), (-1.0, 1.0), (-6.0, 0.0), (0.0, float("inf")), (-0.0, 1.0)]),
    st.tuples(st.floats(-1e6, -(2.0**-20), width=32), st.floats(2.0**-20, 1e6, width=32)),
)


@pytest.mark.parametrize("spec", SPECS[:4])
@settings(max_examples=200)
@given(bounds_of_a_clip, st.floats(0, 1), st.floats(0, 1))
def test_a_grid_is_made_to_fit_inside_the_bounds_of_a_clip(spec, bounds, a, b):
    low, high = bounds
    observed = (low * a, (high if high < np.inf else 50.0) * b)
    assume(max(-observed[0], observed[1]) > 1e-9)
    before = activation_qparams(*observed, spec)
    after = fit_inside(before, low, high)
    assert inside(after, low, high)
    if inside(before, low, high):
        assert after == before
    # and no more of what was observed is lost than a step of the grid before
    values = np.linspace(*observed, 65).astype(np.float32)
    error = np.abs(dequantize(quantize(values, after), after).astype(np.float64) - values)
    assert error.max() <= before.scale[0] * 1.51


@pytest.mark.parametrize("spec", SPECS[:4])
@pytest.mark.parametrize("bounds", [(-1.0, 6.0), (-0.013, 6.0), (-6.0, 0.01), (-0.01, float("inf"))])
def test_lopsided_bounds_move_the_zero_point_and_keep_the_range(bounds, spec):
    observed = (max(bounds[0], -6.0), min(bounds[1], 6.0))
    params = fit_inside(activation_qparams(*observed, spec), *bounds)
    assert inside(params, *bounds)
    assert params.range[1] - params.range[0] >= (observed[1] - observed[0]) * 0.98


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("top", [6.0, 1.0, 0.1, 3.0, 7.77, 20.0])
def test_relu6_uses_its_whole_range(dtype, top):
    """255 steps that end at the bound within a float32's precision, whatever the calibrator saw above it."""
    top = float(np.float32(top))
    params = fit_inside(activation_qparams(0.0, top, TensorSpec(dtype, symmetric=True)), 0.0, top)
    assert params.zero_point == (LIMITS[dtype][0],)
    assert params.range[0] == 0.0
    assert top * (1 - 2e-7) <= params.range[1] <= top


@pytest.mark.parametrize("bounds", [(1.0, 6.0), (-6.0, -1.0), (0.0, 0.0), (0.0, 1e-40)])
def test_where_no_grid_fits_it_stays(bounds):
    params = activation_qparams(-2.0, 3.0, SPECS[0])
    assert fit_inside(params, *bounds) is params


@pytest.mark.parametrize("bounds", [(0.0, 6.0), (-1.0, 1.0), (-6.0, 0.0), (-0.5, 3.3), (0.0, 0.1)])
@pytest.mark.parametrize("spec", SPECS[:4])
def test_onnxruntime_drops_the_clip_before_a_fitted_grid(bounds, spec, tmp_path):
    bounds = tuple(float(np.float32(b)) for b in bounds)
    params = fit_inside(activation_qparams(*bounds, spec), *bounds)
    initializers = [
        helper.make_tensor("low", TensorProto.FLOAT, [], [bounds[0]]),
        helper.make_tensor("high", TensorProto.FLOAT, [], [bounds[1]]),
        helper.make_tensor("scale", TensorProto.FLOAT, [], params.scale),
        helper.make_tensor("zero", QUANTIZED[params.dtype], [], params.zero_point),
    ]
    nodes = [
        helper.make_node("Neg", ["x"], ["before"]),
        helper.make_node("Clip", ["before", "low", "high"], ["clipped"]),
        helper.make_node("QuantizeLinear", ["clipped", "scale", "zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "clip",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8])],
        [helper.make_tensor_value_info("y", QUANTIZED[params.dtype], [8])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    assert operators == ["Neg", "QuantizeLinear"]
