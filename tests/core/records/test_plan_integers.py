"""A plan that holds integers of a weight: what is written, what is verified against, and what is refused."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import qtool
from qtool.core.errors import UsageError
from qtool.core.records.plan import load_plan
from tests.support.patterns import Net


@pytest.fixture(params=["static", "dynamic"])
def planned(request, tmp_path):
    """A model, its plan as a file, and the plan."""
    net = Net(6)
    model = net.save(tmp_path / "float.onnx", net.gemm(net("Relu", net.gemm("x", 6, 8)), 8, 3))
    data = None if request.param == "dynamic" else net.samples()
    qtool.quantize(model, tmp_path / "q.onnx", data=data, form=request.param, save_plan=tmp_path / "p.json")
    return model, tmp_path / "p.json", load_plan(tmp_path / "p.json")


def holding(plan, integers):
    field = "weights" if plan.weights else "dynamic"
    first, *others = getattr(plan, field)
    return type(plan)(**{**{n: getattr(plan, n) for n in plan.__slots__}, field: (first.holding(integers), *others)})


def test_the_integers_of_the_plan_are_written_and_proven(planned, tmp_path):
    model, path, plan = planned
    own = np.arange(-24, 24, dtype=np.int8).reshape(6, 8)
    holding(plan, own).save(path)
    result = qtool.quantize(model, tmp_path / "own.onnx", plan=path)
    stored = [numpy_helper.to_array(i) for i in onnx.load(tmp_path / "own.onnx").graph.initializer]
    assert any(array.shape == own.shape and array.dtype == np.int8 and (array == own).all() for array in stored)
    assert result.verification.integer_layers == 2
    assert result.plan == load_plan(path)


def test_a_plan_without_integers_is_written_as_ever(planned):
    _, path, _ = planned
    assert "integers" not in path.read_text()


@pytest.mark.parametrize(
    ("integers", "says"),
    [
        (np.zeros(47, np.int8), "integers: 47 for constant"),
        (np.full((6, 8), -128, np.int8), "numbers from -127 to 127"),
    ],
)
def test_integers_that_do_not_fit_are_refused(integers, says, planned, tmp_path):
    model, path, plan = planned
    with pytest.raises((UsageError, ValueError), match=says):
        holding(plan, integers).save(path)
        qtool.quantize(model, tmp_path / "own.onnx", plan=path)


def test_what_is_no_base64_is_refused(planned, tmp_path):
    model, path, plan = planned
    holding(plan, np.zeros((6, 8), np.int8)).save(path)
    path.write_text(path.read_text().replace("AAAA", "A*A=", 1))
    with pytest.raises(UsageError, match="integers: base64 is needed"):
        qtool.quantize(model, tmp_path / "own.onnx", plan=path)
