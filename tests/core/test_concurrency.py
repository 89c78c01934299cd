"""Work on several cores: the order of results and of errors, and the same bytes on any number of cores."""

import subprocess
import sys
import threading

import numpy as np
import onnx
import pytest

import qtool
from qtool.core import concurrency as module
from qtool.core.concurrency import both, side_by_side
from tests.support.patterns import Net
from tests.support.token_models import encoder, sentences


@pytest.fixture(params=[1, 2, 8])
def cores(request, monkeypatch):
    monkeypatch.setattr(module, "cores", lambda: request.param)


@pytest.mark.usefixtures("cores")
def test_results_come_in_order():
    assert list(side_by_side(lambda x: x * x, range(20))) == [x * x for x in range(20)]
    assert list(side_by_side(str, [])) == []
    assert both(lambda: 1, lambda: "b") == (1, "b")


def test_two_at_once_where_there_are_two_cores(monkeypatch):
    monkeypatch.setattr(module, "cores", lambda: 2)
    met = threading.Barrier(2, timeout=30)
    assert list(side_by_side(lambda x: met.wait() >= 0 and x, [1, 2])) == [1, 2]
    assert both(lambda: met.wait() >= 0, lambda: met.wait() >= 0) == (True, True)


@pytest.mark.usefixtures("cores")
def test_the_first_error_is_the_first_in_order():
    def fails(x):
        raise ValueError(x)

    with pytest.raises(ValueError, match=r"^0$"):
        list(side_by_side(fails, range(4)))
    with pytest.raises(ValueError, match="first"):
        both(lambda: fails("first"), lambda: fails("second"))


def written(source, feeds, path):
    statistics = qtool.calibrate(source, feeds).statistics
    result = qtool.quantize(source, path, calibration=statistics)
    document = result.to_dict()
    return path.read_bytes(), {key: document[key] for key in ("trials", "verification", "plan")}


@pytest.mark.parametrize("kind", ["vision", pytest.param("language", marks=pytest.mark.long)])
def test_the_same_model_on_any_number_of_cores(kind, tmp_path, monkeypatch):
    if kind == "vision":
        net = Net(3, 12, 12)
        hidden = net("Relu", net.conv("x", 3, 16))
        y = net("Add", net.conv(net("Relu", net.conv(hidden, 16, 16, group=16)), 16, 16), hidden)
        source, feeds = net.save(tmp_path / "m.onnx", y), [net.samples(1) for _ in range(5)]
    else:
        source, feeds = tmp_path / "m.onnx", sentences(5, padded=True)
        onnx.save(encoder(40.0), source)
    found = []
    for number in (1, 2):
        monkeypatch.setattr(module, "cores", lambda n=number: n)
        found.append(written(source, feeds, tmp_path / f"{number}.onnx"))
    assert found[0][0] == found[1][0]
    np.testing.assert_equal(found[0][1], found[1][1])


def test_starting_does_not_import_what_is_seldom_needed():
    """sympy takes as long as all the rest; arithmetic with symbolic dimensions still works, and is what it was."""
    program = """
import sys
import qtool.quantization.quantize
assert "sympy.core" not in sys.modules
import onnx_ir
total = onnx_ir.SymbolicDim("a") + 1
assert str(total.value) == "a + 1", total
assert "sympy.core" in sys.modules
import sympy
assert sympy.simplify("2*x - x") == sympy.Symbol("x")
"""
    subprocess.run([sys.executable, "-c", program], check=True)
