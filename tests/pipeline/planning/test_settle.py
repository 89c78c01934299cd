"""Placing again what onnxruntime does not run: in which order, in how few looks, and what is left of a given plan."""

import numpy as np
import pytest

import qtool
from qtool.core.errors import DataError, ModelError, NothingToQuantizeError
from qtool.core.numerics.calibrators import Max
from qtool.core.records.options import Scheme
from qtool.graph import model_io
from qtool.pipeline.planning.leave import leave_float
from qtool.pipeline.planning.planner import Planner
from qtool.pipeline.prepare import prepare
from qtool.pipeline.rewrite.static import rewrite
from qtool.pipeline.verify.census import run_otherwise
from qtool.runtime.census import take_census
from qtool.targets.tables import TARGETS
from tests.support.patterns import Net

LAYERS = 12


def chain(net: Net) -> str:
    """Dense layers, each with a ReLU behind; every output is quantised for the next one."""
    x = "x"
    for i in range(LAYERS):
        x = net("Relu", net("MatMul", x, net.weight(8, 8, inputs=8), name=f"layer{i}"))
    return x


@pytest.fixture
def planner(tmp_path):
    """Makes a planner of the chain, for a look."""
    net = Net(8)
    model = net.save(tmp_path / "m.onnx", chain(net))
    statistics = qtool.calibrate(model, net.samples()).statistics
    prepared = prepare(model_io.load(model))

    def make(look=None, **options):
        return Planner(prepared, statistics, TARGETS["x86"], Scheme(), look=look, **options)

    return make


def floats(plan) -> set[str]:
    return set(plan.layers) - set(plan.quantized)


def test_a_layer_is_closed_then_dynamic_then_float(planner):
    seen = []

    def look(plan):
        tensors = {row.tensor for row in plan.activations if row.produced}
        dynamic = {row.readers[0][0] for row in plan.dynamic}
        seen.append(("Relu_23_out" in tensors, "layer11" in dynamic, "layer11" in plan.integer))
        return {"layer11": "runs in float"} if "layer11" in plan.integer else {}

    plan = planner(look, dynamic=True).plan(Max())
    assert seen == [(False, False, True), (False, True, True), (False, False, False)]
    assert plan.skipped["layer11"] == "runs in float"
    assert floats(plan) == {"layer11"}


def test_a_layer_whose_output_has_statistics_is_closed_first(planner):
    made = planner()
    statistics = made.statistics
    statistics.tensors["Relu_23_out"] = statistics.tensors["Relu_21_out"]

    def look(plan):
        closed = any(row.tensor == "Relu_23_out" and row.produced for row in plan.activations)
        return {} if closed else {"layer11": "runs in float"}

    plan = planner(look).plan(Max())
    assert "layer11" in plan.integer and not plan.skipped


def test_where_a_form_is_asked_for_a_layer_is_float_at_once(planner):
    looks = []

    def look(plan):
        looks.append(plan)
        return {name: "so it is" for name in ("layer2", "layer7") if name in plan.integer}

    made = planner(look)
    plan = made.plan(Max())
    assert len(looks) == 2 and floats(plan) == {"layer2", "layer7"}
    # another plan of the same placement needs no look
    made.plan(Max(), corrected=False)
    assert len(looks) == 2


@pytest.mark.parametrize("error", [ModelError, DataError])
@pytest.mark.parametrize("bad", [{"layer0"}, {"layer5"}, {"layer11"}, {"layer2", "layer9"}])
def test_the_layers_without_which_a_model_runs_are_found_by_bisection(bad, error, planner):
    looks = []

    def look(plan):
        looks.append(plan)
        if bad & set(plan.integer):
            raise error("cannot be loaded")
        return {}

    plan = planner(look).plan(Max())
    assert floats(plan) == bad
    assert len(looks) <= 1 + len(bad) * 7


def test_a_model_that_does_not_load_in_float_either_is_an_error(planner):
    def look(_):
        raise ModelError("no such operator")

    with pytest.raises(ModelError, match="no such operator"):
        planner(look).plan(Max())


def test_nothing_is_left(planner):
    def look(plan):
        return dict.fromkeys(plan.integer, "onnxruntime runs it in float here")

    with pytest.raises(
        NothingToQuantizeError, match=r"nothing to quantise .*MatMul: onnxruntime runs it in float here"
    ):
        planner(look).plan(Max())


def test_what_stays_float_and_is_quantised_again_takes_the_layer_before_with_it(planner):
    def look(plan):
        wrong = "layer4" not in plan.integer and "layer3" in plan.integer
        return {"layer4": "quantised again" if wrong else "in float"} if wrong or "layer4" in plan.integer else {}

    assert floats(planner(look).plan(Max())) == {"layer3", "layer4"}


def test_it_ends_where_nothing_helps(planner):
    assert "layer6" in floats(planner(lambda _: {"layer6": "never as planned"}).plan(Max()))


@pytest.mark.parametrize("names", [("layer0",), ("layer5", "layer6"), ("layer11",)])
def test_layers_of_a_given_plan_in_float(names, planner):
    made = planner()
    model, whole = made.prepared.model, made.plan(Max(), corrected=False)
    left = leave_float(model, whole, dict.fromkeys(names, "why"))
    assert floats(left) == set(names) and {left.skipped[name] for name in names} == {"why"}
    # as if they had been placed so
    placed = made.plan(Max(), floating=names, corrected=False)
    assert [(row.tensor, row.readers, row.float_readers, row.twin_size, row.produced) for row in left.activations] == [
        (row.tensor, row.readers, row.float_readers, row.twin_size, row.produced) for row in placed.activations
    ]
    assert left.weights == placed.weights
    session, census = take_census(model_io.consume(rewrite(model, left)))
    assert run_otherwise(left, census, TARGETS["x86"]) == {}
    assert np.isfinite(session.run(Net(8).samples())["Relu_23_out"]).all()


def test_nothing_is_left_of_a_given_plan(planner):
    made = planner()
    whole = made.plan(Max(), corrected=False)
    with pytest.raises(NothingToQuantizeError, match="nothing to quantise is left of the plan"):
        leave_float(made.prepared.model, whole, dict.fromkeys(whole.layers, "why"))
