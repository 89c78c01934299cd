"""The language models of the zoo: float's scores are what the zoo's own scorer says, trimmed and per token."""

import numpy as np
import pytest

import qtool
from bench.zoo_models import zoo_folder

ZOO = zoo_folder()
pytestmark = [
    pytest.mark.zoo,
    pytest.mark.skipif(ZOO is None, reason="no model zoo: set QTOOL_ZOO, or put it at ../shared/zoo"),
]


@pytest.mark.slow
def test_minilm_is_trimmed_to_its_mask():
    model = ZOO / "minilm_sst2" / "model.onnx"
    result = qtool.evaluate(
        model, model, ZOO / "minilm_sst2" / "eval.npz", trim="attention_mask", metrics=["top1", "f1", "matthews", "auc"]
    )
    assert result.float_model.score("top1").value == pytest.approx(0.7901, abs=5e-5)
    assert result.candidates[0].agreement == 1.0


def test_g2p_is_scored_by_the_phoneme():
    model, data = ZOO / "g2p_gru" / "model.onnx", ZOO / "g2p_gru" / "eval.npz"
    result = qtool.evaluate(model, model, data, batch_size=50)
    (score,) = result.float_model.scores
    assert score.metric == "token_accuracy"
    assert score.value == pytest.approx(0.9386, abs=5e-5)
    assert result.candidates[0].agreement == 1.0


def test_g2p_makes_as_many_errors_as_it_gets_wrong():
    """3 ends a word; an edit distance aligns, so that it finds no more errors than positions that differ."""
    model, folder = ZOO / "g2p_gru" / "model.onnx", ZOO / "g2p_gru"
    with np.load(folder / "eval.npz") as data:
        few = {name: data[name][:200] for name in data.files}
    result = qtool.evaluate(model, model, few, batch_size=50, metrics=["wer:end=3", "token_accuracy"])
    errors, right = (score.value for score in result.float_model.scores)
    assert 0.0 < errors < 2 * (1 - right)
