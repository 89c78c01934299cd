"""Training, the last step of tuning, as the search sees it (torch is in tests/finetuning); and refined weights."""

import importlib.util

import numpy as np
import pytest

import qtool
from qtool.cli import main
from qtool.core.errors import UsageError
from qtool.core.records.options import Scheme
from qtool.core.tensorspec import InputSpec
from qtool.feeds import open_feeds
from qtool.report.tune import tuned_text
from qtool.tuning import tune as module
from qtool.tuning.budget import Budget, OutOfTimeError
from qtool.tuning.search import Search
from qtool.tuning.split import evaluation_subsets
from qtool.tuning.trained import Trainer, UntrainedError
from tests.support.refusals import SAMPLES, network

DATA = {"x": np.concatenate([SAMPLES] * 3)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return network(tmp_path_factory.mktemp("trained") / "m.onnx")


@pytest.fixture
def trains(monkeypatch):
    """Returns what lets a function train, as if torch were there."""
    monkeypatch.setattr(module, "require_torch", lambda: None)

    def use(function):
        monkeypatch.setattr(Trainer, "__call__", function)

    return use


def tuned(model, output, **options):
    return qtool.tune(model, DATA, output, **{"calibrators": "max", "min_sqnr": 80.0, "finetune": True, **options})


def test_the_best_plan_is_trained_last_and_judged_as_all_others(model, tmp_path, trains):
    seen = []

    def train(_, what, judge, plan):
        seen.append((what, judge))
        return plan

    trains(train)
    result = tuned(model, tmp_path / "q.onnx")
    ((what, _),) = seen
    assert what == result.best.what and result.steps[-1].what == f"{what}, finetuned"
    assert result.steps[-1].sqnr_db == result.best.sqnr_db
    # what is no better than what was there is not kept
    assert not result.met and result.best is not result.steps[-1]


def test_where_the_target_is_met_before_nothing_is_trained(model, tmp_path, trains):
    def train(*_):
        raise AssertionError

    trains(train)
    assert tuned(model, tmp_path / "q.onnx", min_sqnr=10.0).met


@pytest.mark.parametrize("why", ["nothing was gained", "the time budget"])
def test_what_was_not_trained_is_said_with_the_reason(why, model, tmp_path, trains):
    def train(*_):
        raise UntrainedError(why)

    trains(train)
    result = tuned(model, tmp_path / "q.onnx")
    assert result.untried["finetune"] == why and f"  not tried: finetune ({why})" in tuned_text(result)
    assert result.to_dict()["training"] is None


def test_rounds_that_have_used_their_time_leave_that_of_training(model, tmp_path, trains, monkeypatch):
    trains(lambda *given: given[-1])
    reserved = []

    def searched(self, calibrators):
        for _ in made(self, calibrators):
            reserved.append(self.trail.budget.reserved)
            raise OutOfTimeError

    made = Search._searched
    monkeypatch.setattr(Search, "_searched", searched)
    result = tuned(model, tmp_path / "q.onnx", time_budget=1000.0)
    assert reserved == [400.0]
    assert result.steps[-1].what.endswith(", finetuned") and result.untried["ranges mixed"] == "the time budget"


def test_what_is_kept_for_training_is_not_there_for_the_rounds():
    budget, whole = Budget(100.0, reserved=40.0), Budget(100.0)
    assert whole.left - budget.left == pytest.approx(40.0, abs=0.5)


def test_without_torch_tuning_does_not_begin(tmp_path, capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "torch" else found(name, *more)
    )
    with pytest.raises(SystemExit) as caught:
        main(["tune", "absent.onnx", "--data", "d.npz", "--finetune", "-o", str(tmp_path / "q.onnx")])
    said = "qtool: finetune: needs torch: pip install torch (or pip install '.[finetune]' in qtool's folder)\n"
    assert (caught.value.code, capsys.readouterr().err) == (2, said)
    with pytest.raises(UsageError, match="pip install torch"):
        qtool.tune("absent.onnx", {}, tmp_path / "q.onnx", finetune=True)


def test_what_trains_does_not_choose_where_other_data_reports():
    spec = InputSpec("x", np.dtype(np.float32), ("N", 2))
    data = {"x": np.arange(16, dtype=np.float32).reshape(8, 2), "labels": np.zeros(8, np.int64)}
    feeds, other = open_feeds(data, [spec]), open_feeds({**data, "x": data["x"] + 100.0}, [spec])

    def firsts(part):
        return [float(record["x"][0, 0]) for record in part()]

    training, choosing, reporting, words = evaluation_subsets(feeds, other, apart=True)
    assert (len(firsts(training)), len(firsts(choosing))) == (6, 2)
    assert sorted(firsts(training) + firsts(choosing)) == list(range(0, 16, 2))
    assert firsts(reporting) == list(range(100, 116, 2))
    assert words == "of four samples of the arrays three calibrate and train, one chooses; the arrays reports"
    training, choosing, _, words = evaluation_subsets(feeds, other)
    assert firsts(training) == firsts(choosing) and words == "the arrays calibrates and chooses, the arrays reports"


@pytest.mark.parametrize(
    ("refine", "granularity", "tried"),
    [("auto", "per-tensor", True), ("off", "per-tensor", False), ("auto", "per-channel", False),
     ("on", "per-channel", True)],
)  # fmt: skip
def test_weights_are_refined_where_that_may_pay_or_is_asked_for(refine, granularity, tried, model, tmp_path):
    result = tuned(
        model, tmp_path / "q.onnx", finetune=False, min_sqnr=10.0, target="x86", refine=refine,
        scheme=Scheme(granularity=granularity),
    )  # fmt: skip
    steps = {step.what: step for step in result.steps}
    assert ("max, refined" in steps) == tried
    if tried and refine == "auto":
        assert steps["max, refined"].sqnr_db > steps["max, corrected"].sqnr_db
