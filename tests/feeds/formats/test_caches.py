"""Decoders with caches that grow: patterns of states, caches without an entry, inputs as long as the cache."""

import numpy as np
import onnxruntime
import pytest

import qtool
from qtool.core.errors import DataError, UsageError
from qtool.core.state import State, expanded_states, growing_axes
from qtool.core.tensorspec import InputSpec
from qtool.feeds import open_feeds
from qtool.quantization.quantize import quantize
from qtool.runtime.session import Session
from tests.support.decoders import HEAD, HEADS, STATE, cached_decoder, token_sequences

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)


def spec(name, *shape, dtype=F32):
    return InputSpec(name, dtype, shape)


def names(*several):
    return [spec(name, "batch", 2) for name in several]


def test_a_star_stands_for_the_same_characters_in_both_names():
    inputs = names("ids", "past.0.decoder.key", "past.0.encoder.key", "past.1.decoder.key", "h")
    outputs = names("logits", "present.0.decoder.key", "present.1.decoder.key", "hn", "0:decoder")

    def found(*texts):
        return [str(one) for one in expanded_states([State.parse(text) for text in texts], inputs, outputs)]

    both = ["past.0.decoder.key=present.0.decoder.key", "past.1.decoder.key=present.1.decoder.key"]
    # the encoder's has no such output: data feed it
    assert found("past.*=present.*") == both
    assert found("h=hn", "past.*.decoder.*=present.*.decoder.*") == ["h=hn", *both]
    assert found("past.0.decoder.key=hn", "past.*=present.*") == ["past.0.decoder.key=hn", both[1]]
    assert found("past.*.*.key=*:*") == ["past.0.decoder.key=0:decoder"]


def test_a_dot_is_a_dot():
    with pytest.raises(UsageError, match=r"no input of the model has such a name .*write state='past_key_values\.\*"):
        expanded_states(
            [State("past.*", "present.*")], names("ids", "past_key_values.0.key"), names("logits", "present.0.key")
        )


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("past.*.*=present.*", "must have as many"),
        ("past.*=then.*", "has an input 'past.0.key', but no output 'then.0.key'; write state='past.*=present.*'"),
    ],
)
def test_patterns_that_pair_nothing_say_what_would(state, message):
    with pytest.raises(UsageError) as error:
        expanded_states([State.parse(state)], names("ids", "past.0.key"), names("logits", "present.0.key"))
    assert message in str(error.value)


def test_an_axis_grows_that_the_output_names_otherwise():
    inputs = [spec("ids", "batch", "new", dtype=I64), spec("past", "batch", 2, "old", 4), spec("h", 1, "n", 8)]
    outputs = [spec("present", "batch", 2, "old + new", 4), spec("hn", 1, "n", 8)]
    states = [State("past", "present"), State("h", "hn")]
    assert growing_axes(states, inputs, outputs) == {"past": frozenset({2}), "h": frozenset()}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return cached_decoder(tmp_path_factory.mktemp("decoder") / "decoder.onnx")


def opened(decoder, data, **options):
    session = Session(decoder)
    return open_feeds(data, session.inputs, outputs=session.output_specs, state=STATE, **options)


def test_a_cache_begins_without_an_entry_and_the_mask_grows_with_it(decoder):
    feeds = opened(decoder, token_sequences(2, 3))
    batch = next(iter(feeds))
    assert [str(state) for state in feeds.states] == [f"past_key_values.0.{w}=present.0.{w}" for w in ("key", "value")]
    assert batch.inputs["past_key_values.0.key"].shape == (1, HEADS, 0, HEAD)
    assert batch.inputs["input_ids"].shape == (3, 1, 1)
    assert [mask.tolist() for mask in batch.inputs["attention_mask"]] == [[[1]], [[1, 1]], [[1, 1, 1]]]


