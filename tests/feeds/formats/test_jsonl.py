"""`.jsonl`: numbers a line, streamed; what a line may be, and the one line that says what is wrong with it."""

import json
import tracemalloc

import numpy as np
import pytest

import qtool
from qtool.core.errors import DataError, UsageError
from qtool.core.tensorspec import InputSpec
from qtool.feeds import open_feeds
from qtool.feeds.formats import jsonl
from tests.support.evaluation_models import linear, per_token

IDS = InputSpec("input_ids", np.dtype(np.int64), ("N", "T"))
MASK = InputSpec("attention_mask", np.dtype(np.int64), ("N", "T"))
X = InputSpec("x", np.dtype(np.float32), ("N", 3))


def write(folder, *records):
    path = folder / "d.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def refused(path, *inputs, **options):
    with pytest.raises((DataError, UsageError)) as caught:
        list(open_feeds(path, inputs, **options))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_line_is_a_sample_and_equal_shapes_are_stacked(tmp_path):
    lengths = [3, 3, 2, 4, 4, 4, 1]
    records = [
        {"input_ids": list(range(n)), "attention_mask": [1] * n, "label": index} for index, n in enumerate(lengths)
    ]
    feeds = open_feeds(write(tmp_path, *records), [IDS, MASK], batch_size=2)
    assert feeds.samples == 7
    for _ in range(2):
        batches = list(feeds)
        assert [b.inputs["input_ids"].shape for b in batches] == [(2, 3), (1, 2), (2, 4), (1, 4), (1, 1)]
        assert [b.labels["labels"].tolist() for b in batches] == [[0, 1], [2], [3, 4], [5], [6]]
        assert [b.start for b in batches] == [0, 2, 3, 5, 6]
    assert batches[0].origin == f"{tmp_path / 'd.jsonl'}, line 1 to {tmp_path / 'd.jsonl'}, line 2"
    some = open_feeds(write(tmp_path, *records), [IDS, MASK], batch_size=2, samples=4)
    assert (some.samples, [b.size for b in some]) == (4, [2, 1, 1])


def test_json_numbers_become_the_inputs_type(tmp_path):
    path = write(tmp_path, {"x": [1, 2, 3]}, {"x": [1.5, -25e-2, 0]})
    first, second = open_feeds(path, [X])
    assert first.inputs["x"].dtype == second.inputs["x"].dtype == np.float32
    np.testing.assert_array_equal(np.vstack([first.inputs["x"], second.inputs["x"]]), [[1, 2, 3], [1.5, -25e-2, 0]])
    nested = InputSpec("x", np.dtype(np.float32), ("N", 2, 1, 2))
    (batch,) = open_feeds(write(tmp_path, {"x": [[[1, 2]], [[3, 4]]]}), [nested])
    np.testing.assert_array_equal(batch.inputs["x"], [[[[1, 2]], [[3, 4]]]])
    (scalar,) = open_feeds(
        write(tmp_path, {"n": 3}, {"n": 4}), [InputSpec("n", np.dtype(np.int32), ("N",))], batch_size=4
    )
    assert scalar.inputs["n"].tolist() == [3, 4]


def test_pictures_of_numbers_are_preprocessed(tmp_path):
    image = InputSpec("x", np.dtype(np.float32), ("N", 2, 2, 1))
    path = write(tmp_path, {"x": [[[0], [51]], [[255], [102]]]})
    (batch,) = open_feeds(path, [image], preprocess="unit-gray")
    np.testing.assert_allclose(batch.inputs["x"].ravel(), [0, 0.2, 1, 0.4], rtol=1e-6)
    assert "give uint8" in refused(write(tmp_path, {"x": [[[0], [256]], [[0], [0]]]}), image, preprocess="unit-gray")


@pytest.mark.parametrize(
    ("label", "wanted"),
    [(3, [3]), (0.25, [0.25]), ([1, -1], [[1, -1]]), ([], [[]]), ("cat", ["cat"]), ([[0, 1]], [[[0, 1]]])],
)
@pytest.mark.parametrize("key", ["label", "labels"])
def test_labels_are_numbers_lists_or_names(tmp_path, key, label, wanted):
    (batch,) = open_feeds(write(tmp_path, {"x": [1, 2, 3], key: label}), [X])
    assert batch.labels["labels"].tolist() == wanted
    assert batch.labels["labels"].dtype.kind == ("i" if label == [] else np.asarray(wanted).dtype.kind)


def test_an_input_called_labels_is_an_input(tmp_path):
    labels = InputSpec("labels", np.dtype(np.int64), ("N",))
    (batch,) = open_feeds(write(tmp_path, {"x": [1, 2, 3], "labels": 4}), [X, labels])
    assert (batch.inputs["labels"].tolist(), batch.labels) == ([4], {})
    assert "unknown key 'label'" in refused(write(tmp_path, {"x": [1, 2, 3], "label": 4}), X, labels)


def test_empty_lines_and_a_byte_order_mark_are_nothing(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"x": [1, 2, 3]}\n\n  \r\n{"x": [4, 5, 6]}')
    feeds = open_feeds(path, [X], batch_size=4)
    (batch,) = feeds
    assert feeds.samples == 2
    assert batch.inputs["x"].tolist() == [[1, 2, 3], [4, 5, 6]]


