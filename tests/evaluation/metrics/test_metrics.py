"""The metrics against their definitions, computed another way."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtool.core.errors import DataError, UsageError
from qtool.core.records.evaluation import MetricKind
from qtool.evaluation.latency import summarize_rounds
from qtool.evaluation.metrics.classes import Agreement, TopK
from qtool.evaluation.metrics.heads import NO_HEADS, ClassOutput, find_class_output, find_heads
from qtool.evaluation.metrics.observation import Observation
from qtool.evaluation.metrics.registry import NAMES, resolve_metrics
from qtool.evaluation.metrics.similarity import Cosine, Mse, Sqnr
from qtool.evaluation.trial import first_unlike
from qtool.graph.model_files import model_size
from tests.support.evaluation_models import external, linear, predicts_class

RNG = np.random.default_rng(7)


def seen(outputs, reference=None, labels=None, start=0, size=None):
    outputs = {"y": outputs} if isinstance(outputs, np.ndarray) else outputs
    reference = outputs if reference is None else reference
    reference = {"y": reference} if isinstance(reference, np.ndarray) else reference
    labels = {} if labels is None else {"labels": np.asarray(labels)}
    return Observation("model.onnx", outputs, reference, labels, start, size or len(next(iter(outputs.values()))))


def in_batches(accumulator, outputs, reference=None, labels=None, size=3):
    for start in range(0, len(outputs), size):
        part = slice(start, start + size)
        accumulator.update(
            seen(
                outputs[part],
                None if reference is None else reference[part],
                None if labels is None else labels[part],
                start,
            )
        )
    return accumulator.result()


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("shape", [(41, 9), (41, 9, 1, 1), (41, 1, 9)])
def test_top_k_is_the_label_among_the_k_best(k, shape):
    scores = RNG.normal(size=shape).astype(np.float32)
    labels = RNG.integers(0, 9, 41)
    best = np.argsort(-scores.reshape(41, 9), axis=1)[:, :k]
    wanted = np.mean([label in row for label, row in zip(labels, best, strict=True)])
    assert in_batches(TopK(k, ClassOutput("y", 9, False)), scores, labels=labels, size=4) == pytest.approx(wanted)


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), min_size=1, max_size=8),
    st.integers(0, 2),
)
def test_ties_go_to_the_lower_class_as_argmax_has_it(scores, label):
    scores = np.array(scores, np.float32)
    labels = np.full(len(scores), label)
    wanted = float((scores.argmax(1) == labels).mean())
    assert in_batches(TopK(1, ClassOutput("y", 3, False)), scores, labels=labels) == pytest.approx(wanted)


def test_a_single_column_is_a_probability_at_one_half():
    scores = np.array([[0.2], [0.5], [0.51], [0.9]], np.float32)
    output = find_class_output({"y": scores}, 4)
    assert output == ClassOutput("y", 1, holds_class=False)
    assert in_batches(TopK(1, output), scores, labels=np.array([0, 0, 1, 0])) == 0.75


def test_a_sample_with_nan_is_wrong_and_disagrees():
    scores = np.array([[np.nan, 0.0], [0.0, 1.0]], np.float32)
    reference = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    output = ClassOutput("y", 2, False)
    assert in_batches(TopK(1, output), scores, labels=np.array([0, 1])) == 0.5
    assert in_batches(Agreement(output), scores, reference) == 0.5


def test_agreement_counts_equal_predictions():
    reference, outputs = RNG.normal(size=(50, 4)), RNG.normal(size=(50, 4))
    wanted = (reference.argmax(1) == outputs.argmax(1)).mean()
    assert in_batches(Agreement(ClassOutput("y", 4, False)), outputs, reference) == pytest.approx(wanted)


def test_agreement_of_one_column_needs_a_probability():
    output = ClassOutput("y", 1, False)
    assert in_batches(Agreement(output), np.array([[0.4], [0.6]]), np.array([[0.6], [0.7]])) == 0.5
    assert in_batches(Agreement(output), np.array([[0.4], [3.0]]), np.array([[0.6], [2.0]])) is None


@pytest.mark.parametrize(
    ("shapes", "name"),
    [
        ({"a": (4, 10)}, "a"),
        ({"a": (4, 10, 1, 1)}, "a"),
        ({"a": (4,)}, "a"),
        ({"a": (4, 7, 5), "b": (4, 3)}, "b"),
        ({"state": (2, 4, 8), "b": (4, 1)}, "b"),
        ({"a": (4, 7, 5)}, None),
        ({"a": ()}, None),
    ],
)
def test_class_scores_are_the_first_output_that_fits(shapes, name):
    found = find_class_output({key: np.zeros(shape, np.float32) for key, shape in shapes.items()}, 4)
    assert (found.name if found else None) == name


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (None, "no labels"),
        ([0, 1], r"shape \(2,\) for 3 sample"),
        ([[0, 1, 1]] * 3, r"shape \(3, 3\)"),
        ([0, 1, 3], "label 3 of sample 12 is no class of output 'y', which has 3"),
        ([0, -1, 2], "label -1 of sample 11"),
        ([0.5, 1, 2], "not whole numbers"),
        (["cat", "dog", "cow"], "not whole numbers"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, says):
    with pytest.raises(DataError, match=says) as caught:
        TopK(1, ClassOutput("y", 3, False)).update(seen(np.zeros((3, 3)), labels=labels, start=10))
    assert "data" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [1, 4, 30])
def test_similarities_are_their_definitions_whatever_the_batch(size):
    reference = RNG.normal(size=(30, 2, 5)).astype(np.float32)
    outputs = (reference + RNG.normal(scale=0.1, size=reference.shape)).astype(np.float32)
    a, b = reference.astype(np.float64), outputs.astype(np.float64)
    assert in_batches(Sqnr(), outputs, reference, size=size) == pytest.approx(
        10 * np.log10((a**2).sum() / ((a - b) ** 2).sum())
    )
    assert in_batches(Mse(), outputs, reference, size=size) == pytest.approx(((a - b) ** 2).mean())
    cosines = [x.ravel() @ y.ravel() / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)]
    assert in_batches(Cosine(), outputs, reference, size=size) == pytest.approx(np.mean(cosines))


# ranking reads [N, width], and the opposite of all vectors has the same neighbours: see test_retrieval.py
SIMILARITIES = [name for name in NAMES if name != "ranking"]
PERFECT = [m.name for name in SIMILARITIES for m in resolve_metrics(name) if m.perfect is not None and not m.decodes]


@pytest.mark.parametrize("name", PERFECT)
@pytest.mark.parametrize("size", [1, 5, 12])
def test_a_similarity_of_float_with_itself_is_perfect(name, size):
    scores = RNG.normal(size=(12, 5, 4)).astype(np.float32)
    (metric,) = resolve_metrics(name)
    found = in_batches(metric.start(find_heads({"y": scores}, {}, 12)), scores, scores.copy(), size=size)
    assert found == metric.perfect
    assert in_batches(metric.start(find_heads({"y": scores}, {}, 12)), -scores, scores, size=size) != metric.perfect


def test_sqnr_of_several_outputs():
    reference = {"a": np.full((2, 3), 10.0), "b": np.ones((2, 1))}
    outputs = {"a": np.full((2, 3), 11.0), "b": np.ones((2, 1))}
    sqnr = Sqnr()
    sqnr.update(seen(outputs, reference))
    assert dict(sqnr.by_output()) == {"a": pytest.approx(20.0), "b": math.inf}
    assert sqnr.result() == pytest.approx(20.0), "the worst output's"


def test_sqnr_accumulates_in_float64():
    reference = np.full((1 << 14, 16), 300.0, np.float16)
    outputs = reference.copy()
    outputs[0, 0] = 301.0
    assert in_batches(Sqnr(), outputs, reference, size=1 << 13) == pytest.approx(10 * math.log10(300.0**2 * 2**18))


@pytest.mark.parametrize(
    ("reference", "outputs", "sqnr"),
    [
        ([1.0, 2.0], [1.0, 2.0], math.inf),
        ([0.0, 0.0], [0.0, 0.0], math.inf),
        ([0.0, 0.0], [0.0, 1.0], -math.inf),
        ([10.0, -math.inf], [11.0, -math.inf], 20.0),
        ([10.0, -math.inf], [10.0, 5.0], -math.inf),
        ([10.0, 1.0], [10.0, math.inf], -math.inf),
        ([10.0, 1.0], [10.0, math.nan], math.nan),
    ],
)
def test_sqnr_at_its_borders(reference, outputs, sqnr):
    found = in_batches(Sqnr(), np.array([outputs]), np.array([reference]))
    assert found == pytest.approx(sqnr, nan_ok=True)


def test_cosine_at_its_borders():
    zero, one = np.zeros((1, 3)), np.ones((1, 3))
    assert in_batches(Cosine(), zero, zero) == 1.0
    assert in_batches(Cosine(), one, zero) == 0.0
    assert in_batches(Cosine(), -one, one) == -1.0


def test_first_unlike_names_the_earliest_sample():
    late, early, zeros = np.zeros((4, 2)), np.zeros((4, 2)), np.zeros((4, 2))
    late[3, 1], early[1, 0] = np.nan, np.inf
    name, bad = first_unlike({"late": late, "early": early}, {"late": zeros, "early": zeros}, 4)
    assert (name, bad.tolist()) == ("early", [False, True, False, True])
    assert first_unlike({"late": late}, {"late": late.copy()}, 4) is None
    assert first_unlike({"a": np.zeros(4), "b": np.zeros(4, np.int64)}, {"a": np.ones(4), "b": np.ones(4)}, 4) is None


METRICS = """
import numpy as np

