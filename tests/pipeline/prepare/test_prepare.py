"""prepare: what is folded, what is left alone, and that the graph computes what the model computes."""

import importlib
import inspect
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from qtool.core.errors import AlreadyQuantizedError
from qtool.graph import model_io
from qtool.pipeline.prepare import prepare
from tests.support.patterns import Net
from tests.support.runs import Build, operators, prepared

PREPARE = Path(inspect.getfile(prepare))
# what a caller decides is no pass
PASSES = sorted(set(PREPARE.parent.glob("*.py")) - {PREPARE, PREPARE.with_name("fixed_inputs.py")})


def ints(net: Net, *values: int) -> str:
    return net.const(values, dtype=np.int64)


def batch_norm(net: Net, x: str, channels: int, **attributes: object) -> str:
    spread = net.const(net.rng.uniform(0.5, 2.0, channels))
    return net(
        "BatchNormalization", x, net.bias(channels), net.bias(channels), net.bias(channels), spread, **attributes
    )


def conv_transpose(net: Net, x: str, group: int) -> str:
    """8 channels -> 6."""
    weight = net.weight(8, 6 // group, 2, 2, inputs=8 // group)
    return net("ConvTranspose", x, weight, net.bias(6), group=group, strides=[2, 2], output_shape=[16, 16])


def after_conv(op: str, *shape: int, left: bool = False) -> Build:
    """Conv with 8 channels and `op` with a constant of this shape, on its left where asked."""

    def build(net: Net) -> str:
        constant = net.const(net.rng.uniform(0.5, 2.0, shape))
        x = net.conv("x", 3, 8, bias=op != "Mul")
        return net(op, constant, x) if left else net(op, x, constant)

    return build


def after_gemm(op: str, *shape: int, trans: int = 0) -> Build:
    def build(net: Net) -> str:
        x = net.gemm(net("Flatten", "x"), 192, 8, trans=trans)
        return net(op, x, net.const(net.rng.uniform(0.5, 2.0, shape)))

    return build


CONV, GEMM = {"Conv": 1}, {"Flatten": 1, "Gemm": 1}
BOTH = {"Conv": 1, "ConvTranspose": 1}
FOLDED: dict[str, tuple[Build, dict[str, int]]] = {
    "batch norm": (lambda n: batch_norm(n, n.conv("x", 3, 8), 8, epsilon=0.1), CONV),
    "batch norm, no bias": (lambda n: batch_norm(n, n.conv("x", 3, 8, bias=False), 8), CONV),
    "batch norm, groups": (lambda n: batch_norm(n, n.conv("x", 3, 9, group=3), 9), CONV),
    "batch norm, transposed": (lambda n: batch_norm(n, conv_transpose(n, n.conv("x", 3, 8), 1), 6), BOTH),
    "batch norm, transposed, groups": (lambda n: batch_norm(n, conv_transpose(n, n.conv("x", 3, 8), 2), 6), BOTH),
    "batch norm, gemm": (lambda n: batch_norm(n, n.gemm(n("Flatten", "x"), 192, 8), 8), GEMM),
    "batch norm, gemm transB": (
        lambda n: batch_norm(n, n.gemm(n("Flatten", "x"), 192, 8, trans=1, alpha=0.5), 8), GEMM
    ),
    "batch norm, gemm, no bias": (lambda n: batch_norm(n, n.gemm(n("Flatten", "x"), 192, 8, bias=False), 8), GEMM),
    "mul [1, C, 1, 1]": (after_conv("Mul", 1, 8, 1, 1), CONV),
    "div [1, C, 1, 1]": (after_conv("Div", 1, 8, 1, 1), CONV),
    "add [C, 1, 1]": (after_conv("Add", 8, 1, 1), CONV),
    "sub [C, 1, 1]": (after_conv("Sub", 8, 1, 1), CONV),
    "mul scalar": (after_conv("Mul"), CONV),
    "add [1]": (after_conv("Add", 1), CONV),
    "constant * x": (after_conv("Mul", 8, 1, 1, left=True), CONV),
    "constant + x": (after_conv("Add", 8, 1, 1, left=True), CONV),
    "gemm, mul [C]": (after_gemm("Mul", 8), GEMM),
    "gemm, add [1, C]": (after_gemm("Add", 1, 8), GEMM),
    "gemm transB, div [C]": (after_gemm("Div", 8, trans=1), GEMM),
    "gemm, sub scalar": (after_gemm("Sub"), GEMM),
    "gemm, beta": (lambda n: n("Mul", n.gemm(n("Flatten", "x"), 192, 8, beta=0.5), n.const(2.0)), GEMM),
    "a chain": (lambda n: n("Mul", batch_norm(n, n.conv("x", 3, 8), 8), n.const(0.5)), CONV),
}  # fmt: skip


def computed_weight(net: Net) -> str:
    weight = net("Reshape", net("ReduceMean", "x", axes=[0], keepdims=1), ints(net, 8, 3, 8, 1))
    return net("Mul", net("Conv", "x", weight), net.const(2.0))


def shared_output(net: Net) -> tuple[str, ...]:
    made = net.conv("x", 3, 8)
    return batch_norm(net, made, 8), net("Relu", made)


def is_an_output(net: Net) -> tuple[str, ...]:
    made = net.conv("x", 3, 8)
    return made, batch_norm(net, made, 8)


def divides_by_zero(net: Net) -> tuple[str, ...]:
    made = net("Div", net.conv("x", 3, 2), net.const(np.array([1.0, 0.0]).reshape(2, 1, 1)))
    return (net("Clip", made, net.const(-5.0), net.const(5.0)),)


def training(net: Net) -> str:
    spread = net.const(net.rng.uniform(0.5, 2.0, 8))
    inputs = [net.conv("x", 3, 8), net.bias(8), net.bias(8), net.bias(8), spread]
    return net("BatchNormalization", *inputs, outputs=3, training_mode=1)[0]


LEFT: dict[str, tuple[Build, str]] = {
    "varies along width": (after_conv("Mul", 8), "Mul"),
    "varies along height": (after_conv("Mul", 8, 1), "Mul"),
    "varies everywhere": (after_conv("Add", 1, 8, 8, 8), "Add"),
    "more dimensions": (after_conv("Mul", 1, 1, 8, 1, 1), "Mul"),
    "constant / x": (after_conv("Div", 8, 1, 1, left=True), "Div"),
    "constant - x": (after_conv("Sub", 8, 1, 1, left=True), "Sub"),
    "gemm, varies along the batch": (after_gemm("Mul", 3, 1), "Mul"),
    "gemm, more dimensions": (after_gemm("Add", 1, 1, 8), "Add"),
    "the weight is computed": (computed_weight, "Mul"),
    "the output is read elsewhere": (shared_output, "BatchNormalization"),
    "the output is a graph output": (is_an_output, "BatchNormalization"),
    "a channel is divided by zero": (divides_by_zero, "Div"),
    "training": (training, "BatchNormalization"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDED)
def test_affine_layers_are_folded(name, tmp_path):
    build, expected = FOLDED[name]
    net = Net()
    result = prepared(net, build(net), tmp_path)
    assert operators(result) == expected
    assert result.changes["fold_affine"] >= 1


@pytest.mark.parametrize("size", [0, 3])
def test_a_layer_whose_bias_does_not_fit_is_left(size, tmp_path):
    """onnxruntime loads it, and refuses to run it."""
    net = Net()
    made = net("Mul", net("Conv", "x", net.weight(8, 3, 3, 3, inputs=27), net.bias(size)), net.const(2.0))
    assert "fold_affine" not in prepare(model_io.load(net.save(tmp_path / "m.onnx", made))).changes


@pytest.mark.parametrize("name", LEFT)
def test_affine_layers_are_left(name, tmp_path):
    build, operator = LEFT[name]
    net = Net(batch=3 if "batch" in name else "N", opset=14 if name == "training" else 13)
    if name == "the weight is computed":
        net.batch = 1
    result = prepared(net, build(net), tmp_path)
    assert operators(result)[operator] == 1
    assert "fold_affine" not in result.changes


def test_tied_weights_under_different_batch_norms(tmp_path):
    net = Net()
    shared = net.weight(8, 3, 3, 3, inputs=27)
    made = [batch_norm(net, net("Conv", "x", shared, pads=[1] * 4), 8) for _ in range(2)]
    result = prepared(net, net("Concat", *made, axis=1), tmp_path)
    assert operators(result) == {"Conv": 2, "Concat": 1}
    weights = [n.inputs[1].const_value.numpy() for n in result.model.graph if n.op_type == "Conv"]
    assert not np.allclose(*weights)


def pad(
    net: Net, x: str, *pads: int, value: float | None = None, axes: tuple[int, ...] = (), mode: str = "constant"
) -> str:
    inputs = [x, ints(net, *pads)]
    if value is not None or axes:
        inputs.append("" if value is None else net.const(value))
    if axes:
        inputs.append(ints(net, *axes))
    return net("Pad", *inputs, mode=mode)


def padded_conv(net: Net, x: str, **attributes: object) -> str:
    return net("Conv", x, net.weight(4, 3, 3, 3, inputs=27), net.bias(4), **attributes)


def computed_pads(net: Net) -> str:
    batch = net("Slice", net("Shape", "x"), ints(net, 0), ints(net, 1))
    return net("Concat", ints(net, 0, 0), batch, ints(net, 1, 0, 0, 1, 1), axis=0)


def pooled(net: Net, x: str, *, kernel: int = 4, value: float = 0.0, **attributes: object) -> str:
    return net("MaxPool", pad(net, x, *SPATIAL, value=value), kernel_shape=[kernel] * 2, strides=[2, 2], **attributes)


SPATIAL = (0, 0, 1, 2, 0, 0, 3, 0)
PADS: dict[str, tuple[Build, bool]] = {
    "zeros": (lambda n: padded_conv(n, pad(n, "x", *SPATIAL)), True),
    "zeros, said so": (lambda n: padded_conv(n, pad(n, "x", *SPATIAL, value=0.0)), True),
    "added to the pads of the conv": (lambda n: padded_conv(n, pad(n, "x", *SPATIAL), pads=[2, 1, 0, 1]), True),
    "valid": (lambda n: padded_conv(n, pad(n, "x", *SPATIAL), auto_pad="VALID"), True),
    "axes": (lambda n: padded_conv(n, pad(n, "x", 1, 2, 3, 4, axes=(-1, 2))), True),
    "two readers": (lambda n: [p := pad(n, "x", *SPATIAL), n("Add", padded_conv(n, p), padded_conv(n, p))][1], True),
    "a pool behind Relu": (lambda n: pooled(n, n("Relu", "x")), True),
    "a pool with pads of its own": (lambda n: pooled(n, n("Relu", "x"), kernel=6, pads=[1, 0, 2, 3]), True),
    "a pool behind Clip": (lambda n: pooled(n, n("Clip", "x", n.const(0.5), n.const(0.9))), True),
    "a pool behind another": (lambda n: pooled(n, n("MaxPool", n("Relu", "x"), kernel_shape=[2, 2])), True),
    "a pool of negative numbers": (lambda n: pooled(n, n("Clip", "x", n.const(-9.0), n.const(-0.5))), False),
    "a pool of anything": (lambda n: pooled(n, "x"), False),
    "a window in the padding": (lambda n: pooled(n, n("Relu", "x"), kernel=3), False),
    "a pool, another value": (lambda n: pooled(n, n("Relu", "x"), value=9.0), False),
    "a pool that rounds up": (lambda n: pooled(n, n("Relu", "x"), ceil_mode=1), False),
    "a dilated pool": (lambda n: pooled(n, n("Relu", "x"), dilations=[2, 1]), False),
    "another value": (lambda n: padded_conv(n, pad(n, "x", *SPATIAL, value=0.5)), False),
    "reflect": (lambda n: padded_conv(n, pad(n, "x", *SPATIAL, mode="reflect")), False),
    "edge": (lambda n: padded_conv(n, pad(n, "x", *SPATIAL, mode="edge")), False),
    "channels": (lambda n: n.conv(pad(n, "x", 0, 1, 0, 0, 0, 0, 0, 0), 4, 4), False),
    "batch": (lambda n: padded_conv(n, pad(n, "x", 1, 0, 0, 0, 0, 0, 0, 0)), False),
    "negative": (lambda n: padded_conv(n, pad(n, "x", 0, 0, -1, 0, 0, 0, 0, 0)), False),
    "same": (lambda n: padded_conv(n, pad(n, "x", *SPATIAL), auto_pad="SAME_UPPER"), False),
    "read by another": (lambda n: [p := pad(n, "x", *SPATIAL), (padded_conv(n, p), n("Relu", p))][1], False),
    "no conv": (lambda n: n("AveragePool", pad(n, "x", *SPATIAL), kernel_shape=[2, 2]), False),
    "is an output": (lambda n: [p := pad(n, "x", *SPATIAL), (padded_conv(n, p), p)][1], False),
    "computed": (lambda n: padded_conv(n, n("Pad", "x", computed_pads(n))), False),
}  # fmt: skip


@pytest.mark.parametrize("name", PADS)
def test_pads(name, tmp_path):
    build, folds = PADS[name]
    net = Net(opset=18)
    result = prepared(net, build(net), tmp_path)
    assert operators(result).get("Pad", 0) == (0 if folds else 1)


def swish(net: Net, order: str) -> str:
    x = net.conv("x", 3, 8)
    three, low, high, six, sixth = (net.const(v) for v in (3.0, 0.0, 6.0, 6.0, 1.0 / 6.0))
    inner = net("Clip", net("Add", three, x) if "3 + x" in order else net("Add", x, three), low, high)
    if "(x * clip) / 6" in order:
        return net("Div", net("Mul", x, inner), six)
    if "(clip * x) * 1/6" in order:
        return net("Mul", sixth, net("Mul", inner, x))
    if "x * (clip / 6)" in order:
        return net("Mul", x, net("Div", inner, six))
    return net("Mul", net("Mul", inner, sixth), x)


@pytest.mark.parametrize(
    "order", ["(x * clip) / 6", "3 + x, (x * clip) / 6", "(clip * x) * 1/6", "x * (clip / 6)", "(clip * 1/6) * x"]
)
def test_hard_swish_in_any_order(order, tmp_path):
    net = Net()
    result = prepared(net, net("Relu", swish(net, order)), tmp_path)
    assert operators(result) == {"Conv": 1, "Add": 1, "Clip": 1, "Mul": 1, "Relu": 1}


@pytest.mark.parametrize(
    ("shift", "low", "high", "divisor", "read"),
    [(2.0, 0.0, 6.0, 6.0, ""), (3.0, 0.1, 6.0, 6.0, ""), (3.0, 0.0, 5.0, 6.0, ""), (3.0, 0.0, 6.0, 5.0, ""),
     (3.0, 0.0, 6.0, 6.0, "add"), (3.0, 0.0, 6.0, 6.0, "clip"), (3.0, 0.0, 6.0, 6.0, "mul")],
)  # fmt: skip
def test_what_only_looks_like_hard_swish(shift, low, high, divisor, read, tmp_path):
    net = Net()
    x = net("Relu", net.conv("x", 3, 8))
    made = {"add": net("Add", x, net.const(shift))}
    made["clip"] = net("Clip", made["add"], net.const(low), net.const(high))
    made["mul"] = net("Mul", x, made["clip"])
    last = net("Div", made["mul"], net.const(divisor))
    outputs = (last, net("Tanh", made[read])) if read else last
    assert "HardSigmoid" not in operators(prepared(net, outputs, tmp_path))


def test_a_plain_clip_of_a_shifted_tensor(tmp_path):
    net = Net()
    x = net("Relu", net.conv("x", 3, 8))
    clip = net("Clip", net("Add", x, net.const(3.0)), net.const(0.0), net.const(6.0))
    other = net("Sigmoid", x)
    result = prepared(net, net("Div", net("Mul", other, clip), net.const(6.0)), tmp_path)
    assert "HardSigmoid" not in operators(result)


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize(("opset", "axes"), [(13, (2, 3)), (13, (-1, -2)), (18, (3, 2))])
def test_a_spatial_mean(opset, axes, keep, tmp_path):
    net = Net(opset=opset)
    x = net.conv("x", 3, 8)
    mean = (
        net("ReduceMean", x, ints(net, *axes), keepdims=keep)
        if opset == 18
        else net("ReduceMean", x, axes=axes, keepdims=keep)
    )
    result = prepared(net, mean, tmp_path)
    assert operators(result) == {"Conv": 1, "GlobalAveragePool": 1} | ({} if keep else {"Flatten": 1})


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((3, 8, 8), (1, 2)),
        ((3, 8, 8), (2,)),
        ((3, 8, 8), (1, 2, 3)),
        ((3, 8, 8), None),
        ((3, 8), (2,)),
        ((3, 4, 4, 4), (2, 3)),
        ((3, 4, 4, 4), (2, 3, 4)),
    ],
)
def test_other_means(shape, axes, tmp_path):
    net = Net(*shape, opset=13)
    made = net("ReduceMean", net("Relu", "x"), **({} if axes is None else {"axes": axes}))
    assert operators(prepared(net, made, tmp_path)) == {"Relu": 1, "ReduceMean": 1}


