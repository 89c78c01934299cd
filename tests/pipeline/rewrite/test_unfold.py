"""Constants that a model computes: as integers where a layer needs them, and computed again where it stays in float."""

import numpy as np
import onnx
import pytest

import qtool
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


@pytest.mark.parametrize(
    ("exclude", "floats", "bound"),
    [((), 0, 45_000), (("cos",), 1, 25_000), (("cos", "sin"), 2, 6_000)],
    ids=["all integer", "one in float", "both in float"],
)
def test_a_file_holds_no_float_copy_of_what_it_can_compute(exclude, floats, bound, tmp_path):
    net = Net(128)
    source = net.save(tmp_path / "float.onnx", spectrum(net))
    result = qtool.quantize(
        source, tmp_path / "int8.onnx", data=net.samples(), exclude=exclude, calibrator="max", form="static",
        bias_correction="off",
    )  # fmt: skip
    assert result.changes["computed from less"] == 2
    stored = onnx.load(tmp_path / "int8.onnx").graph
    assert [node.op_type for node in stored.node if node.op_type in ("Cos", "Sin")] == ["Cos", "Sin"][:floats]
    assert result.size == (tmp_path / "int8.onnx").stat().st_size < bound
    assert not any(
        onnx.numpy_helper.to_array(i).dtype == np.float32 and np.prod(i.dims) > 1024 for i in stored.initializer
    )
    fed = net.samples()
    (wanted,), (got,) = (Session(path).run(fed).values() for path in (source, tmp_path / "int8.onnx"))
    assert 10 * np.log10((wanted**2).sum() / ((wanted - got) ** 2).sum()) > 25


def test_a_constant_that_is_no_larger_than_what_it_is_made_of_is_stored(tmp_path):
    net = Net(64)
    doubled = net("Add", net.weight(64, 64, inputs=64), net.const(0.01))
    source = net.save(tmp_path / "float.onnx", net("MatMul", net("MatMul", "x", doubled, name="first"),
                      net.weight(64, 8, inputs=64)))  # fmt: skip
    qtool.quantize(source, tmp_path / "int8.onnx", data=net.samples(), exclude=("first",), calibrator="max")
    assert "Add" not in {node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node}
