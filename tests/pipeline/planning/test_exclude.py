"""Layers that stay float: onnxruntime makes them 8-bit again unless they read from a DQ that it does not recognise."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import qtool
from qtool.core.errors import ModelError, NothingToQuantizeError, UsageError, VerificationError
from qtool.core.numerics.sqnr import signal_to_noise
from qtool.core.records.options import Scheme
from qtool.graph import model_io
from qtool.pipeline.planning.place import place
from qtool.pipeline.prepare import prepare
from qtool.runtime.census import take_census
from qtool.runtime.session import Session
from qtool.targets.tables import TARGETS
from tests.support.patterns import BRIDGES, FLOAT, PATTERNS, Net, between
from tests.support.runs import integer_nodes, run, sqnr, steps_apart
from tests.support.table_graphs import Graph, exclusion, image_graph, token_graph


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
    """The plain way: every DQ of an activation has the scalars of its Q, and no Max stands behind one."""
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
    for barrier in [n for n in plain.graph.node if n.op_type == "Max"]:
        for node in plain.graph.node:
            node.input[:] = [barrier.input[0] if name == barrier.output[0] else name for name in node.input]
        plain.graph.node.remove(barrier)
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
    assert integer_nodes(done.nodes, {"pool"}) == []
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
    h = net("ConvTranspose", h, weight, net.bias(6), strides=[2, 2], output_shape=[16, 16], name="up")
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


def _batch_norm(net: Net) -> str:
    h = net.conv("x", 3, 8, name="layer")
    return net("BatchNormalization", h, net.bias(8), net.bias(8), net.bias(8), net.const(np.ones(8)), name="part")


def _padded(net: Net) -> str:
    h = net("Pad", "x", net.const([0, 0, 1, 1, 0, 0, 1, 1], dtype=np.int64), name="part")
    return net("Conv", h, net.weight(8, 3, 3, 3, inputs=27), name="layer")


def _matmul_add(net: Net) -> str:
    h = net("MatMul", net("Flatten", "x"), net.weight(192, 8, inputs=192), name="layer")
    h = net("Add", h, net.bias(8), name="part")
    return net("Reshape", h, net.const([0, 8, 1, 1], dtype=np.int64))


def _computed_weight(net: Net) -> str:
    weight = net("Transpose", net.weight(3, 8, 3, 3, inputs=27), perm=[1, 0, 2, 3], name="part")
    return net("Conv", "x", weight, pads=[1] * 4, name="layer")


def _mean(net: Net) -> str:
    return net("ReduceMean", net.conv("x", 3, 8), axes=[2, 3], name="part")


def _equal(net: Net) -> str:
    weight, bias = net.weight(8, 3, 1, 1, inputs=3), net.bias(8)
    return net("Add", net("Conv", "x", weight, bias, name="layer"), net("Conv", "x", weight, bias, name="part"))


def _hard_swish(net: Net) -> str:
    h = net.conv("x", 3, 8)
    clipped = net("Clip", net("Add", h, net.const(3.0)), net.const(0.0), net.const(6.0), name="part")
    return net("Div", net("Mul", h, clipped), net.const(6.0), name="last")


FOLDED = {
    "batch norm": (_batch_norm, {"layer"}),
    "pad": (_padded, {"layer"}),
    "bias of a product": (_matmul_add, {"layer"}),
    "what computes a weight": (_computed_weight, {"layer"}),
    "an equal layer": (_equal, {"layer"}),
    "spatial mean": (_mean, {"part_pool"}),
    "hard swish": (_hard_swish, {"last_hardsigmoid_shifted", "last_mul"}),
}


@pytest.mark.parametrize("pattern", ["part", "part_out", "par[t]"])
@pytest.mark.parametrize("name", FOLDED)
def test_a_node_that_was_folded_is_excluded_with_what_it_was_folded_into(name, pattern, tmp_path):
    build, wholes = FOLDED[name]
    net = Net()
    source = net.save(tmp_path / "f.onnx", net.conv(build(net), 8, 4, kernel=(1, 1), name="other"))
    ready = prepare(model_io.load(source))
    placement = place(ready.model, TARGETS["x86"], Scheme(exclude=(pattern,)), folded=ready.folded)
    reason = f"excluded by {pattern!r}, which is folded into it"
    assert {node for node, why in placement.skipped.items() if why == reason} == wholes
    assert "other" in placement.integer and not wholes & placement.integer.keys()


def test_a_call_of_a_function_is_excluded_with_what_it_was_inlined_as(tmp_path):
    """Through a function that calls another."""
    net = Net()
    net.conv("x", 3, 8)
    net.conv("Conv_0_out", 8, 4, name="other")
    model = net.model("other_out")
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("local", 1)]
    first = model.graph.node[0]
    signature = list(first.input), list(first.output)
    inner = onnx.helper.make_function("local", "Inner", *signature, [first], opsets[:1])
    call = onnx.helper.make_node("Inner", *signature, name="inside", domain="local")
    outer = onnx.helper.make_function("local", "Outer", *signature, [call], opsets)
    model.graph.node[0].CopyFrom(onnx.helper.make_node("Outer", *signature, name="call", domain="local"))
    model.functions.extend([inner, outer])
    model.opset_import.append(opsets[1])
    onnx.save(model, tmp_path / "f.onnx")
    result = qtool.quantize(tmp_path / "f.onnx", tmp_path / "q.onnx", data=net.samples(), target="x86", exclude="call")
    assert result.verification.float_layers == {"Conv_0": "excluded by 'call', which is folded into it"}


@pytest.mark.parametrize("pattern", ["up", "up_out"])
@pytest.mark.parametrize("opset", [7, 9, 10])
def test_an_operator_of_an_old_opset_is_excluded_by_its_name(opset, pattern, tmp_path):
    """What took its place when the opset was raised has names of its own."""
    net = Net(opset=opset)
    h = net("Relu", net.conv("x", 3, 8, name="first"))
    scales = [1.0, 1.0, 2.0, 2.0]
    given = {"scales": scales} if opset < 9 else {}
    up = net("Upsample" if opset < 10 else "Resize", h, *([] if given else [net.const(scales)]), name="up", **given)
    source = net.save(tmp_path / "f.onnx", net.conv(up, 8, 4, name="other"))
    ready = prepare(model_io.load(source))
    placement = place(ready.model, TARGETS["x86"], Scheme(exclude=(pattern,)), folded=ready.folded)
    resized = {node.name for node in ready.model.graph if node.op_type == "Resize"}
    assert resized and {n for n, why in placement.skipped.items() if f"excluded by '{pattern}'" in why} == resized
    assert {"first", "other"} <= placement.integer.keys()


def test_what_is_gone_altogether_may_be_excluded(tmp_path):
    net = Net()
    source = net.save(tmp_path / "f.onnx", net.conv(net("Dropout", net.conv("x", 3, 8), name="drop"), 8, 4))
    options = {"data": net.samples(), "target": "x86", "calibrator": "max"}
    result = qtool.quantize(source, tmp_path / "q.onnx", exclude="drop", **options)
    assert result.verification.integer_layers == 2 and not result.verification.float_layers


@pytest.mark.parametrize(("named", "part"), [(True, "part"), (False, "part_out")])
def test_an_operator_that_was_folded_everywhere_is_excluded_by_name(named, part, tmp_path):
    """Or by what it computes, where it has no name."""
    net = Net()
    source = net.save(tmp_path / "f.onnx", net.conv(_batch_norm(net), 8, 4))
    if not named:
        model = onnx.load(source)
        next(node for node in model.graph.node if node.name == "part").name = ""
        onnx.save(model, source)
    options = {"data": net.samples(), "target": "x86", "calibrator": "max"}
    with pytest.raises(UsageError, match=rf"every BatchNormalization is folded .* as '{part}' into 'layer'") as told:
        qtool.quantize(source, tmp_path / "q.onnx", exclude_ops="BatchNormalization", **options)
    assert f"exclude='{part}'" in str(told.value)
    result = qtool.quantize(source, tmp_path / "q.onnx", exclude=part, **options)
    assert result.verification.float_layers == {"layer": f"excluded by '{part}', which is folded into it"}


def test_an_operator_that_is_gone_is_told_where_its_node_lives_on_under_its_name(tmp_path):
    """The file's nodes are called as what they compute, and so is the Clip that is left of a hard sigmoid."""
    net = Net()
    net("HardSigmoid", net.conv("x", 3, 8), name="t1")
    model = net.model("t1_out")
    model.graph.node[-1].output[:] = ["t1"]
    model.graph.output[0].name = "t1"
    onnx.save(model, tmp_path / "f.onnx")
    with pytest.raises(
        UsageError, match=r"every HardSigmoid is folded into another node, as 't1' into 't1_clip_1'; leave"
    ):
        qtool.quantize(
            tmp_path / "f.onnx", tmp_path / "q.onnx", data=net.samples(), target="x86", exclude_ops="HardSigmoid"
        )


