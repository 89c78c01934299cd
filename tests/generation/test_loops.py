"""The loops, on parts whose answers are known, in each form in which exporters write decoders."""

import numpy as np
import pytest

from qtool.core.errors import DataError, UsageError
from qtool.core.state import State
from qtool.core.tensorspec import InputSpec
from qtool.generation.description import LoopSettings
from qtool.generation.loops import beam, ctc, find_loop, greedy, transducer

F32, I64, BOOL = np.dtype(np.float32), np.dtype(np.int64), np.dtype(bool)
END, TOKENS = 1, 6
TABLE = np.log(
    np.array(
        [
            # after 0: 2 is likeliest, but what follows 3 is surer
            [0.01, 0.01, 0.50, 0.46, 0.01, 0.01],
            [1 / 6] * 6,
            [0.05, 0.30, 0.10, 0.15, 0.20, 0.20],
            [0.01, 0.01, 0.01, 0.01, 0.95, 0.01],
            [0.01, 0.95, 0.01, 0.01, 0.01, 0.01],
            [0.01, 0.95, 0.01, 0.01, 0.01, 0.01],
        ]
    )
).astype(np.float32)
SETTINGS = LoopSettings(start=(0,), end=(END,), max_tokens=8, beams=3)


class Stub:
    """A part made of a function, which keeps what it was fed."""

    def __init__(self, name, inputs, outputs, function):
        self.name, self._function, self.fed = name, function, []
        self.inputs = [InputSpec(*one) for one in inputs]
        self.outputs = [InputSpec(one, F32, None) for one in outputs]

    def __call__(self, feeds):
        assert set(feeds) == {spec.name for spec in self.inputs}
        self.fed.append(dict(feeds))
        return self._function(**{name.replace(".", "_"): np.asarray(array) for name, array in feeds.items()})

    def takes(self, name):
        return any(spec.name == name for spec in self.inputs)


IDS = ("input_ids", I64, ("batch", "length"))
PAST = ("past_key_values.0.key", F32, ("batch", 1, "past", 1))
ENCODED = ("encoder_hidden_states", F32, ("batch", "source", 1))
INPUTS = {"input_ids": np.array([[3, 4]]), "attention_mask": np.array([[1, 1]])}


def encoder():
    spec = (IDS, ("attention_mask", I64, ("batch", "length")))
    return Stub("encoder", spec, ["last_hidden_state"], lambda input_ids, **_: {"last_hidden_state": input_ids * 10.0})


def grown(ids, past):
    return np.concatenate([past, ids.reshape(1, 1, -1, 1).astype(np.float32)], 2)


def cached(ids, past):
    """Scores and the cache, which holds all tokens so far."""
    return {"logits": TABLE[ids], "present.0.key": grown(ids, past)}


EMPTY = np.zeros((1, 1, 0, 1), np.float32)


def whole():
    def run(input_ids, encoder_hidden_states):
        assert encoder_hidden_states.tolist() == [[30, 40]]
        return {"logits": TABLE[input_ids]}

    return {"encoder": encoder(), "decoder": Stub("decoder", (IDS, ENCODED), ["logits"], run)}


def split():
    mask = ("encoder_attention_mask", I64, ("batch", "source"))
    first = Stub(
        "decoder",
        (IDS, ENCODED, mask),
        ["logits", "present.0.key"],
        lambda input_ids, **_: cached(input_ids, EMPTY),
    )
    later = Stub(
        "decoder_with_past",
        (IDS, mask, PAST),
        ["logits", "present.0.key"],
        lambda input_ids, past_key_values_0_key, **_: cached(input_ids, past_key_values_0_key),
    )
    return {"encoder": encoder(), "decoder": first, "decoder_with_past": later}


def both_in_one():
    """As optimum merges decoders: a flag, and nothing for the encoder's part of the cache once that is there."""
    past = ("past_key_values.0.encoder.key", F32, ("batch", 1, "source", 1))

    def run(input_ids, use_cache_branch, past_key_values_0_key, past_key_values_0_encoder_key, **_):
        kept = past_key_values_0_encoder_key
        assert kept.tolist() == ([[[[7], [7]]]] if use_cache_branch[0] else [[[]]])
        other = EMPTY if use_cache_branch[0] else np.full((1, 1, 2, 1), 7, np.float32)
        return {**cached(input_ids, past_key_values_0_key), "present.0.encoder.key": other}

    inputs = (IDS, ENCODED, PAST, past, ("use_cache_branch", BOOL, (1,)))
    names = ["logits", "present.0.key", "present.0.encoder.key"]
    return {"encoder": encoder(), "decoder": Stub("decoder", inputs, names, run)}


FORMS = pytest.mark.parametrize("parts", [whole, split, both_in_one])


@FORMS
def test_greedy_takes_the_highest_score_each_time(parts):
    made = parts()
    assert greedy(made, INPUTS, SETTINGS) == [2]
    last = made.get("decoder_with_past", made["decoder"]).fed[-1]
    assert last["input_ids"].tolist() == ([[0, 2]] if parts is whole else [[2]])
    if parts is not whole:
        assert last["past_key_values.0.key"].reshape(-1).tolist() == [0]


@FORMS
def test_a_beam_finds_what_is_likelier_in_all(parts):
    assert beam(parts(), INPUTS, SETTINGS) == [3, 4]


@FORMS
def test_a_beam_of_one_is_greedy(parts):
    settings = LoopSettings(end=(END,), beams=1, max_tokens=8)
    assert beam(parts(), INPUTS, settings) == greedy(parts(), INPUTS, settings)


