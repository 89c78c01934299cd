"""sub_pixel: a ConvTranspose as a Conv and a rearrangement computes the same, in integers."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import qtool
from qtool.core.records.options import Scheme
from qtool.graph import model_io
from qtool.pipeline.prepare import Prepared, prepare
from qtool.runtime.session import Session
from tests.support.patterns import Net
from tests.support.runs import operators, prepared, run, sqnr, steps_apart

# spatial kernel, attributes
SHAPES = {
    "kernel is stride": ((2, 2), {"strides": [2, 2]}),
    "twice the stride, pads": ((4, 4), {"strides": [2, 2], "pads": [1] * 4}),
    "odd, output padding": ((3, 3), {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]}),
    "odd, no pads": ((3, 3), {"strides": [2, 2]}),
    "stride 1": ((3, 3), {"pads": [1] * 4}),
    "stride 1, no pads": ((3, 3), {}),
    "unequal strides": ((5, 3), {"strides": [3, 2], "pads": [2, 0, 1, 1]}),
    "one axis alone": ((1, 4), {"strides": [1, 2], "pads": [0, 1, 0, 1]}),
    "the other axis": ((4, 1), {"strides": [2, 1], "pads": [1, 0, 1, 0]}),
    "kernel below stride": ((2, 2), {"strides": [3, 3], "output_padding": [1, 2]}),
    "far output padding": ((2, 2), {"strides": [4, 4], "output_padding": [3, 3]}),
    "valid": ((4, 4), {"strides": [2, 2], "auto_pad": "VALID"}),
    "wide": ((16, 16), {"strides": [8, 8], "pads": [4] * 4}),
    "pads beyond the stride": ((9, 9), {"strides": [2, 2], "pads": [4, 3, 3, 4]}),
    "1-D": ((4,), {"strides": [2], "pads": [1, 1]}),
    "1-D, odd": ((7,), {"strides": [3], "pads": [2, 1], "output_padding": [1]}),
    "1-D, stride 1": ((3,), {"pads": [1, 1]}),
}


def transposed(net: Net, x: str, kernel: tuple[int, ...], *, bias: bool = True, group: int = 1, **attributes) -> str:
    weight = net.weight(3, 4 if group == 1 else 1, *kernel, inputs=3)
    return net("ConvTranspose", x, weight, *([net.bias(4)] if bias else []), group=group, **attributes)


def agrees(source: Path, result: Prepared, *sizes: int) -> None:
    x = np.random.default_rng(5).normal(size=(2, 3, *sizes)).astype(np.float32)
    data = onnx.load_from_string(model_io.to_bytes(result.model))
    assert Session(model_io.to_bytes(result.model)).run({"x": x})
    wanted, found = (ReferenceEvaluator(m).run(None, {"x": x})[0] for m in (onnx.load(source), data))
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_the_same_is_computed(name, tmp_path):
    kernel, attributes = SHAPES[name]
    net = Net(3, *(6, 5)[: len(kernel)])
    made = transposed(net, "x", kernel, bias=name != "odd, no pads", **attributes)
    result = prepared(net, made, tmp_path)
    assert "ConvTranspose" not in operators(result)
    assert operators(result)["Conv"] == 1
    assert operators(result).get("Reshape", 0) == (0 if "stride 1" in name else len(kernel))
    agrees(tmp_path / "float.onnx", result, *net.shape[1:])


@pytest.mark.parametrize("free", [("H", "W"), (6, "W"), ("H", 5)])
def test_sizes_that_are_free(free, tmp_path):
    net = Net(3, *free)
    made = transposed(net, net("Relu", "x"), (4, 3), strides=[2, 2], pads=[1, 0, 1, 1])
    source = net.save(tmp_path / "m.onnx", made)
    result = prepare(model_io.load(source))
    assert ("Shape" in operators(result)) == (free == ("H", "W"))
    agrees(source, result, *(n if isinstance(n, int) else 7 for n in free))


def mean(net: Net) -> str:
    return net("ReduceMean", "x", keepdims=0)


LEFT = {
    "groups": lambda n: transposed(n, "x", (2, 2), group=3, bias=False, strides=[2, 2]),
    "dilations": lambda n: transposed(n, "x", (2, 2), strides=[2, 2], dilations=[2, 2]),
    "same": lambda n: transposed(n, "x", (3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    "an output_shape": lambda n: transposed(n, "x", (3, 3), strides=[2, 2], output_shape=[11, 9]),
    "pads beyond the kernel": lambda n: transposed(n, "x", (2, 2), pads=[2] * 4),
    "a computed weight": lambda n: n("ConvTranspose", "x", n("Mul", n.weight(3, 4, 2, 2, inputs=3), mean(n))),
    "a computed bias": lambda n: n("ConvTranspose", "x", n.weight(3, 4, 2, 2, inputs=3), n("Mul", n.bias(4), mean(n))),
    "two readers of the weight": lambda n: n(
        "Add", n("ConvTranspose", "x", w := n.weight(3, 4, 2, 2, inputs=3)), n("ConvTranspose", n("Relu", "x"), w)
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left(name, tmp_path):
    net = Net(3, 6, 5)
    result = prepared(net, LEFT[name](net), tmp_path)
    assert "sub_pixel" not in result.changes


@pytest.mark.parametrize("act", ["Relu", "Clip", "Tanh"])
def test_a_decoder_becomes_integer(act, tmp_path):
    """A Relu and a Clip are absorbed; a Tanh stays float between."""
    net = Net(3, 6, 6)
    made = transposed(net, net("Relu", net.conv("x", 3, 3)), (4, 4), strides=[2, 2], pads=[1] * 4)
    made = net("Clip", made, net.const(0.0), net.const(6.0)) if act == "Clip" else net(act, made)
    done = run(net, (net.conv(made, 4, 4),), tmp_path)
    expected = {"QLinearConv": 3, "Reshape": 2, "Slice": 1, **({"Tanh": 1} if act == "Tanh" else {})}
    edges = 2 if act == "Tanh" else 1
    expected |= {"QuantizeLinear": edges, "DequantizeLinear": edges}
    assert {op: n for op, n in done.kernels.items() if op != "Transpose"} == expected
    assert steps_apart(done) < 1.5
    assert sqnr(done) > 20


@pytest.mark.parametrize("scheme", [Scheme(exclude=("up",)), Scheme(exclude_ops=("ConvTranspose",))])
def test_it_can_be_left_in_float(scheme, tmp_path):
    net = Net(3, 6, 6)
    h = net.conv("x", 3, 3)
    h = net("ConvTranspose", h, net.weight(3, 4, 2, 2, inputs=3), strides=[2, 2], name="up")
    done = run(net, (net.conv(net("Relu", h), 4, 4),), tmp_path, scheme=scheme)
    assert done.result.verification.integer_layers == 2
    assert set(done.result.verification.float_layers) == {"up_conv"}


@pytest.mark.parametrize("form", ["dynamic", "weight-only"])
@pytest.mark.parametrize("equalized", [False, True])
def test_it_stays_where_the_form_computes_it_in_float(form, equalized, tmp_path):
    net = Net(3, 6, 6)
    h = net("Relu", net("Conv", "x", net.weight(3, 3, 3, 3, inputs=27), net.bias(3), pads=[1] * 4))
    h = net("Relu", transposed(net, h, (2, 2), strides=[2, 2]))
    columns = net("Transpose", net("Conv", h, net.weight(4, 4, 1, 1, inputs=4)), perm=[0, 2, 3, 1])
    source = net.save(tmp_path / "m.onnx", net("MatMul", columns, net.weight(4, 8, inputs=4)))
    data = [net.samples(1) for _ in range(8)]
    statistics = qtool.calibrate(source, data, equalize=equalized).statistics
    held = {}
    for name, asked in {"without": {}, "data": {"data": data}, "file": {"calibration": statistics}}.items():
        if equalized and name != "file":
            continue
        done = qtool.quantize(source, tmp_path / "q.onnx", form=form, **asked)
        held[name] = "ConvTranspose" in done.verification.kernels
        again = qtool.quantize(source, tmp_path / "again.onnx", plan=done.plan)
        assert again.plan == done.plan
        assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "q.onnx").read_bytes()
    # equalisation has decided on what it was rewritten as
    assert set(held.values()) == {not equalized}
    assert (
        "ConvTranspose" not in qtool.quantize(source, tmp_path / "s.onnx", calibration=statistics).verification.kernels
    )
