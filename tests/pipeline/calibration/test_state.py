"""Recurrent models: calibrated along sequences, compared each with its own state, quantised, ranked and tuned."""

from typing import ClassVar

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import qtool
from qtool.core.errors import DataError, ModelError, UsageError
from qtool.core.records.examples import EXAMPLES
from tests.support.recurrent_models import (
    LSTM_STATE,
    accumulator,
    head_weights,
    lstm,
    lstm_scores,
    sequences,
)

STATE = "total=new_total"
X = sequences()


@pytest.fixture
def model(tmp_path):
    return lstm(tmp_path / "lstm.onnx")


class Collected:
    """A metric that keeps every output that it sees, in a list for each model."""

    models: ClassVar[list[list[dict[str, np.ndarray]]]] = []

    def __init__(self):
        self.mine = []
        self.models.append(self.mine)

    def update(self, outputs, labels):  # noqa: ARG002
        self.mine.append(outputs)

    def result(self):
        return 1.0


@pytest.fixture
def outputs_of():
    """The outputs of each model on each sequence, as a metric sees them."""

    def call(reference, candidate, data, **options):
        Collected.models = []
        qtool.evaluate(reference, [candidate], data, metrics=[Collected], **options)
        return Collected.models

    return call


@pytest.mark.parametrize("threads", [1, 3])
def test_the_state_is_summed_up_over_each_sequence(tmp_path, threads):
    model = accumulator(tmp_path / "m.onnx")
    data = [{"x": x[: 5 + 3 * i]} for i, x in enumerate(X)]
    statistics = qtool.calibrate(model, data, state=STATE, threads=threads).statistics
    totals = np.concatenate([np.cumsum(row["x"], axis=0) for row in data])
    seen = statistics.tensors["new_total"]
    assert (statistics.samples, seen.count) == (4, totals.size)
    assert (seen.minimum, seen.maximum) == pytest.approx((totals.min(), totals.max()))


def test_a_constant_and_a_first_value(tmp_path):
    model = accumulator(tmp_path / "m.onnx", rate=True, batch="N")
    data = {"x": X, "rate": np.float32(0.5), "total": np.full((4, 1, 8), 10, np.float32)}
    seen = qtool.calibrate(model, data, state=STATE).statistics.tensors["new_total"]
    totals = 10 + np.cumsum(X + 0.5, axis=1)
    assert (seen.minimum, seen.maximum) == pytest.approx((totals.min(), totals.max()))


def test_any_number_of_threads_gives_the_same_bytes(model, tmp_path):
    for threads in (1, 2, 5):
        qtool.calibrate(
            model, {"x": X}, tmp_path / f"{threads}.calib", state=LSTM_STATE, threads=threads, equalize=True
        )
    first, *others = [(tmp_path / f"{threads}.calib").read_bytes() for threads in (1, 2, 5)]
    assert all(other == first for other in others)


@pytest.mark.parametrize(("count", "steps", "kept"), [(1, 100, EXAMPLES), (4, 100, EXAMPLES), (40, 3, 64), (1, 2, 2)])
def test_examples_are_steps_from_all_along_the_sequences(tmp_path, count, steps, kept):
    model = accumulator(tmp_path / "m.onnx")
    data = sequences(count, steps)
    before = np.cumsum(data, axis=1) - data
    found = []
    for example in qtool.calibrate(model, {"x": data}, state=STATE).statistics.examples:
        assert {name: array.shape for name, array in example.items()} == {"x": (1, 8), "total": (1, 8)}
        ((sequence, step),) = np.argwhere((data == example["x"]).all(axis=2))
        np.testing.assert_allclose(example["total"][0], before[sequence, step], atol=1e-4)
        found.append((sequence, step))
    assert len(found) == len(set(found)) == kept
    assert {sequence for sequence, _ in found} == set(range(min(count, EXAMPLES)))
    assert max(step for _, step in found) >= steps * 0.9 - 1


def test_large_steps_are_kept_where_there_is_room(tmp_path, monkeypatch):
    for name in ("BYTES", "_FEW_BYTES"):
        monkeypatch.setattr(f"qtool.core.records.examples.{name}", 64 * 5)  # a step is 64 bytes
    model = accumulator(tmp_path / "m.onnx")
    # half of the room for each sequence, and for all together the room
    for count, kept in ((1, 4), (3, 5)):
        assert len(qtool.calibrate(model, {"x": X[:count]}, state=STATE).statistics.examples) == kept