def test_operators_that_were_folded_may_be_among_the_included(tmp_path):
    net = Net()
    head = net("Add", net("MatMul", net("Flatten", net.conv("x", 3, 8)), net.weight(512, 5, inputs=512)), net.bias(5))
    ops = ("Conv", "MatMul", "Add", "Gemm")
    done = run(net, (head,), tmp_path, scheme=Scheme(include_ops=ops))
    assert done.result.verification.integer_layers == 2


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("scheme", [Scheme(exclude_ops=("MatMul",)), Scheme(include_ops=("Conv",))])
def test_a_product_that_became_a_gemm_is_still_a_product(scheme, opset, tmp_path):
    """The file's nodes are called as what they compute, as exporters call them that give no names."""
    net = Net(opset=opset)
    h = net("Flatten", net("Relu", net.conv("x", 3, 4, name="conv")))
    product = net("MatMul", h, net.weight(256, 5, inputs=256), name="t2")
    model = net.model(net("Add", product, net.bias(5), name="t3"))
    names = {product: "t2", model.graph.output[0].name: "t3"}
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    model.graph.output[0].name = "t3"
    onnx.save(model, tmp_path / "f.onnx")
    for one in (scheme, replace(scheme, include_ops=(*scheme.include_ops, "MatMul") if scheme.include_ops else ())):
        done = qtool.quantize(tmp_path / "f.onnx", tmp_path / "q.onnx", data=net.samples(), target="x86", scheme=one)
        assert ("t2" in done.plan.integer) == ("MatMul" in one.include_ops)


