"""`tune --finetune`: the workflow's last step with torch."""

import numpy as np

import qtool
from qtool.report.tune import tuned_text
from tests.finetuning.test_finetune import PER_TENSOR, lopsided, needs_torch

pytestmark = needs_torch


def test_tuning_ends_in_training(tmp_path):
    # 100 choose: what is gained behind equalised weights is little beside the noise of fewer
    model, data = lopsided(tmp_path, 400)
    result = qtool.tune(
        model, data, tmp_path / "q.onnx", scheme=PER_TENSOR, target="x86", min_sqnr=60.0, calibrators="max", threads=1,
        finetune=True,
    )  # fmt: skip
    step = result.steps[-1]
    assert step.what == f"{result.training.what}, finetuned" and result.training.kept
    (start,) = [one for one in result.steps if one.what == result.training.what]
    assert step.sqnr_db > start.sqnr_db and result.best is step
    before, after = result.training.chosen_db
    assert abs(before - start.sqnr_db) < 0.01 and abs(after - step.sqnr_db) < 0.01
    assert any(row.integers for row in result.plan.weights)
    document = result.to_dict()["training"]
    assert document["steps"] == result.training.rounds[-1].step and len(document["rounds"]) > 2
    assert f"  finetune: {document['steps']} steps in " in tuned_text(result)


def test_a_metric_chooses_the_state_too(tmp_path):
    model, data = lopsided(tmp_path, 120)
    labelled = {**data, "labels": np.zeros(120, np.int64)}
    result = qtool.tune(
        model, labelled, tmp_path / "q.onnx", eval_data=data | {"labels": np.ones(120, np.int64)}, metric="top1",
        min_sqnr=60.0, scheme=PER_TENSOR, target="x86", calibrators="max", threads=1, max_float_macs=0.0, max_drop=0.9,
        finetune=True,
    )  # fmt: skip
    assert "three calibrate and train, one chooses" in result.split
    assert all(0.0 <= one.metric <= 1.0 for one in result.training.rounds)


def test_a_single_sample_has_nothing_to_train_on(tmp_path):
    model, data = lopsided(tmp_path, 120)
    few = {"x": data["x"][:1]}
    result = qtool.tune(
        model, few, tmp_path / "q.onnx", min_sqnr=300.0, target="x86", calibrators="max", threads=1, max_float_macs=0.0,
        finetune=True,
    )  # fmt: skip
    assert result.untried["finetune"] == "the samples that calibrate choose too; give more data"