def test_a_cache_that_is_given_has_its_own_entries_in_the_mask(decoder):
    past = {f"past_key_values.0.{w}": np.zeros((1, 1, HEADS, 2, HEAD), np.float32) for w in ("key", "value")}
    data = token_sequences(1, 3) | past | {"attention_mask": np.array([[0, 1, 1, 1, 1]])}
    batch = next(iter(opened(decoder, data)))
    masks = [mask.tolist() for mask in batch.inputs["attention_mask"]]
    assert masks == [[[0, 1, 1]], [[0, 1, 1, 1]], [[0, 1, 1, 1, 1]]]


def test_the_batch_of_a_cache_is_that_of_the_data(decoder):
    steps = np.empty(2, object)
    steps[:] = [np.ones((3, 1), np.int64), np.ones((3, 2), np.int64)]
    batch = next(iter(opened(decoder, [{"input_ids": np.zeros((2, 3, 1), np.int64), "attention_mask": steps}])))
    assert batch.inputs["past_key_values.0.key"].shape == (3, HEADS, 0, HEAD)
    assert [mask.shape for mask in batch.inputs["attention_mask"]] == [(3, 1), (3, 2)]


def test_a_step_of_another_shape_is_refused(decoder):
    steps = np.empty(2, object)
    steps[:] = [np.ones(1, np.int64), np.ones(2, np.int64)]
    with pytest.raises(DataError, match=r"a step's 'attention_mask' is int64 \[1\]"):
        list(opened(decoder, [{"input_ids": np.zeros((2, 1, 1), np.int64), "attention_mask": steps}]))


def test_steps_with_a_cache_compute_what_one_run_does(decoder):
    """Each step's scores are those of the last token of all tokens so far, at once, without a cache."""
    data = token_sequences(1, 4)
    seen = []
    qtool.evaluate(
        decoder, [decoder], data, metrics=lambda outputs, _: seen.append(outputs["logits"]) or 1.0, state=STATE
    )
    session = onnxruntime.InferenceSession(decoder)
    empty = np.zeros((1, HEADS, 0, HEAD), np.float32)
    for step in range(1, 5):
        fed = {name: data[name][:, :step] for name in ("input_ids", "attention_mask")}
        fed |= {f"past_key_values.0.{w}": empty for w in ("key", "value")}
        whole = session.run(["logits"], fed)[0][0, -1]
        np.testing.assert_allclose(seen[0][0, step - 1].reshape(-1), whole, atol=1e-5)


def test_calibration_counts_every_step_of_a_growing_cache(decoder, tmp_path):
    data = token_sequences(6, 5)
    found = qtool.calibrate(decoder, data, tmp_path / "d.calib", state=STATE)
    caches = [run["past_key_values.0.key"].shape[2] for run in found.statistics.examples]
    assert set(caches) == set(range(5)) and found.statistics.samples == 6
    result = quantize(decoder, tmp_path / "d.int8.onnx", calibration=tmp_path / "d.calib", form="static")
    assert result.verification.output_sqnr_db > 15
    judged = qtool.evaluate(decoder, [tmp_path / "d.int8.onnx"], token_sequences(4, 5, 1), state=STATE)
    assert judged.metrics[0].name == "token_accuracy" and judged.steps == 20


@pytest.mark.long
def test_sensitivity_and_tune_take_patterns_too(decoder, tmp_path):
    data = token_sequences(8, 4)
    qtool.calibrate(decoder, data, tmp_path / "d.calib", state=STATE)
    ranked = qtool.sensitivity(decoder, data, calibration=tmp_path / "d.calib", state=STATE)
    assert {row.name for row in ranked.layers} >= {"up0_proj", "down0_proj"}
    tuned = qtool.tune(decoder, data, tmp_path / "t.onnx", max_drop="90%", state=STATE)
    assert tuned.met and (tmp_path / "t.onnx").exists()


def test_a_hook_yields_the_steps_themselves(decoder):
    def steps():
        for past in range(3):
            cache = np.zeros((1, HEADS, past, HEAD), np.float32)
            yield {
                "input_ids": np.zeros((1, 1), np.int64),
                "attention_mask": np.ones((1, past + 1), np.int64),
                "past_key_values.0.key": cache,
                "past_key_values.0.value": cache,
            }

    assert qtool.calibrate(decoder, steps).statistics.samples == 3