def hits(outputs, labels):
    return outputs["y"].argmax(1) == labels["labels"]

def batch_error(outputs, labels):
    return float(np.mean(outputs["y"][:, 0]))
batch_error.lower_is_better = True

class Highest:
    def __init__(self): self.best = -1e9
    def update(self, outputs, labels): self.best = max(self.best, outputs["y"].max())
    def result(self): return self.best

def wrong_length(outputs, labels): return [1.0, 2.0]
def not_numbers(outputs, labels): return {"a": 1}
def raises(outputs, labels): return outputs["nope"]
class NoResult:
    def update(self, outputs, labels): pass
class BadInit(Highest):
    def __init__(self): raise RuntimeError("no\\nluck")
class BadResult(Highest):
    def result(self): return None
number = 3
"""


@pytest.fixture
def metrics_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(METRICS)
    return path


def user_metric(spec):
    (metric,) = resolve_metrics([spec])
    return metric


def test_user_metrics_are_averaged_over_samples(metrics_file):
    outputs, labels = RNG.normal(size=(10, 3)), RNG.integers(0, 3, 10)
    hits = user_metric(f"{metrics_file}:hits")
    assert (hits.name, hits.info.lower_is_better, hits.info.kind) == ("hits", False, MetricKind.ACCURACY)
    assert in_batches(hits.start(NO_HEADS), outputs, labels=labels, size=4) == pytest.approx(
        (outputs.argmax(1) == labels).mean()
    )
    error = user_metric(f"{metrics_file}:batch_error")
    assert error.info.lower_is_better
    # batches of 4, 4 and 2: a mean of the batches' means would be another number
    assert in_batches(error.start(NO_HEADS), outputs, size=4) == pytest.approx(outputs[:, 0].mean())
    highest = user_metric(f"{metrics_file}:Highest")
    assert in_batches(highest.start(NO_HEADS), outputs) == outputs.max()


def test_a_metric_is_found_in_an_importable_module(metrics_file, monkeypatch):
    monkeypatch.syspath_prepend(str(metrics_file.parent))
    assert user_metric("mine:hits").name == "hits"


def test_user_metrics_with_one_name_keep_apart(metrics_file, tmp_path):
    other = tmp_path / "other.py"
    other.write_text("def hits(outputs, labels): return 0.0\ndef top1(outputs, labels): return 0.0\n")
    specs = ["top1", f"{metrics_file}:hits", f"{other}:hits", f"{other}:top1", "top1"]
    names = [metric.name for metric in resolve_metrics(specs)]
    assert names == ["top1", "hits", f"{other}:hits", f"{other}:top1"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("wrong_length", "gave a list for a batch of 3"),
        ("not_numbers", "gave a dict"),
        ("raises", "failed on model.onnx, samples 0 to 2: KeyError: 'nope' .mine.py, line"),
        ("BadInit", "cannot be made: RuntimeError: no luck"),
        ("BadResult", r"result\(\) gave a NoneType"),
    ],
)
def test_what_a_user_metric_does_wrong_is_one_line_that_names_it(metrics_file, name, says):
    with pytest.raises(DataError, match=says) as caught:
        in_batches(user_metric(f"{metrics_file}:{name}").start(NO_HEADS), np.zeros((3, 2)), labels=np.zeros(3))
    assert f"metric='{name}'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("top2", "none of top1, top5"),
        ("{dir}/mine.py:absent", "has no function 'absent'"),
        ("{dir}/mine.py:number", "has no function 'number'"),
        ("{dir}/mine.py:NoResult", "needs update"),
        ("{dir}/absent.py:hits", "absent.py: does not exist"),
        ("{dir}/broken.py:hits", "raised SyntaxError"),
        ("{dir}/exits.py:hits", "raised SystemExit"),
        ("no_such_module_here:hits", "no such module"),
    ],
)
def test_metrics_that_cannot_be_had_are_usage_errors(metrics_file, spec, says):
    (metrics_file.parent / "broken.py").write_text("def hits(:\n")
    (metrics_file.parent / "exits.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(UsageError, match=says) as caught:
        resolve_metrics([spec.format(dir=metrics_file.parent)])
    assert "\n" not in str(caught.value)


def test_a_user_metric_is_nan_from_the_first_nan_on(metrics_file):
    outputs = np.zeros((4, 2), np.float32)
    outputs[2, 0] = np.nan
    metric = user_metric(f"{metrics_file}:Highest")
    assert math.isnan(in_batches(metric.start(NO_HEADS), outputs, np.zeros((4, 2), np.float32), size=1))
    assert in_batches(metric.start(NO_HEADS), outputs, size=1) == 0.0, "float has it there too"


def test_the_speedup_is_what_the_medians_beside_it_give_and_rounds_that_differ_are_called_noisy():
    slow, fast = summarize_rounds([[4_000_000, 40_000_000, 6_000_000], [2_000_000, 10_000_000, 3_000_000]])
    assert (slow.median_ms, slow.speedup) == (6.0, 1.0)
    assert (fast.median_ms, fast.speedup) == (3.0, 2.0)
    assert (fast.p10_ms, fast.p90_ms) == pytest.approx((2.2, 8.6))
    assert not fast.noisy, "it is faster in every round"
    assert summarize_rounds([[4_000_000, 9_000_000, 6_000_000], [6_000_000, 4_000_000, 3_000_000]])[1].noisy
    steady = summarize_rounds([[4_000_000 + 10 * n for n in range(30)], [2_000_000 + 7 * n for n in range(30)]])
    assert not steady[1].noisy and not steady[1].rough
    assert fast.rough, "in its rounds it is 2, 4 and 2 times as fast"
    busy = summarize_rounds([[10_000_000] * 31, [1_000_000 * (2 + n % 6) for n in range(31)]])
    assert busy[1].rough and not busy[1].noisy, "always faster, and how much is not known"


def test_size_counts_external_data_once(tmp_path: Path):
    plain = linear(tmp_path / "plain.onnx", RNG.normal(size=(40, 30)))
    assert model_size(plain) == plain.stat().st_size
    split = external(tmp_path / "split.onnx", plain)
    weights = tmp_path / "split.weights"
    assert weights.stat().st_size >= 40 * 30 * 4
    assert model_size(split) == split.stat().st_size + weights.stat().st_size
    constant = external(tmp_path / "class.onnx", predicts_class(tmp_path / "c.onnx", RNG.normal(size=(4, 3))))
    assert model_size(constant) == constant.stat().st_size + (tmp_path / "class.weights").stat().st_size


def test_size_of_what_is_no_protocol_buffer_is_the_files(tmp_path: Path):
    path = tmp_path / "m.ort"
    path.write_bytes(bytes(range(256)))
    assert model_size(path) == 256