@pytest.mark.parametrize("form", ["auto", "static", "dynamic", "weight-only"])
@pytest.mark.parametrize("selection", [{"include_ops": "Gather"}, {"exclude": "fc"}])
def test_a_table_by_itself_is_stored_in_8_bits_where_that_is_asked_for(form, selection, tmp_path):
    net = Net(9)
    rows = net("Gather", net.weight(4096, 16, inputs=1), net("Cast", "x", to=7), name="rows")
    source = net.save(tmp_path / "f.onnx", net("MatMul", rows, net.weight(16, 5, inputs=16), name="fc"))
    data = {"x": np.arange(36, dtype=np.float32).reshape(4, 9)}
    result = qtool.quantize(source, tmp_path / "q.onnx", data=data, form=form, target="x86", **selection)
    assert [row.readers for row in result.plan.stored] == [(("rows", 0),)] and not result.plan.integer
    assert (tmp_path / "q.onnx").stat().st_size < source.stat().st_size / 3
    assert result.verification.output_sqnr_db > 40.0


MOVED = {"Transpose"}
"""What onnxruntime moves through almost anything, into the 8-bit part of the graph too; it computes nothing."""
ROWS = {
    name: pattern
    for name, pattern in (PATTERNS | BRIDGES | FLOAT).items()
    if (rule := TARGETS["x86"].rules.get(pattern.op)) is not None and rule.kind != "weighted"
}


@pytest.mark.parametrize("name", ROWS)
def test_every_operator_of_the_tables_can_be_left_in_float(name, tmp_path):
    """It computes in float and reads float, the layers around it stay integer, and nothing but rounding is lost."""
    net, outputs = ROWS[name].net()
    op = ROWS[name].op.rpartition(".")[2]
    done = run(net, outputs, tmp_path, scheme=Scheme(exclude_ops=(op,)))
    assert op in MOVED or integer_nodes(done.nodes, {n.name for n in net.nodes if n.op_type == op}) == []
    verified = done.result.verification
    weighted = [n.name for n in net.nodes if n.op_type in ("Conv", "Gemm", "MatMul")]
    assert verified.integer_layers == min(len(weighted), verified.layers)
    assert steps_apart(done) <= 2.01 and sqnr(done) > 22.0


@pytest.mark.parametrize(
    ("name", "target"), [("max pool", "x86"), ("silu", "x86"), ("average pool", "arm64"), ("concat", "arm64")]
)
def test_a_saved_plan_leaves_it_in_float_too(name, target, tmp_path):
    net, outputs = PATTERNS[name].net()
    op = PATTERNS[name].op
    source = net.save(tmp_path / "f.onnx", *outputs)
    plan, first, second = (tmp_path / name for name in ("plan.json", "a.onnx", "b.onnx"))
    options = {"exclude_ops": op, "target": target, "calibrator": "max", "bias_correction": "off"}
    qtool.quantize(source, first, data=net.samples(), save_plan=plan, **options)
    qtool.quantize(source, second, plan=plan)
    assert first.read_bytes() == second.read_bytes()
    _, census = take_census(second.read_bytes(), TARGETS[target].session)
    assert integer_nodes(census.nodes, {n.name for n in net.nodes if n.op_type == op}) == []


