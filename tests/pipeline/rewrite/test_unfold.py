"""Constants that a model computes are computed in the written model too, as integers where a layer takes those."""

import numpy as np
import onnx
import pytest

import qtool
from qtool.graph import model_io
from qtool.graph.names import make_unique
from qtool.runtime.session import Session
from tests.support.patterns import Net


def spectrum(net: Net) -> str:
    """x [N, 128] -> [N, 8]: the cosines and sines of a Fourier transform, computed from 128 numbers, then a layer."""
    size = 128
    steps = net("Range", *(net.const(n, dtype=np.float32) for n in (0, size, 1)))
    column = net("Unsqueeze", steps, net.const([1], dtype=np.int64))
    phases = net("Mul", net("Mul", column, steps), net.const(2 * np.pi / size))
    parts = [net("MatMul", "x", net(op, phases), name=op.lower()) for op in ("Cos", "Sin")]
    return net("MatMul", net("Add", *parts), net.weight(size, 8, inputs=size * 11), name="head")


@pytest.mark.parametrize("exclude", [(), ("cos",), ("cos", "sin")], ids=["all integer", "one float", "both float"])
def test_a_file_holds_no_copy_of_what_it_can_compute(exclude, tmp_path):
    net = Net(128)
    source = net.save(tmp_path / "float.onnx", spectrum(net))
    result = qtool.quantize(
        source, tmp_path / "int8.onnx", data=net.samples(), exclude=exclude, calibrator="max", form="static",
        bias_correction="off", optimize_for="size",
    )  # fmt: skip
    assert result.changes["computed from less"] == 2 and result.verification.integer_layers == 3 - len(exclude)
    stored = onnx.load(tmp_path / "int8.onnx").graph
    assert sorted(node.op_type for node in stored.node if node.op_type in ("Cos", "Sin")) == ["Cos", "Sin"]
    assert result.size == (tmp_path / "int8.onnx").stat().st_size < result.float_size + 2500
    assert not any(np.prod(i.dims) > 1024 for i in stored.initializer)
    _near(source, tmp_path / "int8.onnx", net.samples())


def _near(source, made, fed):
    (wanted,), (got,) = (Session(path).run(fed).values() for path in (source, made))
    assert 10 * np.log10((wanted**2).sum() / ((wanted - got) ** 2).sum()) > 25


@pytest.mark.parametrize(
    ("layer", "form"),
    [("Conv", "static"), ("Gemm", "static"), ("MatMul", "static"), ("Gemm", "dynamic"), ("MatMul", "dynamic")],
)
def test_layers_of_all_kinds_run_in_integers_with_weights_that_are_computed(layer, form, tmp_path):
    convolution = layer == "Conv"
    net = Net(16, 8, 8) if convolution else Net(128)
    rows = 64 if convolution else 128
    wave = net("Range", *(net.const(n) for n in (0.0, rows, 1.0)))
    weight = net("Cos", net("Mul", net("Reshape", wave, net.const([rows, 1], dtype=np.int64)),
                 net.const(np.arange(144 if convolution else 128) * 0.3)))  # fmt: skip
    if convolution:
        weight = net("Reshape", weight, net.const([64, 16, 3, 3], dtype=np.int64))
    extra = {"Conv": {"pads": [1] * 4}, "Gemm": {"transB": 1}, "MatMul": {}}[layer]
    y = net(layer, "x", weight, name="wave", **extra)
    last = net.conv(y, 64, 8) if convolution else net("MatMul", y, net.weight(128, 64, inputs=128 * 64))
    source = net.save(tmp_path / "float.onnx", last)
    static = {"calibrator": "max"} if form == "static" else {}
    result = qtool.quantize(source, tmp_path / "int8.onnx", data=net.samples(2), form=form, **static)
    assert result.verification.integer_layers == 2
    assert result.size < result.float_size
    _near(source, tmp_path / "int8.onnx", net.samples(2))


def test_a_layer_in_float_and_one_in_integers_that_read_one_constant(tmp_path):
    net = Net(128)
    steps = net("Range", *(net.const(n) for n in (0.0, 128.0, 1.0)))
    waves = net("Cos", net("Mul", net("Reshape", steps, net.const([128, 1], dtype=np.int64)),
                net.const(np.arange(128) * 0.05)))  # fmt: skip
    parts = [net("MatMul", x, waves, name=name) for x, name in (("x", "real"), (net("Tanh", "x"), "whole"))]
    source = net.save(tmp_path / "float.onnx", net("Add", *parts))
    result = qtool.quantize(source, tmp_path / "int8.onnx", data=net.samples(), exclude=("real",), calibrator="max")
    assert list(result.verification.float_layers) == ["real"] and result.verification.integer_layers == 1
    assert result.size < 4000  # and 16 KiB with the integers
    _near(source, result.output, net.samples())


def test_a_constant_that_is_no_larger_than_what_it_is_made_of_is_stored(tmp_path):
    net = Net(64)
    doubled = net("Add", net.weight(64, 64, inputs=64), net.const(0.01))
    source = net.save(tmp_path / "float.onnx", net("MatMul", net("MatMul", "x", doubled, name="first"),
                      net.weight(64, 8, inputs=64)))  # fmt: skip
    qtool.quantize(source, tmp_path / "int8.onnx", data=net.samples(), exclude=("first",), calibrator="max")
    assert "Add" not in {node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node}


def test_nodes_without_names_have_none_in_the_file_and_are_called_by_their_outputs_again(tmp_path):
    net = Net(16)
    layers = net("MatMul", net("Relu", net("MatMul", "x", net.weight(16, 16, inputs=16))), net.weight(16, 4, inputs=16))
    model = net.model(layers)
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.name = ""
    model.graph.node[-1].name = "MatMul_2_out_node"
    onnx.save(model, tmp_path / "float.onnx")
    result = qtool.quantize(tmp_path / "float.onnx", tmp_path / "int8.onnx", data=net.samples(), form="static")
    assert result.plan.quantized == ("MatMul_0_out", "MatMul_2_out_node")
    assert {node.name for node in onnx.load(result.output).graph.node} == {"", "MatMul_2_out_node"}
    again = model_io.load(result.output).model
    make_unique(again)
    assert {str(node.name) for node in again.graph} >= set(result.plan.quantized)
    _near(tmp_path / "float.onnx", result.output, net.samples())


def test_a_small_constant_is_computed_where_what_makes_it_takes_less(tmp_path):
    net = Net(16)
    steps = net.const(np.arange(16), dtype=np.float32)
    waves = net("Cos", net("Mul", net("Unsqueeze", steps, net.const([1], dtype=np.int64)), steps))
    first = net("MatMul", "x", waves, name="first")
    source = net.save(tmp_path / "float.onnx", net("MatMul", first, net.weight(16, 8, inputs=16)))
    result = qtool.quantize(
        source, tmp_path / "int8.onnx", data=net.samples(), form="static", exclude=("first",), calibrator="max"
    )
    stored = onnx.load(result.output).graph
    assert [node.op_type for node in stored.node].count("Cos") == 1
    assert not any(np.prod(i.dims) > 128 for i in stored.initializer)