def test_a_mean_of_integers(tmp_path):
    net = Net(opset=13)
    whole = net("Cast", net("Mul", "x", net.const(100.0)), to=TensorProto.INT32)
    result = prepared(net, net("Cast", net("ReduceMean", whole, axes=[2, 3]), to=TensorProto.FLOAT), tmp_path)
    assert operators(result)["ReduceMean"] == 1


@pytest.mark.parametrize("kind", ["plain", "not training", "training", "mask", "output"])
def test_dropout(kind, tmp_path):
    net = Net(opset=13)
    x = net.conv("x", 3, 8)
    if kind == "mask":
        dropped, mask = net("Dropout", x, outputs=2)
        outputs: str | tuple[str, ...] = (net("Relu", dropped), net("Cast", mask, to=TensorProto.FLOAT), x)
        folder = tmp_path / "float.onnx"
        result = prepare(model_io.load(net.save(folder, *outputs)))
    elif kind == "training":
        dropped = net("Dropout", x, net.const(0.0), net.const(True, dtype=bool))
        result = prepared(net, net("Relu", dropped), tmp_path)
    else:
        flag = [net.const(0.5), net.const(False, dtype=bool)] if kind == "not training" else []
        dropped = net("Dropout", x, *flag)
        result = prepared(net, dropped if kind == "output" else net("Relu", dropped), tmp_path)
    assert operators(result).get("Dropout", 0) == (1 if kind in ("mask", "training") else 0)


