"""wer, cer, exact_match, bleu and chrf of texts: against their definitions, and sacrebleu's own figures."""

import sys
from pathlib import Path

import numpy as np
import pytest

from qtool.core.errors import DataError, UsageError
from qtool.evaluation.metrics.heads import find_heads
from qtool.evaluation.metrics.observation import Observation
from qtool.evaluation.metrics.registry import resolve_metrics, tokenizers_from, tokenizers_of

tokenizers = pytest.importorskip("tokenizers")

WORDS = ["<pad>", "</s>", "a", "small", "house", "stands", "there", "big"]
WANTED = ["a small house stands there", "a big house stands there", "there"]
FOUND = ["a small house stands there", "a house stands there there", "small there"]


@pytest.fixture
def tokenizer(tmp_path):
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, "</s>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.add_special_tokens(WORDS[:2])
    made.save(str(tmp_path / "t.json"))
    return tmp_path / "t.json"


def measure(name, outputs, labels, size=2):
    (metric,) = resolve_metrics([name])
    sums = None
    for start in range(0, len(outputs), size):
        y, known = outputs[start : start + size], {"labels": np.asarray(labels)[start : start + size]}
        sums = sums or metric.start(find_heads({"y": y}, known, len(y)))
        sums.update(Observation("m.onnx", {"y": y}, {"y": y}, known, start, len(y)))
    return sums.result()


def rows(texts, *, pad, length=8):
    return np.array(
        [[*ids, *[pad] * (length - len(ids))] for ids in ([WORDS.index(w) for w in t.split()] for t in texts)]
    )


def texts(several):
    return np.array(several, object)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_texts_are_counted_in_words_in_characters_and_whole(size):
    assert measure("wer", texts(FOUND), WANTED, size) == pytest.approx((0 + 2 + 1) / 11)
    edits = len("big ") + len(" there") + len("small ")
    assert measure("cer", texts(FOUND), WANTED, size) == pytest.approx(edits / sum(map(len, WANTED)))
    assert measure("exact_match", texts(FOUND), WANTED, size) == pytest.approx(1 / 3)


def test_a_tokenizer_makes_texts_of_tokens_and_labels(tokenizer):
    said, wanted = rows(FOUND, pad=1), rows(WANTED, pad=-1)
    for name in ("wer", "cer", "exact_match"):
        expected = measure(name, texts(FOUND), WANTED)
        for labels in (WANTED, texts(WANTED), wanted):
            assert measure(f"{name}:end=1:tokenizer={tokenizer}", said, labels) == pytest.approx(expected)


def test_ctc_says_texts_too(tokenizer):
    said = np.array([[0, 2, 2, 0, 4, 4], [4, 0, 4, 0, 0, 0]])
    scores = np.eye(len(WORDS), dtype=np.float32)[said]
    assert measure(f"wer:ctc:tokenizer={tokenizer}", scores, ["a house", "house"]) == pytest.approx(1 / 3)


def test_tokens_alone_are_the_units_of_exact_match():
    assert measure("exact_match:end=1", rows(FOUND, pad=1), rows(WANTED, pad=-1)) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("name", "function"), [("bleu", "corpus_bleu"), ("chrf", "corpus_chrf")])
def test_bleu_and_chrf_are_sacrebleus_over_the_whole_corpus(name, function, tokenizer):
    sacrebleu = pytest.importorskip("sacrebleu", reason="pip install '.[generation]'")
    expected = getattr(sacrebleu, function)(FOUND, [WANTED]).score
    assert 10 < expected < 90
    assert measure(name, texts(FOUND), WANTED) == pytest.approx(expected)
    assert measure(f"{name}:end=1:tokenizer={tokenizer}", rows(FOUND, pad=1), WANTED) == pytest.approx(expected)


def test_without_sacrebleu_a_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(UsageError, match=r"needs sacrebleu: pip install sacrebleu tokenizers"):
        measure("bleu", texts(FOUND), WANTED)


def test_where_scores_are_nan_nothing_was_said():
    scores = np.eye(8, dtype=np.float32)[rows(FOUND, pad=1)]
    scores[0, 0] = np.nan
    assert measure("exact_match:end=1", scores, rows(WANTED, pad=-1)) == 0


@pytest.mark.parametrize(
    ("name", "outputs", "labels", "error", "message"),
    [
        ("wer", rows(FOUND, pad=1), WANTED, UsageError, "wer:tokenizer=tokenizer.json"),
        ("cer", rows(FOUND, pad=1), rows(WANTED, pad=-1), DataError, "tokens have no characters"),
        ("wer:tokenizer=none.json", rows(FOUND, pad=1), WANTED, UsageError, "none.json': cannot be read"),
        ("exact_match", texts(FOUND), [[w, w] for w in WANTED], DataError, r"of shape \[2, 2\] for 2 samples"),
        ("bleu", np.zeros((3, 2), np.float32), WANTED, UsageError, r"no output has the shape \[N, T, classes\]"),
        ("wer:ctc:end=3", texts(FOUND), WANTED, UsageError, "leave one of ctc and end out"),
    ],
)
def test_what_cannot_be_read_is_one_line(name, outputs, labels, error, message):
    if name == "bleu":
        pytest.importorskip("sacrebleu")
    with pytest.raises(error, match=message):
        measure(name, outputs, labels)


def test_the_tokenizer_of_a_name_starts_from_the_folder_of_its_file():
    spec = "bleu:end=1:tokenizer=t.json,cer:tokenizer=/abs/u.json,top1"
    placed = "bleu:end=1:tokenizer=here/t.json,cer:tokenizer=/abs/u.json,top1"
    assert tokenizers_from(spec, Path("here")) == placed
    assert tokenizers_of(placed) == [Path("here/t.json"), Path("/abs/u.json")]
    for other in ("top1", "file.py:tokenizer=x", "wer:tokenizer=", "wer:ctc=3"):
        assert tokenizers_from(other, Path("here")) == other and tokenizers_of(other) == []
