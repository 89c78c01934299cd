"""Activation functions in the forms that exporters write, and gates that go into the layers in front of them."""

import math

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import qtool
from qtool.core.numerics.sqnr import signal_to_noise
from qtool.graph import contrib, edit, model_io
from qtool.pipeline.prepare import prepare
from qtool.runtime.session import Session
from tests.support.patterns import Net
from tests.support.runs import Build, operators, prepared

ROOT = math.sqrt(2.0)


def erf(net: Net, x: str, order: str) -> str:
    half, one = net.const(0.5), net.const(1.0)
    scaled = net("Mul", x, net.const(1.0 / ROOT)) if "times" in order else net("Div", x, net.const(ROOT))
    gate = net("Add", one, net("Erf", scaled))
    if "x / 2" in order:
        return net("Mul", net("Div", x, net.const(2.0)), gate)
    if "half last" in order:
        return net("Mul", net("Mul", x, gate), half)
    return net("Mul", x, net("Mul", half, gate))


def tanh(net: Net, x: str, order: str) -> str:
    small, one, root = net.const(0.044715), net.const(1.0), net.const(math.sqrt(2.0 / math.pi))
    if "pow" in order:
        inner = net("Mul", net("Add", x, net("Mul", net("Pow", x, net.const(3.0)), small)), root)
    else:
        square = net("Add", one, net("Mul", net("Mul", x, small), x))
        inner = net("Mul", net("Mul", root, x), square)
    return net("Mul", net("Mul", net.const(0.5), x), net("Add", net("Tanh", inner), one))


def after(function: Build) -> Build:
    return lambda net: net("Relu", function(net, net("Abs", net.conv("x", 3, 8))))


