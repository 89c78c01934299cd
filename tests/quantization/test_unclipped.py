"""What samples show that did not choose: ranges that clip what only these hold give way to whole ones."""

import onnx

import qtool
from tests.support.random_models import random_case


def test_ranges_that_clip_what_only_other_samples_hold_give_way(tmp_path):
    """The four samples that choose hold nothing of what entropy cuts off; one of the other four does."""
    case = random_case(30308)
    onnx.save(case.model, tmp_path / "m.onnx")
    given = {"data": case.data, "form": "static", "partial": False}
    result = qtool.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", **given)
    assert (result.plan.calibrator, str(result.trials[0].calibrator)) == ("max", "max")
    assert max(trial.sqnr_db for trial in result.trials) > result.trials[0].sqnr_db + 10
    assert result.verification.output_sqnr_db > 50
    # what is asked for is not changed
    clipped = qtool.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", calibrator="entropy", **given)
    assert clipped.plan.calibrator == "entropy" and clipped.verification.output_sqnr_db < 30
