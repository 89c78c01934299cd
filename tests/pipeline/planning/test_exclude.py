"""Layers that stay float: onnxruntime makes them 8-bit again unless they read from a DQ that it does not recognise."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import qtool
from qtool.core.errors import ModelError, UsageError
from qtool.core.numerics.sqnr import signal_to_noise
from qtool.core.records.options import Scheme
from qtool.runtime.census import take_census
from qtool.runtime.session import Session
from qtool.targets.tables import TARGETS
from tests.support.patterns import PATTERNS, Net, between
from tests.support.runs import run, sqnr, steps_apart


def chain(net: Net) -> tuple[str, ...]:
    """Three convolutions. The channels of the middle one differ by 1000, and the last one makes up for it."""
    skew = np.logspace(-3, 0, 8)
    h = net("Relu", net.conv("x", 3, 8, name="before"))
    middle = net.rng.normal(size=(8, 8, 3, 3)) / 8 * skew.reshape(8, 1, 1, 1)
    h = net("Conv", h, net.const(middle), net.const(skew * 0.1), pads=[1] * 4, name="middle")
    after = net.rng.normal(size=(4, 8, 3, 3)) / skew.reshape(1, 8, 1, 1)
    return (net("Conv", h, net.const(after / 8), net.bias(4), pads=[1] * 4, name="after"),)


def headed(net: Net) -> tuple[str, ...]:
    """Conv, Gemm, Conv."""
    skew = np.logspace(-3, 0, 16)
    flat = net("Flatten", net("Relu", net.conv("x", 3, 4, name="before")))
    weight = net.const(net.rng.normal(size=(256, 16)) / 16 * skew)
    h = net("Gemm", flat, weight, net.const(skew), name="middle")
    h = net("Reshape", h, net.const([-1, 1, 4, 4], dtype=np.int64))
    return (net.conv(h, 1, 4, name="after"),)


def matmul_headed(net: Net) -> tuple[str, ...]:
    """MatMul and Add between two Gemms."""
    skew = np.logspace(-3, 0, 16)
    h = net("Relu", net.gemm(net("Flatten", "x"), 192, 32))
    h = net("MatMul", h, net.const(net.rng.normal(size=(32, 16)) / 6 * skew), name="middle")
    h = net("Relu", net("Add", h, net.const(skew)))
    return (net("Gemm", h, net.const(net.rng.normal(size=(16, 5)) / skew[:, None]), net.bias(5), name="after"),)


def without_twins(model: onnx.ModelProto) -> bytes:
    """The plain way: every DQ of an activation has the scalars of its Q."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    quantize = {n.output[0]: n for n in plain.graph.node if n.op_type == "QuantizeLinear"}
    changed = 0
    for node in plain.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in quantize:
            parameters = quantize[node.input[0]].input[1:]
            if list(node.input[1:]) != list(parameters):
                node.input[1:] = parameters
                del node.attribute[:]
                changed += 1
    assert changed
    return plain.SerializeToString()


def outputs_of(model: bytes, net: Net, *, optimize: bool = True) -> np.ndarray:
    return next(iter(Session(model, optimize=optimize).run(net.samples()).values()))


EXCLUSIONS = {
    "conv by name": (chain, Scheme(exclude=("middle",)), {"Conv": 1, "QLinearConv": 2}),
    "conv by glob": (chain, Scheme(exclude=("mid*",)), {"Conv": 1, "QLinearConv": 2}),
    "conv by its output": (chain, Scheme(exclude=("middle_out",)), {"Conv": 1, "QLinearConv": 2}),
    "gemm by name": (headed, Scheme(exclude=("middle",)), {"Gemm": 1, "QLinearConv": 2}),
    "gemm by operator": (headed, Scheme(exclude_ops=("Gemm",)), {"Gemm": 1, "QLinearConv": 2}),
    "gemm by the others": (headed, Scheme(include_ops=("Conv",)), {"Gemm": 1, "QLinearConv": 2}),
    "matmul and add": (matmul_headed, Scheme(exclude=("middle",)), {"Gemm": 1, "QGemm": 2}),
}  # fmt: skip


@pytest.mark.parametrize("name", EXCLUSIONS)
def test_an_excluded_layer_is_float_between_integer_layers(name, tmp_path):
    build, scheme, kernels = EXCLUSIONS[name]
    net = Net()
    done = run(net, build(net), tmp_path, scheme=scheme)
    weighted = {k: n for k, n in done.kernels.items() if k in ("Conv", "Gemm", "MatMul", "QLinearConv", "QGemm")}
    assert weighted == kernels
    assert set(done.result.verification.float_layers) == {"middle"}
    # float rounding alone may move a value across the border of a step
    (output,) = done.plain
    assert signal_to_noise(done.plain[output], done.optimized[output]) > 55.0