GOOD = '{"x": [1, 2, 3]}'


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"x": [1, 2,', "is not JSON (Expecting value at character"),
        ("[1, 2, 3]", "is a list, not an object"),
        ("null", "is null, not an object"),
        ("[" * 5000 + "]" * 5000, "line 2: "),
        ('{"x": [' + "9" * 5000 + ", 1, 1]}", "line 2: cannot be read (a number has thousands of digits"),
        ('{"x": [' + "9" * 50 + ", 1, 1]}", "'x' holds a list that is no number"),
        ('{"x": [1, 2, 3], "y": 1}', "unknown key 'y'; the keys are 'x', 'label', 'labels', 'text', 'text_pair'"),
        ('{"X": [1, 2, 3]}', "unknown key 'X' (did you mean 'x'?)"),
        ('{"label": 1}', "no array for the model's input 'x'"),
        ('{"x": [1, 2, 3], "label": 1, "labels": 1}', "both 'label' and 'labels'"),
        ('{"x": [1, [2], 3]}', "'x' is ragged"),
        ('{"x": [1, null, 3]}', "'x' holds a list that is no number"),
        ('{"x": {"a": 1}}', "'x' holds an object that is no number"),
        ('{"x": ["a", "b", "c"]}', "'x' holds a text"),
        ('{"x": [true, false, true]}', "'x' is bool, but the model's input 'x' takes float32"),
        ('{"x": [1, 2]}', "'x' is float32 [2]"),
        ('{"x": [[1, 2, 3], [4, 5, 6]]}', "holds 2 samples; give one a line"),
        ('{"x": [1, NaN, 3]}', "the input 'x' holds NaN"),
        ('{"x": [1, 1e999, 3]}', "the input 'x' holds Inf"),
        ('{"x": [1, 2, 3], "label": {}}', "'label' holds an object"),
        ('{"x": [1, 2, 3], "label": null}', "'label' holds null"),
        ('{"text": "good film"}', "line 2: holds 'text'; give the model's tokenizer.json as tokenizer"),
        ('{"x": [1, 2, 3], "text_pair": 5}', "'text_pair' is a number; give a text"),
    ],
)
def test_what_is_wrong_names_the_line(tmp_path, line, says):
    path = tmp_path / "d.jsonl"
    path.write_text(f"{GOOD}\n{line}\n{GOOD}\n")
    message = refused(path, X)
    assert message.startswith(f"{path}, line 2: ")
    assert says in message
    # the first line is looked at before anything runs
    path.write_text(f"{line}\n")
    with pytest.raises(DataError):
        open_feeds(path, [X])


def test_what_is_no_text_file(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"x": "\xff\xfe"}\n')
    assert "line 1: is not UTF-8" in refused(path, X)
    path.write_bytes(b"\n\n")
    assert "holds no samples" in refused(path, X)
    assert "does not exist" in refused(tmp_path / "absent.jsonl", X)
    path.write_text('{"x": [1.5, 2, 3]}')
    assert "'x' is float64, but the model's input 'x' takes int64" in refused(
        path, InputSpec("x", np.dtype(np.int64), ("N", 3))
    )


def test_an_endless_line_is_never_held(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "LINE_LIMIT", 1 << 20)
    path = tmp_path / "d.jsonl"
    with path.open("w") as file:
        file.write(GOOD + "\n")
        for _ in range(200):
            file.write("1, " * 50_000)
    tracemalloc.start()
    try:
        assert "line 2 is larger than 1 MiB" in refused(path, X)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.long
def test_memory_is_one_batch_not_the_file(tmp_path):
    path = tmp_path / "d.jsonl"
    spec = InputSpec("x", np.dtype(np.float32), ("N", 1000))
    with path.open("w") as file:
        for index in range(2000):
            file.write(json.dumps({"x": [index] * 1000, "label": index}) + "\n")
    tracemalloc.start()
    try:
        count = sum(batch.size for batch in open_feeds(path, [spec], batch_size=4))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 2000
    assert peak < 1 << 20  # the file is 11 MB


def test_a_fixed_batch_is_filled_or_refused(tmp_path):
    fixed = InputSpec("x", np.dtype(np.float32), (2, 3))
    path = write(tmp_path, *[{"x": [1, 2, 3]}] * 5)
    assert "samples=4" in refused(path, fixed)
    assert [b.size for b in open_feeds(path, [fixed], samples=4)] == [2, 2]


def test_the_whole_way_is_that_of_an_npz(tmp_path):
    """calibrate, quantize and evaluate give the same from either form."""
    rng = np.random.default_rng(3)
    x, weights = rng.normal(size=(40, 6)).astype(np.float32), rng.normal(size=(6, 4))
    model = linear(tmp_path / "m.onnx", weights)
    labels = (x @ weights).argmax(1)
    np.savez(tmp_path / "d.npz", x=x, labels=labels)
    lines = write(tmp_path, *({"x": row.tolist(), "label": int(y)} for row, y in zip(x, labels, strict=True)))
    results = []
    for data in (lines, tmp_path / "d.npz"):
        calibrated = qtool.calibrate(model, data, batch_size=8)
        qtool.quantize(model, tmp_path / "q.onnx", calibration=calibrated.statistics)
        evaluation = qtool.evaluate(model, tmp_path / "q.onnx", data, batch_size=8)
        results.append(((tmp_path / "q.onnx").read_bytes(), evaluation.candidates[0].scores))
    assert results[0] == results[1]
    assert results[0][1][0].metric == "top1"


def test_sequences_of_any_length_with_token_labels(tmp_path):
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(6, 4))
    model = per_token(tmp_path / "m.onnx", weights)
    samples = [rng.normal(size=(n, 6)).astype(np.float32) for n in (1, 5, 2, 2, 7)]
    path = write(tmp_path, *({"x": x.tolist(), "labels": (x @ weights).argmax(-1).tolist()} for x in samples))
    result = qtool.evaluate(model, model, path, batch_size=2)
    assert result.float_model.score("token_accuracy").value == 1.0
    assert qtool.evaluate(model, model, path, metrics=["wer"]).float_model.score("wer").value == 0.0
