"""Every row of the CPU tables, as onnxruntime really runs it: the optimised graph of a small model is the witness."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import qtool
from qtool.core.errors import NothingToQuantizeError
from qtool.core.records.options import Scheme
from qtool.targets.tables import TARGETS
from tests.support.patterns import BRIDGES, FLOAT, PATTERNS, Net, Pattern, between
from tests.support.runs import Run, run, sqnr, steps_apart
from tests.support.since import SINCE, has

_SINCE = {"depth to space": "signed-pixels", "matmul of two activations": "computed-product"}


def skip_before(change: str | None) -> None:
    """Skip what earlier versions of onnxruntime do otherwise."""
    if change is not None and not has(change):
        pytest.skip(f"this onnxruntime: {SINCE[change].earlier}")


def check(pattern: Pattern, folder: Path, target: str = "x86", scheme: Scheme | None = None) -> Run:
    net, outputs = pattern.net()
    done = run(net, outputs, folder, target, scheme)
    found = {k: n for k, n in done.kernels.items() if k not in {"QuantizeLinear", "DequantizeLinear", *pattern.free}}
    assert (found, done.edges) == (pattern.kernels, pattern.edges)
    assert list(done.optimized) == list(outputs) == list(done.exact)
    assert steps_apart(done) <= 2.0
    assert sqnr(done) > 28.0
    assert done.result.verification.fallbacks == ()
    return done


@pytest.mark.fast(1.5)
@pytest.mark.parametrize("name", PATTERNS)
def test_the_row_becomes_integer(name, tmp_path):
    pattern = PATTERNS[name]
    done = check(pattern, tmp_path)
    assert set(TARGETS["x86"].rules[pattern.op].kernels) & set(done.kernels)


@pytest.mark.fast(0.5)
@pytest.mark.parametrize("name", PATTERNS)
def test_the_row_becomes_integer_on_arm64(name, tmp_path):
    skip_before(_SINCE.get(name))
    done = check(PATTERNS[name], tmp_path, "arm64")
    assert {a.params.dtype for a in done.result.plan.activations} == {"int8"}


@pytest.mark.parametrize("name", PATTERNS)
def test_the_row_becomes_integer_with_symmetric_activations(name, tmp_path):
    done = check(PATTERNS[name], tmp_path, scheme=Scheme(activations="symmetric"))
    assert {a.params.zero_point[0] for a in done.result.plan.activations} <= {0, 128}


@pytest.mark.parametrize("name", BRIDGES)
def test_integer_layers_on_both_sides_of_a_bridge(name, tmp_path):
    check(BRIDGES[name], tmp_path)


@pytest.mark.parametrize("name", FLOAT)
def test_what_has_no_integer_kernel_stays_float(name, tmp_path):
    skip_before(_SINCE.get(name))
    check(FLOAT[name], tmp_path)


def test_every_row_has_a_pattern():
    rows = [(op, rule) for target in TARGETS.values() if target.on_cpu for op, rule in target.rules.items()]
    static = {op for op, rule in rows if rule.kind != "bridge" and rule.static}
    assert static == {p.op for p in PATTERNS.values()}
    assert {op for op, rule in rows if rule.kind == "bridge"} == {p.op for p in BRIDGES.values()}


@pytest.mark.parametrize("opset", [13, 19, 21])
@pytest.mark.parametrize("name", ["residual add relu", "max pool", "matmul head", "squeeze and excite"])
def test_other_opsets_fuse_alike(name, opset, tmp_path):
    check(replace(PATTERNS[name], opset=opset), tmp_path)


def test_per_tensor_weights_fuse_alike(tmp_path):
    done = check(PATTERNS["residual add relu"], tmp_path, scheme=Scheme(granularity="per-tensor"))
    assert {len(w.params.scale) for w in done.result.plan.weights} == {1}


def test_a_lone_conv_is_integer_and_keeps_the_name_of_its_output(tmp_path):
    net = Net()
    done = run(net, (net.conv("x", 3, 8, name="only"),), tmp_path)
    assert done.kernels["QLinearConv"] == 1 and "Conv" not in done.kernels
    assert done.edges == (1, 1)
    assert list(done.optimized) == ["only_out"]


def test_a_tensor_inside_that_is_also_an_output(tmp_path):
    net = Net()
    inner = net("Relu", net.conv("x", 3, 8))
    done = run(net, (net.conv(inner, 8, 4), inner), tmp_path)
    assert done.kernels["QLinearConv"] == 2
    assert done.edges == (1, 2)
    assert list(done.optimized) == list(done.exact)
    assert steps_apart(done) <= 1.0 and sqnr(done) > 30.0


def test_a_final_softmax_stays_float(tmp_path):
    net = Net()
    flat = net("Flatten", net("GlobalAveragePool", net.conv("x", 3, 8)))
    done = run(net, (net("Softmax", net.gemm(flat, 8, 5)),), tmp_path)
    assert done.kernels["Softmax"] == 1 and "QLinearSoftmax" not in done.kernels
    assert done.edges == (1, 0)


def test_sums_behind_a_padded_shortcut_are_integer(tmp_path):
    """The shortcut of CIFAR's ResNets without weights: every second pixel, and channels of zeros."""
    net = Net()
    h = net("Relu", net.conv("x", 3, 8))
    ends, steps = (net.const([n, n], dtype=np.int64) for n in (99, 2))
    start, axes, pads = (net.const(a, dtype=np.int64) for a in ([0, 0], [2, 3], [0, 4, 0, 0, 0, 4, 0, 0]))
    shortcut = net("Pad", net("Slice", h, start, ends, axes, steps), pads)
    half = net("Conv", h, net.weight(16, 8, 3, 3, inputs=72), net.bias(16), strides=[2, 2], pads=[1] * 4)
    h = net("Relu", net("Add", net.conv(net("Relu", half), 16, 16), shortcut))
    h = net("Relu", net("Add", net.conv(h, 16, 16), h))
    done = run(net, (net.conv(h, 16, 4),), tmp_path)
    assert {k: n for k, n in done.kernels.items() if k not in ("Transpose", "Slice")} == {
        "QLinearConv": 5, "QLinearAdd": 2, "Pad": 1, "QuantizeLinear": 2, "DequantizeLinear": 2,
    }  # fmt: skip
    assert steps_apart(done) < 1.5