def test_constants_are_folded_into_weights(tmp_path):
    net = Net()
    turned = net("Transpose", net.weight(3, 3, 3, 8, inputs=27), perm=[3, 0, 1, 2])
    scaled = net("Mul", turned, net("Exp", net.const(0.1)))
    result = prepared(net, net("Identity", net("Conv", "x", scaled, net.bias(8), pads=[1] * 4)), tmp_path)
    assert operators(result) == {"Conv": 1}


def test_what_makes_a_constant_output_stays(tmp_path):
    net = Net()
    fixed = net("Relu", net.conv(net.conv(net.const(net.rng.normal(size=(1, 3, 4, 4))), 3, 8), 8, 4), name="last")
    result = prepared(net, (net.conv("x", 3, 4), fixed), tmp_path)
    assert operators(result) == {"Conv": 1, "Relu": 1}
    assert result.changes == {"fold_constants": 2}


def test_random_constants_are_not_folded(tmp_path):
    net = Net()
    noise = net("RandomNormalLike", net.const(np.zeros((1, 3, 8, 8))), seed=1.0)
    source = net.save(tmp_path / "f.onnx", net.conv(net("Add", "x", noise), 3, 8))
    assert operators(prepare(model_io.load(source)))["RandomNormalLike"] == 1


def test_large_constants_are_not_folded(tmp_path):
    net = Net()
    large = net("Expand", net.const(1.0), ints(net, 4200, 4200))
    source = net.save(tmp_path / "f.onnx", net("Mul", net("ReduceMax", net.conv("x", 3, 8)), net("ReduceMax", large)))
    assert operators(prepare(model_io.load(source)))["Expand"] == 1


