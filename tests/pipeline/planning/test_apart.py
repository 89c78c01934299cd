"""A Concat of what differs in range: float where the parts are read apart, in integers where one layer reads all."""

import numpy as np
import onnx
import pytest

import qtool
from qtool.core.numerics.sqnr import signal_to_noise
from qtool.graph import model_io
from qtool.pipeline.prepare import prepare
from qtool.runtime.session import Session
from tests.support.patterns import Net


def joined(net, times):
    """Two convolutions, of which one gives so many times as much as the other."""
    h = net("Relu", net.conv("x", 3, 8))
    small, large = (net.conv(h, 8, 4, kernel=(1, 1), bias=False, name=name) for name in ("small", "large"))
    net.constants[list(net.constants)[-1]] *= np.float32(times)
    return net("Concat", small, large, axis=1, name="join")


def also_an_output(net, both):
    return both, net.conv(both, 8, 4, name="after")


def reshaped(net, both):
    """The output holds it in another order."""
    return net("Sigmoid", net("Transpose", both, perm=[0, 2, 3, 1])), net.conv(both, 8, 4, name="after")


def split(net, both):
    parts = net("Split", both, net.const([4, 4], dtype=np.int64), outputs=2, axis=1, name="cut")
    return tuple(net.conv(part, 4, 4, name=f"after{i}") for i, part in enumerate(parts))


def read_whole(net, both):
    return (net.conv(both, 8, 4, name="after"),)


def mixed(net, both):
    """What is cut out holds some of either: it wants the range of both."""
    shuffled = net("Gather", both, net.const([0, 4, 1, 5, 2, 6, 3, 7], dtype=np.int64), axis=1)
    return split(net, shuffled)


@pytest.mark.parametrize(
    ("make", "times", "apart"),
    [
        (also_an_output, 40, True),
        (reshaped, 40, True),
        (split, 40, True),
        (also_an_output, 2, False),
        (split, 2, False),
        (read_whole, 40, False),
        (mixed, 40, False),
    ],
)
def test_where_parts_are_read_apart(tmp_path, make, times, apart):
    net = Net(3, 8, 8)
    path = net.save(tmp_path / "m.onnx", *make(net, joined(net, times)))
    options = {"calibrator": "max", "bias_correction": "off", "optimize_for": "size", "partial": False}
    result = qtool.quantize(path, tmp_path / "q.onnx", data=net.samples(), **options)
    assert ("join" in result.plan.integer) == (not apart)
    if not apart:
        return
    assert "differ in range" in result.plan.skipped["join"] and result.verification.integer_share == 1.0
    wanted, made = (Session(p).run(net.samples(2)) for p in (path, tmp_path / "q.onnx"))
    first = next(iter(wanted))
    small = slice(0, 4) if make is also_an_output else slice(None)
    assert signal_to_noise(wanted[first][:, small], made[first][:, small]) > 25.0
    # a vector along the channels would be one along the last axis, where onnxruntime has the convolutions channels last
    quantizing = [node for node in onnx.load(tmp_path / "q.onnx").graph.node if node.op_type == "QuantizeLinear"]
    assert quantizing and not any(attribute.name == "axis" for node in quantizing for attribute in node.attribute)
    joints = {node.name for node in prepare(model_io.load(path)).model.graph if node.op_type in ("Concat", "Split")}
    assert joints.isdisjoint(result.plan.integer)


@pytest.mark.parametrize(("times", "apart"), [(9, False), (60, True)])
def test_what_keeping_parts_apart_takes_is_set_against_what_it_gains(tmp_path, times, apart):
    """A quarter of the time of a tiny network, by the table: not for a tenth of that in dB."""
    net = Net(3, 8, 8)
    path = net.save(tmp_path / "m.onnx", *reshaped(net, joined(net, times)))
    options = {"bias_correction": "off", "partial": False, "target": "x86"}
    results = [
        qtool.quantize(path, tmp_path / "q.onnx", data=net.samples(), calibrator=calibrator, **options)
        for calibrator in ("max", "auto")
    ]
    assert all(("join" in result.plan.integer) == (not apart) for result in results)
    assert all(result.verification.output_sqnr_db > 25.0 for result in results)
    best = results[1].trials[0]
    assert str(best.calibrator) == results[1].plan.calibrator and best.sqnr_db > 25.0