@FORMS
def test_a_beam_says_the_likeliest_of_all_sequences(parts):
    """Against a search of every sequence of up to three tokens."""
    settings = LoopSettings(end=(END,), beams=TOKENS, max_tokens=3, length_penalty=0.0)
    scores = TABLE.astype(np.float64) - np.log(np.exp(TABLE.astype(np.float64)).sum(1, keepdims=True))
    best = max(
        (sum(scores[a, b] for a, b in zip((0, *said), (*said, END), strict=True)), said)
        for said in [(), *((a,) for a in range(TOKENS)), *((a, b) for a in range(TOKENS) for b in range(TOKENS))]
        if END not in said
    )
    assert beam(parts(), INPUTS, settings) == list(best[1])


def test_a_decoder_alone_goes_on_from_its_prompt():
    inputs = (IDS, ("attention_mask", I64, ("batch", "all")), ("position_ids", I64, ("batch", "length")), PAST)
    decoder = Stub(
        "decoder",
        inputs,
        ["logits", "present.0.key"],
        lambda input_ids, past_key_values_0_key, **_: cached(input_ids, past_key_values_0_key),
    )
    assert greedy({"decoder": decoder}, {"input_ids": np.array([[5, 3]])}, SETTINGS) == [4]
    first, second = decoder.fed
    assert (first["position_ids"].tolist(), second["position_ids"].tolist()) == ([[0, 1]], [[2]])
    assert (first["attention_mask"].shape, second["attention_mask"].shape) == ((1, 2), (1, 3))
    assert (first["past_key_values.0.key"].shape, second["past_key_values.0.key"].shape) == ((1, 1, 0, 1), (1, 1, 2, 1))


def test_an_input_that_nothing_feeds_is_named():
    parts = whole()
    parts["decoder"].inputs.append(InputSpec("language", I64, (1,)))
    with pytest.raises(UsageError, match=r"nothing feeds its input 'language'.*loop = 'file.py:FUNCTION'"):
        greedy(parts, INPUTS, SETTINGS)


def test_a_decoder_may_begin_with_several_tokens_and_end_with_any_of_several():
    made = split()
    assert greedy(made, INPUTS, LoopSettings(start=(2, 3), end=(1, 4))) == []
    assert made["decoder"].fed[0]["input_ids"].tolist() == [[2, 3]]
    assert greedy(split(), INPUTS, LoopSettings(start=(2, 3), end=(END,))) == [4]


def test_greedy_ends_where_too_much_is_said():
    endless = np.full((TOKENS, TOKENS), -9, np.float32)
    endless[:, 5] = 0
    spec = (IDS, ENCODED)
    parts = {
        "encoder": encoder(),
        "decoder": Stub("decoder", spec, ["logits"], lambda input_ids, **_: {"y": endless[input_ids]}),
    }
    assert greedy(parts, INPUTS, SETTINGS) == [5] * 8


def test_ctc_merges_repeats_and_drops_the_blank():
    said = np.eye(4, dtype=np.float32)[[3, 1, 1, 3, 1, 2, 2]][None]
    parts = {"any": Stub("any", [("x", F32, (1, "T", 1))], ["y"], lambda **_: {"y": said})}
    assert ctc(parts, {"x": np.zeros((1, 7, 1))}, LoopSettings(blank=-1)) == [1, 1, 2]


def test_a_transducer_goes_on_in_a_frame_until_the_blank():
    """The joiner says the frame's tokens that have not been said: 2 3 | nothing | 4."""
    frames = np.array([[[2, 3], [0, 0], [4, 0]]], np.float32)

    def decoder(y, y_lens, h):
        assert y_lens.tolist() == [2]
        return {"said": y[:, -1:].astype(np.float32) + 0 * h, "hn": h + 1}

    def joiner(encoder_out, decoder_out):
        wanted = [int(token) for token in encoder_out[0] if token > decoder_out[0, 0]]
        return {"logit": np.eye(5)[wanted[:1] or [0]]}

    parts = {
        "encoder": Stub("encoder", [("x", F32, (1, "T", 2))], ["e"], lambda **_: {"e": frames, "n": np.array([3])}),
        "decoder": Stub(
            "decoder", [("y", I64, ("N", 2)), ("y_lens", I64, ("N",)), ("h", F32, (1, "N"))], ["said", "hn"], decoder
        ),
        "joiner": Stub("joiner", [("decoder_out", F32, ("N", 1)), ("encoder_out", F32, ("N", 2))], ["logit"], joiner),
    }
    settings = LoopSettings(state=(State("h", "hn"),), max_tokens=5)
    assert transducer(parts, {"x": frames}, settings) == [2, 3, 4]
    assert [fed["y"].tolist() for fed in parts["decoder"].fed] == [[[0, 0]], [[0, 2]], [[2, 3]], [[3, 4]]]
    assert [float(fed["h"][0, 0]) for fed in parts["decoder"].fed] == [0, 1, 2, 3]


def test_a_loop_of_ones_own_that_fails_is_one_line(tmp_path):
    (tmp_path / "own.py").write_text("def loop(parts, inputs):\n    return parts['nobody']\n")
    with pytest.raises(DataError, match=r"own.py:loop: raised KeyError: 'nobody' \(own.py, line 2\)"):
        find_loop(f"{tmp_path}/own.py:loop", SETTINGS)({}, {})
    with pytest.raises(UsageError, match="has no function 'lop'"):
        find_loop(f"{tmp_path}/own.py:lop", SETTINGS)
