"""The search for the best plan: nothing that was not taken is better by the figure that chooses."""

import numpy as np
import pytest

import qtool
from qtool.core.numerics.calibrators import Max, Percentile
from qtool.core.records.options import Scheme
from qtool.graph import model_io
from qtool.pipeline.planning.planner import Planner
from qtool.pipeline.prepare import prepare
from qtool.pipeline.recovery.example_statistics import observe_examples
from qtool.quantization import candidates, scoring
from qtool.targets.tables import find_target
from tests.support.patterns import Net


@pytest.fixture
def chain(tmp_path):
    """Layers whose inputs have heavy tails: whether a correction helps depends on the calibrator."""
    rng = np.random.default_rng(5)
    net = Net(24)
    x = "x"
    for _ in range(3):
        weight = rng.normal(size=(24, 24)) * rng.lognormal(0.0, 0.8, (1, 24)) / 5.0
        x = net("Relu", net("Gemm", x, net.const(weight), net.const(rng.normal(size=24) * 0.3)))
    path = net.save(tmp_path / "m.onnx", net("Gemm", x, net.const(rng.normal(size=(24, 4)) / 4.0)))
    return path, [{"x": np.abs(rng.standard_t(3, (1, 24))).astype(np.float32)} for _ in range(24)]


@pytest.mark.parametrize("cheap", [10**11, 1])
def test_auto_is_as_good_as_each_thing_that_may_be_asked_for(chain, tmp_path, monkeypatch, cheap):
    source, data = chain
    statistics = qtool.calibrate(source, data).statistics
    monkeypatch.setattr(candidates, "_CHEAP", cheap)

    def figures(**asked):
        return qtool.quantize(source, tmp_path / "q.onnx", calibration=statistics, **asked).trials

    auto = figures()
    most = max(t.samples for t in auto)
    assert len(auto) == (10 if cheap > 1 else 6) and auto[0].samples == most
    assert auto[0].sqnr_db == max(t.sqnr_db for t in auto if t.samples == most)
    if cheap > 1:
        assert {t.samples for t in auto} == {most}
        assert auto[0].sqnr_db >= figures(bias_correction="off")[0].sqnr_db
        assert auto[0].sqnr_db >= figures(bias_correction="on")[0].sqnr_db
    else:
        # the best of a few examples are measured on all
        assert [t.samples for t in auto] == [most] * 3 + [4] * 3


def test_plans_that_are_one_model_are_measured_once(tmp_path, monkeypatch):
    net = Net(8)
    hidden = net("Relu", net("Gemm", "x", net.weight(8, 8, inputs=8), net.const(np.ones(8, np.float32))))
    source = net.save(tmp_path / "m.onnx", net("Gemm", hidden, net.weight(8, 2, inputs=8)))
    measured = []
    compare = candidates.Scorer.compare

    def count(self, plans, *others, **options):
        measured.extend(plans)
        return compare(self, plans, *others, **options)

    monkeypatch.setattr(candidates.Scorer, "compare", count)
    trials = qtool.quantize(source, tmp_path / "q.onnx", data=[{"x": np.ones((1, 8), np.float32)}] * 4).trials
    assert len(trials) == 10 > len(measured)
    assert len({t.sqnr_db for t in trials}) <= len(measured)


def test_a_model_that_goes_on_where_it_stopped_is_loaded_once_and_has_the_same_figure(tmp_path, monkeypatch):
    net = Net(8)
    source = net.save(tmp_path / "m.onnx", net("Gemm", "x", net.weight(8, 2, inputs=8)))
    runs = [{"x": x} for x in np.random.default_rng(0).standard_normal((4, 1, 8), np.float32)]
    prepared = prepare(model_io.load(source))
    statistics = qtool.calibrate(source, runs).statistics
    planner = Planner(prepared, statistics, find_target("x86"), Scheme())
    plans = [planner.plan(one, corrected=False) for one in (Max(), *(Percentile(p) for p in (99.0, 90.0, 80.0, 70.0)))]
    given = (plans, prepared.model, planner.memo.weights)
    wanted = list(scoring.Scorer(prepared.model, runs, {}).compare(*given))
    loaded = []
    runner = scoring.Scorer._runner
    monkeypatch.setattr(scoring.Scorer, "_runner", lambda *a: loaded.append(a[1]) or runner(*a))
    scorer = scoring.Scorer(prepared.model, runs, {})
    few = list(scorer.compare(*given, first=2))
    assert few != wanted and len(loaded) == len(plans) == 5
    assert list(scorer.compare(*given)) == wanted
    # the three best were loaded still
    assert len(loaded) == 7
    least = sorted(few)[:2]
    assert [few[plans.index(plan)] in least for plan in loaded[5:]] == [True, True]


def test_what_is_seen_of_the_examples_outlives_the_session_by_itself(tmp_path):
    """An output that is not copied holds all the memory that its session has reserved."""
    net = Net(8)
    source = net.save(tmp_path / "m.onnx", net("Gemm", "x", net.weight(8, 2, inputs=8)))
    seen = observe_examples(prepare(model_io.load(source)).model, [{"x": np.ones((1, 8), np.float32)}])
    assert all(array.base is None for outputs in seen.outputs for array in outputs.values()) and seen.outputs[0]


def test_the_work_of_the_examples_is_counted(tmp_path):
    net = Net(3, 8, 8)
    y = net.conv("x", 3, 8)
    source = net.save(tmp_path / "m.onnx", y)
    seen = observe_examples(prepare(model_io.load(source)).model, [net.samples(2), net.samples(3)])
    outputs = [seen.outputs[i][y].size for i in range(2)]
    assert seen.macs == sum(outputs) * seen.means[next(iter(seen.means))].size