def test_nothing_is_quantised_behind_the_last_integer_layer(tmp_path):
    net = Net()
    up = net(
        "ConvTranspose", net.conv("x", 3, 8), net.weight(8, 3, 2, 2, inputs=8), strides=[2, 2], output_shape=[16, 16]
    )
    done = run(net, (net("Tanh", up),), tmp_path)
    assert {k: done.kernels[k] for k in ("QLinearConv", "ConvTranspose", "Tanh")} == dict.fromkeys(
        ("QLinearConv", "ConvTranspose", "Tanh"), 1
    )
    assert done.edges == (1, 1)


def test_a_branch_without_layers_is_left_alone(tmp_path):
    net = Net()
    branch = net("Sigmoid", net("Add", net("MaxPool", "x", kernel_shape=[2, 2]), net.const(0.5)))
    done = run(net, (net.conv("x", 3, 8), branch), tmp_path)
    assert {k: done.kernels.get(k) for k in ("MaxPool", "Add", "Sigmoid")} == {"MaxPool": 1, "Add": 1, "Sigmoid": 1}
    assert done.edges == (1, 1)
    assert np.array_equal(done.optimized[branch], done.exact[branch])


def test_a_model_without_constant_weights_is_refused(tmp_path):
    net = Net()
    source = net.save(tmp_path / "f.onnx", net("MatMul", "x", net("Transpose", "x", perm=[0, 1, 3, 2])))
    with pytest.raises(NothingToQuantizeError, match="its weight is computed"):
        qtool.quantize(source, tmp_path / "q.onnx", data=net.samples(), target="x86")
    assert not (tmp_path / "q.onnx").exists()


@pytest.mark.parametrize("attributes", [{"alpha": 0.5}, {"beta": 0.5}])
def test_a_gemm_with_factors_is_integer(attributes, tmp_path):
    net = Net()
    flat = net("Flatten", net("MaxPool", net("Relu", net.conv("x", 3, 8)), kernel_shape=[8, 8]))
    done = run(net, (net.gemm(net("Relu", net.gemm(flat, 8, 16, **attributes)), 16, 5),), tmp_path)
    assert ("Gemm" in done.kernels, done.kernels["QGemm"]) == (False, 2)
    assert steps_apart(done) < 0.01 and sqnr(done) > 28.0