@pytest.mark.parametrize("calibrator", ["max", None])
def test_quantised_with_the_examples_and_compared_with_its_own_state(model, tmp_path, outputs_of, calibrator):
    candidate = tmp_path / "q.onnx"
    result = qtool.quantize(model, candidate, data={"x": X}, state=LSTM_STATE, calibrator=calibrator)
    assert result.verification.integer_layers >= 2
    # the steps that did not choose
    assert (result.verification.examples, result.verification.held_out) == (len(X) * 16 // 2, True)
    exact, quantised = outputs_of(model, candidate, {"x": X}, state=LSTM_STATE)
    for path, seen in ((model, exact), (candidate, quantised)):
        assert [set(outputs) for outputs in seen] == [{"scores"}] * 4
        for outputs, x in zip(seen, X, strict=True):
            np.testing.assert_allclose(outputs["scores"], [lstm_scores(path, x)[0]], atol=1e-6)
    evaluation = qtool.evaluate(model, [candidate], {"x": X}, state=LSTM_STATE, metrics=["sqnr"])
    wanted, found = (np.concatenate([o["scores"] for o in seen]) for seen in (exact, quantised))
    expected = 10 * np.log10((wanted**2).sum() / ((wanted - found) ** 2).sum())
    assert evaluation.candidates[0].sqnr_db == pytest.approx(expected, abs=1e-3)
    assert evaluation.candidates[0].sqnr_db_by_output == (("scores", pytest.approx(expected, abs=1e-3)),)


def test_errors_add_up_in_the_state(tmp_path):
    """Twice the input sums up to twice the output at every step: 0 dB; fed with float's state it would be less."""
    reference, double = accumulator(tmp_path / "m.onnx"), accumulator(tmp_path / "2.onnx", factor=2.0)
    evaluation = qtool.evaluate(reference, [double], {"x": X}, state=STATE, metrics=["sqnr", "mse"])
    totals = np.cumsum(X.astype(np.float64), axis=1) @ head_weights()
    (found,) = evaluation.candidates
    assert found.sqnr_db == pytest.approx(0.0, abs=1e-3)
    assert found.score("mse").value == pytest.approx((totals**2).mean(), rel=1e-4)
    assert (evaluation.samples, evaluation.steps, evaluation.states) == (4, 80, (STATE,))


def test_labels_of_steps(model):
    """One class a step; steps with a negative label are left out of accuracy and agreement."""
    scores = np.stack([lstm_scores(model, x)[0] for x in X])
    labels = scores.argmax(axis=2)
    labels[:, ::2] = (labels[:, ::2] + 1) % 3
    labels[1:, ::4] = -1
    evaluation = qtool.evaluate(model, [model], {"x": X, "labels": labels}, state=LSTM_STATE)
    assert [metric.name for metric in evaluation.metrics] == ["token_accuracy"]
    share = (scores.argmax(axis=2) == labels)[labels >= 0].mean()
    assert evaluation.float_model.score("token_accuracy").value == pytest.approx(share)
    assert evaluation.candidates[0].agreement == 1.0
    assert evaluation.class_output == "scores"


def test_agreement_is_of_steps(model, tmp_path):
    other = tmp_path / "q.onnx"
    qtool.quantize(model, other, data={"x": X}, state=LSTM_STATE, calibrator="max", bias_correction="off")
    evaluation = qtool.evaluate(model, [other], {"x": X}, state=LSTM_STATE)
    classes = [np.stack([lstm_scores(path, x)[0].argmax(axis=1) for x in X]) for path in (model, other)]
    assert evaluation.candidates[0].agreement == pytest.approx((classes[0] == classes[1]).mean())


def test_an_output_that_is_all_there_is_counts(tmp_path):
    """Where every output is a state they are compared: here the sum itself."""
    paths = [accumulator(tmp_path / f"{factor}.onnx", factor=factor) for factor in (1.0, 1.5)]
    for path in paths:
        proto = onnx.load(path)
        del proto.graph.output[0], proto.graph.node[2]
        onnx.save(proto, path)
    (found,) = qtool.evaluate(paths[0], [paths[1]], {"x": X}, state=STATE).candidates
    assert found.sqnr_db_by_output == (("new_total", pytest.approx(10 * np.log10(1 / 0.25), abs=1e-3)),)


def test_latency_is_of_one_step(model):
    evaluation = qtool.evaluate(model, [model], {"x": X}, state=LSTM_STATE, latency=True, latency_runs=2)
    assert evaluation.latency is not None and evaluation.latency.batch == 1
    assert evaluation.candidates[0].latency is not None


def test_nan_names_the_step(model, tmp_path):
    data = {"x": X.copy()}
    data["x"][2, 7:9] = 3e38
    with pytest.raises(DataError, match=r"the arrays, sample 2, step 7: .*layer"):
        qtool.calibrate(model, data, state=LSTM_STATE)
    sums = accumulator(tmp_path / "a.onnx")
    # the output is Inf from step 7 on, which nothing quantises; what the state becomes of it is quantised
    with pytest.raises(DataError, match=r"the arrays, sample 2, step 8: NaN or Inf is born in layer 'new_total'"):
        qtool.calibrate(sums, data, state=STATE)
    assert qtool.evaluate(sums, [sums], data, state=STATE).candidates[0].sqnr_db == np.inf


def test_an_output_that_grows_must_be_a_state(tmp_path):
    def info(name, *shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [helper.make_node("Concat", ["past", "x"], ["present"], axis=0), helper.make_node("Relu", ["present"], ["y"])],
        "g",
        [info("x", 1, 8), info("past", "P", 8)],
        [info("y", "Q", 8), info("present", "Q", 8)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"output 'y' is \[1, 8\] at the first step, \[2, 8\] later"):
        qtool.evaluate(tmp_path / "m.onnx", [tmp_path / "m.onnx"], {"x": X}, state="past=present")


@pytest.mark.parametrize("threads", [1, 2])
def test_sensitivity_takes_each_step_from_the_state_of_float(model, threads):
    labels = np.zeros((4, 20), int)
    labels[:, :10] = -1
    statistics = qtool.calibrate(model, {"x": X}, state=LSTM_STATE).statistics
    result = qtool.sensitivity(
        model, {"x": X, "labels": labels}, calibration=statistics, state=LSTM_STATE, calibrator="max", threads=threads
    )
    scores = np.stack([lstm_scores(model, x)[0] for x in X])
    assert (result.samples, result.metric.name) == (80, "token_accuracy")
    assert result.float_value == pytest.approx((scores.argmax(axis=2) == 0)[:, 10:].mean())
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    steps = {"x": [], "h": [], "c": []}
    for x in X:
        h = c = np.zeros((1, 1, 16), np.float32)
        for row in x:
            for name, array in (("x", row[None]), ("h", h), ("c", c)):
                steps[name].append(array)
            _, h, c = session.run(None, {"x": row[None], "h": h, "c": c})
    # the same steps as plain samples, with float's states among the inputs
    plain = qtool.sensitivity(
        model, {name: np.stack(a) for name, a in steps.items()}, calibration=statistics, calibrator="max"
    )
    assert result.quantized.sqnr_db == pytest.approx(plain.quantized.sqnr_db, abs=1e-3)
    assert len(result.layers) >= 2
    wanted = {layer.name: layer.alone.sqnr_db for layer in plain.layers}
    assert {layer.name: layer.alone.sqnr_db for layer in result.layers} == pytest.approx(wanted, abs=1e-3)


def test_tune(model, tmp_path):
    data = {"x": sequences(8, 10)}
    data["labels"] = np.stack([lstm_scores(model, x)[0].argmax(axis=1) for x in data["x"]])
    data["labels"][:, 0] = -1
    result = qtool.tune(model, data, tmp_path / "t.onnx", state=LSTM_STATE, max_drop=0.5)
    assert (result.met, result.metric, result.evaluation.samples, result.evaluation.steps) == (
        True,
        "token_accuracy",
        2,
        20,
    )
    again = qtool.tune(
        model, data, tmp_path / "u.onnx", state=LSTM_STATE, max_drop=0.0, min_sqnr=200.0, max_float_macs=1.0
    )
    assert any("float: " in step.what for step in again.steps) and not again.met


def test_a_state_that_is_not_declared(model):
    for call in (
        lambda: qtool.calibrate(model, {"x": X}),
        lambda: qtool.evaluate(model, [model], {"x": X}),
    ):
        with pytest.raises(DataError, match=r"no array for the model's input 'h'.*state='h=hn'"):
            call()


def test_states_of_another_model_are_refused(model):
    with pytest.raises(UsageError, match="no output 'new_total'"):
        qtool.evaluate(model, [model], {"x": X}, state="h=new_total")