AROUND = {"Conv": 1, "Abs": 1, "Relu": 1}
GELU, TANH = AROUND | {"Gelu": 1}, AROUND | {"FastGelu": 1}
SIGMOID, GATED = AROUND | {"HardSigmoid": 1}, AROUND | {"Sigmoid": 1, "Mul": 1}
FORMS = {
    "erf, half last": (lambda n, x: erf(n, x, "half last"), GELU),
    "erf, times, x / 2": (lambda n, x: erf(n, x, "times, x / 2"), GELU),
    "erf, gate halved": (lambda n, x: erf(n, x, "gate halved"), GELU),
    "tanh, pow": (lambda n, x: tanh(n, x, "pow"), TANH),
    "tanh, square": (lambda n, x: tanh(n, x, "square"), TANH),
    "x / (1 + exp(-x))": (
        lambda n, x: n("Div", x, n("Add", n("Exp", n("Neg", x)), n.const(1.0))), GATED
    ),
    "x * sigmoid(x)": (lambda n, x: n("Mul", n("Sigmoid", x), x), GATED),
    "hard sigmoid": (
        lambda n, x: n("Div", n("Clip", n("Add", x, n.const(3.0)), n.const(0.0), n.const(6.0)), n.const(6.0)), SIGMOID
    ),
    "hard sigmoid by Min and Max": (
        lambda n, x: n("Min", n("Max", n("Add", n("Mul", x, n.const(0.2)), n.const(0.5)), n.const(0.0)), n.const(1.0)),
        SIGMOID,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_a_function_is_recognised_in_any_form(name, tmp_path):
    function, wanted = FORMS[name]
    net = Net()
    assert operators(prepared(net, after(function)(net), tmp_path)) == wanted


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_the_operator_of_onnx_where_there_is_one(approximate, tmp_path):
    net = Net(opset=20)
    chain = erf(net, net.conv("x", 3, 8), "half last") if approximate == "none" else tanh(net, "x", "pow")
    result = prepared(net, chain, tmp_path)
    node = next(node for node in result.model.graph if node.op_type == "Gelu")
    assert node.domain == "" and edit.attribute(node, "approximate") == approximate


LEFT = {
    "another factor": lambda n, x: n("Mul", n("Mul", x, n("Add", n("Erf", x), n.const(1.0))), n.const(0.5)),
    "another half": lambda n, x: n("Mul", erf(n, x, "half last"), n.const(0.5)),
    "a vector": lambda n, x: n("Mul", x, n("Add", n("Erf", n("Div", x, n.const([[[ROOT]]] * 8))), n.const(1.0))),
    "another tensor": lambda n, x: n("Mul", n("Relu", "x"), n("Add", n("Erf", x), n.const(1.0))),
    "more dimensions": lambda n, x: n("Mul", n("Mul", x, n("Add", n("Erf", n("Div", x, n.const(ROOT))),
                                                           n.const(np.full((1,) * 5, 1.0)))), n.const(0.5)),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_what_only_looks_like_gelu(name, tmp_path):
    net = Net(8, 4, 4)
    found = operators(prepared(net, LEFT[name](net, "x"), tmp_path))
    assert ("Erf" in found) == (name != "another half")


def hard_swish(net: Net, x: str) -> str:
    inner = net("Clip", net("Add", x, net.const(3.0)), net.const(0.0), net.const(6.0))
    return net("Mul", net("Mul", x, inner), net.const(1.0 / 6.0))


def exp_gelu(net: Net, x: str) -> str:
    """x / (1 + exp(-2 s (x + c x^3))), which is GELU by Tanh."""
    scale = -2.0 * math.sqrt(2.0 / math.pi)
    cubic = net("Mul", net("Pow", x, net.const(3.0)), net.const(0.044715 * scale))
    return net("Div", x, net("Add", net.const(1.0), net("Exp", net("Add", net("Mul", x, net.const(scale)), cubic))))


HALVES = FORMS | {
    "hard swish": (hard_swish, AROUND | {"HardSigmoid": 1, "Mul": 1}),
    "exp gelu": (exp_gelu, TANH),
}


def in_half(source: str, target: str) -> str:
    """A model with all numbers in float16, as onnxruntime's converter writes it; its input and output are float32."""
    float16 = pytest.importorskip("onnxruntime.transformers.float16")
    onnx.save(float16.convert_float_to_float16(onnx.load(source), keep_io_types=True, op_block_list=[]), target)
    return target


@pytest.mark.parametrize("name", HALVES)
def test_a_function_whose_numbers_are_rounded_to_float16(name, tmp_path):
    function, wanted = HALVES[name]
    net = Net()
    source = net.save(tmp_path / "float.onnx", after(function)(net))
    result = prepare(model_io.load(in_half(source, tmp_path / "half.onnx")))
    assert operators(result) == wanted
    assert result.widened is not None
    fed = net.samples(4)
    expected, got = (
        Session(model_io.to_bytes(model), optimize=False).run(fed) for model in (result.widened, result.model)
    )
    assert all(signal_to_noise(expected[name], got[name]) > 60.0 for name in expected)


def rounded_gelu(net: Net, x: str, root: str) -> str:
    gate = net("Add", net("Erf", net("Div", x, root)), net.const(1.0))
    return net("Mul", net("Mul", x, gate), net.const(0.5))


def test_a_rounded_number_is_what_it_says_where_the_model_is_float32(tmp_path):
    net = Net()
    x = rounded_gelu(net, net.conv("x", 3, 8), net.const(np.float16(ROOT)))
    assert "Erf" in operators(prepared(net, x, tmp_path))


def test_a_rounded_number_is_what_it_says_where_that_part_of_the_model_is_float32(tmp_path):
    net = Net()
    half = net("Cast", net("Mul", net("Cast", net.conv("x", 3, 8), to=10), net.const(2.0, dtype=np.float16)), to=1)
    x = rounded_gelu(net, half, net.const(np.float16(ROOT)))
    result = prepare(model_io.load(net.save(tmp_path / "f.onnx", x)))
    assert result.changes["widened"] and "Erf" in operators(result)


def test_another_number_in_float16(tmp_path):
    net = Net()
    x = rounded_gelu(net, net.conv("x", 3, 8), net.const(np.nextafter(np.float16(ROOT), np.float16(2))))
    half = in_half(net.save(tmp_path / "f.onnx", x), tmp_path / "half.onnx")
    assert "Erf" in operators(prepare(model_io.load(half)))


def test_a_number_in_bfloat16_that_float32_computes_with(tmp_path):
    """bfloat16 rounds so far that another number would be another function."""
    net = Net()
    source = net.save(tmp_path / "f.onnx", rounded_gelu(net, net.conv("x", 3, 8), net("Cast", net.const(ROOT), to=1)))
    model = onnx.load(source)
    root = next(
        i
        for i in model.graph.initializer
        if onnx.numpy_helper.to_array(i).shape == () and onnx.numpy_helper.to_array(i) == np.float32(ROOT)
    )
    root.CopyFrom(onnx.helper.make_tensor(root.name, onnx.TensorProto.BFLOAT16, [], [ROOT]))
    onnx.save(model, source)
    assert "Erf" in operators(prepare(model_io.load(source)))


@pytest.mark.parametrize("op", ["Sigmoid", "HardSigmoid"])
def test_a_bound_far_out_stays_in_front_of_a_function(op, tmp_path):
    net = Net()
    x = net("Clip", net("Mul", "x", net.const(500.0)), net.const(-100.0), net.const(100.0))
    assert operators(prepared(net, net("Mul", x, net(op, x)), tmp_path)) == {"Mul": 2, "Clip": 1, op: 1}


def test_a_function_whose_middle_is_read_elsewhere(tmp_path):
    net = Net()
    x = net.conv("x", 3, 8)
    gate = net("Add", net("Erf", net("Div", x, net.const(ROOT))), net.const(1.0))
    outputs = (net("Mul", net("Mul", x, gate), net.const(0.5)), net("Relu", gate))
    assert operators(prepared(net, outputs, tmp_path))["Erf"] == 1


def test_what_is_written_computes_the_same_where_nobody_knows_onnxruntimes_operators(tmp_path):
    net = Net(opset=19)
    h = erf(net, net.conv("x", 3, 8), "half last")
    last = net.conv(tanh(net, net.conv(h, 8, 8), "pow"), 8, 4)
    source, written = net.save(tmp_path / "f.onnx", last), tmp_path / "q.onnx"
    result = qtool.quantize(source, written, data=net.samples(), target="tensorrt", calibrator="max")
    model = onnx.load(written)
    assert {(f.domain, f.name) for f in model.functions} == {(contrib.DOMAIN, "Gelu"), (contrib.DOMAIN, "FastGelu")}
    assert result.verification.integer_layers == 3
    plain = ReferenceEvaluator(model).run(None, net.samples(2))[0]
    exact = ReferenceEvaluator(onnx.load(source)).run(None, net.samples(2))[0]
    assert np.abs(plain - exact).max() < 0.02 * np.ptp(exact)


def gate(alpha: float, beta: float, layer: str = "Conv") -> Build:
    def build(net: Net) -> str:
        x = net.conv("x", 3, 8) if layer == "Conv" else net.gemm(net("Flatten", "x"), 192, 8)
        return net("Relu", net("HardSigmoid", x, alpha=alpha, beta=beta))

    return build


def swish(net: Net) -> str:
    return net("Relu", net("HardSwish", net.conv("x", 3, 8)))


def shared(net: Net) -> str:
    weight = net.weight(3, 3, 1, 1, inputs=3)
    return net("HardSigmoid", net("Conv", net("Relu", net("Conv", "x", weight)), weight))


def read_twice(net: Net) -> tuple[str, ...]:
    x = net.conv("x", 3, 8)
    return net("HardSigmoid", x), net("Relu", x)


def squared(net: Net) -> str:
    x = net("HardSigmoid", net.conv("x", 3, 8))
    return net("Relu", net("Mul", x, x))


def flat(net: Net) -> str:
    return net("Add", net("HardSigmoid", net.conv("x", 3, 8), alpha=0.0), net("Relu", net.conv("x", 3, 8)))


CONV, SUM = {"Conv": 1, "Relu": 1}, {"Conv": 1, "Relu": 1, "Add": 1, "Clip": 1, "Mul": 1}
GATES = {
    "conv": (gate(0.2, 0.5), CONV | {"Clip": 1}),
    "gemm": (gate(0.3, -0.1, "Gemm"), {"Flatten": 1, "Gemm": 1, "Clip": 1, "Relu": 1}),
    "falling": (gate(-0.2, 0.5), CONV | {"Clip": 1}),
    "alpha 0": (flat, CONV | {"Conv": 2, "Add": 1, "HardSigmoid": 1}),
    "hard swish": (swish, SUM),
    "squared": (squared, CONV | {"Clip": 1, "Mul": 1}),
    "a shared weight": (shared, {"Conv": 2, "Relu": 1, "HardSigmoid": 1}),
    "read twice": (read_twice, CONV | {"HardSigmoid": 1}),
    "no layer": (lambda n: n("HardSwish", n("Relu", "x")), {"Relu": 1, "HardSigmoid": 1, "Mul": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", GATES)
def test_gates_behind_layers(name, tmp_path):
    build, wanted = GATES[name]
    net = Net()
    assert operators(prepared(net, build(net), tmp_path)) == wanted


def test_gates_share_their_bounds(tmp_path):
    net = Net()
    h = net("HardSwish", net.conv("x", 3, 8))
    source = net.save(tmp_path / "f.onnx", net("HardSwish", net.conv(h, 8, 8)))
    graph = prepare(model_io.load(source)).model.graph
    scalars = [value for value in graph.initializers.values() if edit.constant(value).ndim == 0]
    assert len(scalars) == 3