def test_tied_weights_are_stored_once(tmp_path):
    net = Net()
    shared = net.weight(8, 8, 3, 3, inputs=72, name="shared")
    h = net("Relu", net("Conv", net.conv("x", 3, 8), shared, net.bias(8), pads=[1] * 4))
    h = net("Relu", net("Conv", h, shared, net.bias(8), pads=[1] * 4))
    done = run(net, (net.conv(h, 8, 4),), tmp_path)
    stored = [i for i in done.model.graph.initializer if tuple(i.dims) == (8, 8, 3, 3)]
    assert [onnx.TensorProto.DataType.Name(i.data_type) for i in stored] == ["INT8"]
    assert done.kernels["QLinearConv"] == 4
    assert steps_apart(done) <= 1.0 and sqnr(done) > 28.0


@pytest.mark.parametrize("granularity", ["per-channel", "per-tensor"])
def test_tiny_weights_beside_a_big_bias_do_not_overflow(granularity, tmp_path):
    net = Net()
    weight = net.rng.normal(size=(8, 3, 3, 3)) * 0.2
    bias = net.rng.normal(size=8)
    if granularity == "per-channel":
        weight[::2] *= 1e-9
    else:
        weight *= 1e-9
    bias[::2] = [50.0, -40.0, 5.0, -7.0]
    h = net("Conv", "x", net.const(weight), net.const(bias, "bias"), pads=[1] * 4)
    done = run(net, (net.conv(h, 8, 4),), tmp_path, scheme=Scheme(granularity=granularity))
    arrays = done.constants()
    stored, scale = arrays["bias_quantized"].astype(np.float64), arrays["bias_scale"].astype(np.float64)
    assert np.abs(stored).max() < 2**31 - 1
    assert (np.abs(stored * scale - bias) <= scale * 0.5 + np.abs(bias) * 1e-6).all()
    assert done.kernels["QLinearConv"] == 2
    assert steps_apart(done) <= 1.0 and sqnr(done) > 30.0


@pytest.mark.parametrize(("target", "steps"), [("x86", 127), ("x86-avx2", 64), ("portable", 64)])
def test_channels_whose_pairs_could_saturate_get_seven_bits(target, steps, tmp_path):
    net = Net(2, 8, 8)
    weight = np.zeros((2, 2, 3, 3))
    weight[0] = 0.5  # 255 * (127 + 127) does not fit in 16 bits
    weight[1, :, 1, 1] = 0.5, -0.5  # of opposite sign: fits
    made = net("Conv", "x", net.const(weight, "w"), pads=[1] * 4)
    done = run(net, (net.conv(made, 2, 4),), tmp_path, target)
    arrays = done.constants()
    stored = arrays["w_quantized"].astype(int)
    assert np.abs(stored).max(axis=(1, 2, 3)).tolist() == [steps, 127]
    neighbours = np.abs(stored[..., :-1] + stored[..., 1:])
    assert target == "x86" or (neighbours * 255 <= 32767).all()
    assert sqnr(done) > 30.0


def test_a_model_with_a_fixed_batch(tmp_path):
    pattern = PATTERNS["residual add relu"]
    net = Net(batch=1)
    source = net.save(tmp_path / "float.onnx", *pattern.build(net))
    result = qtool.quantize(source, tmp_path / "int8.onnx", data=net.samples(), target="x86")
    assert result.verification.kernels["QLinearAdd"] == 1


def test_free_sizes_of_images(tmp_path):
    net = Net("C", "H", "W")  # type: ignore[arg-type]
    net.shape = (3, "height", "width")  # type: ignore[assignment]
    outputs = between(lambda n, h: n("Add", n.conv(h, 8, 8), h))(net)
    source = net.save(tmp_path / "float.onnx", *outputs)
    fed = {"x": np.random.default_rng(0).normal(size=(2, 3, 10, 12)).astype(np.float32)}
    result = qtool.quantize(source, tmp_path / "int8.onnx", data=fed, target="x86")
    assert result.verification.integer_layers == 3 and result.verification.kernels["QLinearAdd"] == 1


def test_a_concatenation_takes_the_union_of_its_inputs_ranges(tmp_path):
    """Nothing is clipped a second time, and onnxruntime copies the widest input instead of looking each value up."""
    net = Net()
    wide = net("Relu", net.conv("x", 3, 4))
    narrow = net("Relu", net("Mul", net.conv("x", 3, 4), net.const([0.1])))
    joined = net("Concat", narrow, wide, axis=1)
    done = run(net, (net.conv(joined, 8, 4),), tmp_path)
    grids = {a.tensor: a.params for a in done.result.plan.activations}
    assert grids[joined] == grids[wide] != grids[narrow]