def test_control_flow_is_not_folded(tmp_path):
    net = Net()
    out = helper.make_tensor_value_info("branch", TensorProto.FLOAT, None)
    branches = [
        helper.make_graph([helper.make_node(op, ["weight"], ["branch"])], op, [], [out]) for op in ("Exp", "Abs")
    ]
    weight = net.weight(8, 3, 3, 3, inputs=27, name="weight")
    positive = net("Greater", net("ReduceMax", "x", keepdims=0), net.const(0.0))
    chosen = net("If", positive, then_branch=branches[0], else_branch=branches[1])
    result = prepared(
        net, net("Add", net("Conv", "x", chosen, pads=[1] * 4), net("Conv", "x", weight, pads=[1] * 4)), tmp_path
    )
    assert operators(result)["If"] == 1


def test_a_quantised_model_is_refused(tmp_path):
    net = Net()
    scale, zero = net.const(0.1), net.const(0, dtype=np.uint8)
    grid = net("DequantizeLinear", net("QuantizeLinear", "x", scale, zero), scale, zero)
    source = net.save(tmp_path / "f.onnx", net.conv(grid, 3, 8))
    with pytest.raises(AlreadyQuantizedError, match="QuantizeLinear_0"):
        prepare(model_io.load(source))


@pytest.mark.parametrize("name", [file.stem for file in PASSES])
def test_every_pass_is_applied_and_says_when_it_declines(name):
    step = importlib.import_module(f"qtool.pipeline.prepare.{name}")
    source = PREPARE.read_text(encoding="utf-8").split("def _prepared")[1].split("return Prepared")[0]
    assert name in source.replace(",", " ").replace(")", " ").split()
    assert "Declines" in (step.__doc__ or "")
    assert inspect.signature(step.apply).return_annotation is int