@pytest.mark.parametrize("build", [chain, matmul_headed])
def test_without_the_twin_onnxruntime_requantises_the_excluded_layer(build, tmp_path):
    """If this fails, onnxruntime has changed: the twin may no longer be needed."""
    net = Net()
    done = run(net, build(net), tmp_path, scheme=Scheme(exclude=("middle",)))
    plain = without_twins(done.model)
    _, census = take_census(plain)
    assert "Conv" not in census.kernels and "Gemm" not in census.kernels
    written = outputs_of(plain, net, optimize=False)
    assert np.array_equal(written, done.plain[next(iter(done.plain))])  # the same model, as it is written
    distance = np.abs(outputs_of(plain, net) - written).max() / (np.ptp(written) / 255)
    assert steps_apart(done) <= 1.01
    assert distance > 5.0


def test_neighbouring_excluded_layers_have_nothing_between_them(tmp_path):
    net = Net()
    done = run(net, chain(net), tmp_path, scheme=Scheme(exclude=("middle", "after")))
    assert (done.kernels["Conv"], done.kernels["QLinearConv"]) == (2, 1)
    assert done.edges == (1, 1)


def test_an_excluded_layer_reads_the_float_tensor_where_there_is_one(tmp_path):
    """Two layers read the input: the float one must not see it rounded."""
    net = Net()
    side = net.conv("x", 3, 8, name="side")
    done = run(net, (net.conv("x", 3, 8), side), tmp_path, scheme=Scheme(exclude=("side",)))
    assert (done.kernels["Conv"], done.kernels["QLinearConv"]) == (1, 1)
    assert np.allclose(done.optimized[side], done.exact[side], atol=1e-5)


def test_an_excluded_add_of_a_residual(tmp_path):
    net = Net()
    build = between(lambda n, h: n("Relu", n("Add", n.conv(h, 8, 8), h, name="sum")))
    done = run(net, build(net), tmp_path, scheme=Scheme(exclude=("sum",)))
    assert (done.kernels["Add"], done.kernels["QLinearConv"]) == (1, 3)
    assert "QLinearAdd" not in done.kernels
    assert steps_apart(done) <= 1.01 and sqnr(done) > 28.0


def test_an_excluded_pool(tmp_path):
    net = Net()
    build = between(lambda n, h: n("MaxPool", h, kernel_shape=[2, 2], strides=[2, 2], name="pool"))
    done = run(net, build(net), tmp_path, scheme=Scheme(exclude=("pool",)))
    # NhwcMaxPool is the one for 8 bits
    assert (done.kernels["MaxPool"], done.kernels.get("NhwcMaxPool")) == (1, None)
    assert done.kernels["QLinearConv"] == 2
    assert steps_apart(done) <= 1.01 and sqnr(done) > 28.0


def test_a_pool_in_front_of_an_excluded_layer(tmp_path):
    """onnxruntime propagates a DQ through the pool, to where it would re-quantise the layer behind."""
    net = Net()
    pooled = net("MaxPool", net("Relu", net.conv("x", 3, 8)), kernel_shape=[2, 2], strides=[2, 2])
    y = net.conv(net("Relu", net.conv(pooled, 8, 8, name="middle")), 8, 4, name="after")
    done = run(net, (y,), tmp_path, scheme=Scheme(exclude=("middle",)))
    assert done.result.verification.float_layers == {"middle": "excluded by 'middle'"}
    assert done.kernels["QLinearConv"] == 2
    assert steps_apart(done) <= 1


def test_on_arm64_too(tmp_path):
    net = Net()
    done = run(net, chain(net), tmp_path, "arm64", Scheme(exclude=("middle",)))
    assert (done.kernels["Conv"], done.kernels["QLinearConv"]) == (1, 2)
    assert steps_apart(done) <= 1.01


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        (Scheme(exclude=("nothing*",)), r"no node is called 'nothing\*'"),
        (Scheme(exclude_ops=("Convv",)), "holds no Convv"),
        (Scheme(include_ops=("Gelu",)), "holds no Gelu"),
        (Scheme(include_ops=("Relu",)), "target x86 has no integer Relu"),
    ],
)
def test_an_exclusion_that_means_nothing_is_refused(scheme, message, tmp_path):
    net = Net()
    source = net.save(tmp_path / "f.onnx", *chain(net))
    with pytest.raises(UsageError, match=message):
        qtool.quantize(source, tmp_path / "q.onnx", data=net.samples(), target="x86", scheme=scheme)