def test_a_pool_that_no_kernel_can_dilate_is_hidden_without_being_excluded(tmp_path):
    """onnxruntime's selector takes it all the same, and its kernel then refuses the attribute."""
    net = Net(opset=19)
    build = between(lambda n, h: n("AveragePool", h, kernel_shape=[2, 2], dilations=[2, 2], name="pool"))
    done = run(net, build(net), tmp_path)
    assert integer_nodes(done.nodes, {"pool"}) == []
    assert done.kernels["QLinearConv"] == 2 and steps_apart(done) <= 1.01


@pytest.mark.parametrize("excluded", [True, False])
def test_an_operator_without_a_row_is_left_in_float_where_that_is_asked_for(excluded, tmp_path):
    def where(n: Net, h: str) -> str:
        return n("Where", n("Greater", h, n.const(0.0)), h, n.conv(h, 8, 8), name="where")

    net = Net()
    done = run(net, between(where)(net), tmp_path, scheme=Scheme(exclude=("where",) if excluded else ()))
    # if there is no QLinearWhere without it, onnxruntime has changed
    assert bool(integer_nodes(done.nodes, {"where"})) != excluded
    assert steps_apart(done) <= 1.01


def test_a_layer_whose_input_has_no_known_dimension_is_left_in_float(tmp_path):
    net = Net("a", "b", "c")  # type: ignore[arg-type]
    h = net.conv(net("Transpose", net.conv("x", 3, 8), perm=[0, 1, 3, 2]), 8, 8)
    flat = net("Reshape", h, net("Concat", net.const([1], dtype=np.int64), net("Shape", h), axis=0))
    twice = net("Reshape", net("Tile", flat, net.const([1] * 5, dtype=np.int64)), net("Shape", h))
    y = net.conv(net("Relu", net.conv(twice, 8, 8, name="middle")), 8, 4)
    net.shape = (3, 8, 8)
    done = run(net, (y,), tmp_path, scheme=Scheme(exclude=("middle",)))
    assert done.result.verification.float_layers == {"middle": "excluded by 'middle'"}
    assert done.kernels["QLinearConv"] == 3 and steps_apart(done) <= 1.01


def check_random(make: Callable[[int], Graph], seed: int, form: str, folder: Path) -> None:
    """The statistics of one calibration serve the exclusion, and what is written keeps to it."""
    graph = make(seed)
    scheme, names = exclusion(graph, seed + 1)
    source, written = graph.net.save(folder / "f.onnx", *graph.outputs), folder / "q.onnx"
    statistics = qtool.calibrate(source, graph.data).statistics
    options = {"calibration": statistics, "target": "x86", "form": form, "smoothing": "off"}
    options |= {} if form == "weight-only" else {"calibrator": "max"}
    try:
        qtool.quantize(source, written, scheme=scheme, **options)
    except NothingToQuantizeError:
        return
    except VerificationError:
        # then the exclusion has nothing to do with it
        with pytest.raises(VerificationError):
            qtool.quantize(source, written, **options)
        return
    session, census = take_census(written.read_bytes())
    moved = {n.name for n in graph.net.nodes if n.op_type in MOVED}
    assert integer_nodes(census.nodes, names - moved) == []
    plain, optimized = Session(written, optimize=False).run(graph.data), session.run(graph.data)
    for name, array in plain.items():
        # MatMulNBits rounds what it reads to 8 bits
        assert signal_to_noise(array, optimized[name]) > (20.0 if form == "weight-only" else 30.0)


@pytest.mark.parametrize("make", [image_graph, token_graph])
@pytest.mark.parametrize("seed", range(4))
def test_random_exclusions_of_random_graphs(make, seed, tmp_path):
    check_random(make, seed, "static", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["static", "weight-only"])
@pytest.mark.parametrize("make", [image_graph, token_graph])
@pytest.mark.parametrize("seed", range(1000, 1150))
def test_many_random_exclusions_of_random_graphs(make, seed, form, tmp_path):
    check_random(make, seed, form, tmp_path)