def test_excluding_everything_is_refused(tmp_path):
    net = Net()
    source = net.save(tmp_path / "f.onnx", *chain(net))
    with pytest.raises(ModelError, match="nothing to quantise"):
        qtool.quantize(
            source, tmp_path / "q.onnx", data=net.samples(), target="x86", scheme=Scheme(exclude_ops=("Conv",))
        )


# TensorRT reads Q/DQ itself: a test of the form of the graph, which no provider on this machine runs in integers


@pytest.fixture(scope="module")
def tensorrt(tmp_path_factory) -> onnx.ModelProto:
    net = Net()
    h = net("Relu", net.conv("x", 3, 8, name="first"))
    h = net("Relu", net("Add", net.conv(h, 8, 8, name="second"), h, name="sum"))
    weight = net.weight(8, 6, 2, 2, inputs=8, name="up_weight")
    h = net("ConvTranspose", h, weight, net.bias(6), strides=[2, 2], name="up")
    flat = net("Flatten", net("GlobalAveragePool", h))
    net("MatMul", net.gemm(flat, 6, 7, trans=1), net.weight(7, 5, inputs=7), name="head")
    folder: Path = tmp_path_factory.mktemp("tensorrt")
    return run(net, ("head_out",), folder, "tensorrt").model


def test_tensorrt_zero_points_are_int8_and_zero(tensorrt):
    constants = {i.name: numpy_helper.to_array(i) for i in tensorrt.graph.initializer}
    seen = 0
    for node in tensorrt.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero_point = constants[node.input[2]]
            assert zero_point.dtype == np.int8 and not zero_point.any()
            seen += 1
    assert seen == 2 * 5 + 5  # five activations (one of them read twice), five weights


def test_tensorrt_q_stands_on_inputs_of_layers_alone(tensorrt):
    readers: dict[str, list[tuple[str, int]]] = {}
    for node in tensorrt.graph.node:
        for i, name in enumerate(node.input):
            readers.setdefault(name, []).append((node.name, i))
    makers = {o: n for n in tensorrt.graph.node for o in n.output}
    read = set()
    for node in tensorrt.graph.node:
        source = makers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if source is not None and source.op_type == "QuantizeLinear":
            read |= set(readers[node.output[0]])
    gemm = next(n.name for n in tensorrt.graph.node if n.op_type == "Gemm")
    assert read == {("first", 0), ("second", 0), ("sum", 1), ("up", 0), (gemm, 0), ("head", 0)}


def test_tensorrt_biases_are_float_and_weights_per_channel(tensorrt):
    constants = {i.name: numpy_helper.to_array(i) for i in tensorrt.graph.initializer}
    makers = {o: n for n in tensorrt.graph.node for o in n.output}
    axes = {"first": (0, 8), "second": (0, 8), "up": (1, 6), "head": (1, 5)}
    for node in tensorrt.graph.node:
        if len(node.input) > 2 and node.op_type in ("Conv", "ConvTranspose", "Gemm"):
            assert constants[node.input[2]].dtype == np.float32
        if node.name in axes:
            dequantize = makers[node.input[1]]
            (axis,) = [a.i for a in dequantize.attribute if a.name == "axis"]
            assert (axis, constants[dequantize.input[1]].size) == axes[node.name]
            assert constants[dequantize.input[0]].dtype == np.int8


@pytest.mark.parametrize(
    "name",
    ["max pool", "transpose", "transpose of the input", "flatten", "split concat", "resize nearest", "slice", "tile"],
)
@pytest.mark.parametrize("target", ["x86", "arm64"])
def test_a_pass_through_is_left_in_float(name, target, tmp_path):
    """Its output takes the range of what it reads, of which there are statistics; the rest stays integer."""
    net, outputs = PATTERNS[name].net()
    source = net.save(tmp_path / "f.onnx", *outputs)
    statistics = qtool.calibrate(source, net.samples()).statistics
    options = {"calibration": statistics, "target": target, "calibrator": "max", "bias_correction": "off"}
    whole = qtool.quantize(source, tmp_path / "q.onnx", **options)
    passing = {op for op, rule in TARGETS[target].rules.items() if rule.kind == "passthrough"}
    ops = {n.op_type for n in onnx.load(source).graph.node} & passing
    assert ops
    result = qtool.quantize(source, tmp_path / "p.onnx", exclude_ops=sorted(ops), **options)
    assert result.verification.integer_layers == whole.verification.integer_layers
    assert result.verification.output_sqnr_db > whole.verification.output_sqnr_db - 3.0
