"""Encoders that hear a sample in chunks, their state going on from one to the next."""

import numpy as np
import pytest

from qtool.core.errors import DataError, UsageError
from qtool.core.state import State
from qtool.core.tensorspec import InputSpec
from qtool.generation.description import LoopSettings
from qtool.generation.loops import ctc, transducer
from qtool.generation.streams import check_carried, fed_by_data, heard
from tests.generation.test_loops import F32, I64, Stub

STATE = (State("cached_*", "new_cached_*"),)
FRAMES = np.arange(1, 11, dtype=np.float32).reshape(1, 10, 1)


def summing(shape=(1, 4, 1), more=()):
    """Says of each frame the sum of all so far, which is its state; lengths are what it is told."""

    def run(x, cached_sum, **_):
        so_far = cached_sum + np.cumsum(x, axis=1)
        return {"new_cached_sum": so_far[:, -1:], "said": so_far}

    part = Stub("encoder", [("x", F32, shape), ("cached_sum", F32, ("N", 1, 1)), *more], [], run)
    part.outputs = [InputSpec("new_cached_sum", F32, ("N", 1, 1)), InputSpec("said", F32, (1, 4, 1))]
    return part


def settings(**given):
    return LoopSettings(state=STATE, **given)


def test_the_state_goes_on_and_the_last_frame_fills_the_last_chunk_up():
    part = summing()
    said = heard(part, {"x": FRAMES}, settings(chunk=4))
    assert said.reshape(-1).tolist() == [1, 3, 6, 10, 15, 21, 28, 36, 45, 55, 65, 75]
    assert [fed["x"].reshape(-1).tolist() for fed in part.fed] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 10, 10]]
    assert [float(fed["cached_sum"].item()) for fed in part.fed] == [0, 10, 36]
    # the next sample begins anew
    heard(part, {"x": FRAMES}, settings(chunk=4))
    assert float(part.fed[3]["cached_sum"].item()) == 0


@pytest.mark.parametrize(
    ("chunk", "shift", "chunks"),
    [
        (4, 3, [[1, 2, 3, 4], [4, 5, 6, 7], [7, 8, 9, 10]]),
        (4, 2, [[1, 2, 3, 4], [3, 4, 5, 6], [5, 6, 7, 8], [7, 8, 9, 10]]),
        (6, 5, [[1, 2, 3, 4, 5, 6], [6, 7, 8, 9, 10, 10]]),
        (10, 10, [list(range(1, 11))]),
        (12, 12, [[*range(1, 11), 10, 10]]),
    ],
)
def test_chunks_may_overlap_and_every_frame_is_in_one(chunk, shift, chunks):
    part = summing(("N", "T", 1))
    heard(part, {"x": FRAMES}, settings(chunk=chunk, shift=shift))
    assert [fed["x"].reshape(-1).tolist() for fed in part.fed] == chunks


def test_channels_may_stand_in_front_and_lengths_are_those_of_a_chunk():
    part = summing((1, 3, "T"), more=[("x_lens", I64, ("N",))])
    part._function = lambda x, **_: {"new_cached_sum": np.zeros((1, 1, 1), np.float32), "said": x.transpose(0, 2, 1)}
    assert heard(part, {"x": np.ones((1, 3, 6), np.float32)}, settings(chunk=4)).shape == (1, 8, 3)
    assert [(fed["x"].shape, fed["x_lens"].tolist()) for fed in part.fed] == [((1, 3, 4), [4])] * 2


def test_without_chunks_a_state_begins_at_zeros_and_data_give_the_rest():
    part = summing(("N", "T", 1))
    assert heard(part, {"x": FRAMES}, settings()).shape == (1, 10, 1) and len(part.fed) == 1
    assert [spec.name for spec in fed_by_data(part, part.inputs, settings())] == ["x"]


def test_data_hold_all_frames_of_a_part_that_fixes_its_chunk():
    part = summing(more=[("x_lens", I64, (1,))])
    (given,) = fed_by_data(part, part.inputs, settings(chunk=4))
    assert (given.name, given.shape) == ("x", (1, None, 1))
    with pytest.raises(UsageError, match=r"'x' is float32 \[1, 4, 1\]: no axis .* is free or 5 long; write"):
        fed_by_data(part, part.inputs, settings(chunk=5))


def test_a_sample_without_frames_is_refused():
    with pytest.raises(DataError, match="part 'encoder': a sample has no frames"):
        heard(summing(), {"x": FRAMES[:, :0]}, settings(chunk=4))


def test_ctc_and_transducer_say_the_same_in_chunks_as_at_once():
    frames = np.eye(4, dtype=np.float32)[[0, 1, 1, 0, 1, 2, 2, 3]][None]

    def decoder(y):
        return {"said": y[:, -1:].astype(np.float32)}

    def joiner(encoder_out, decoder_out):
        """The class of the frame once, unless it was said last."""
        token = int(encoder_out.argmax())
        return {"logit": np.eye(4)[0 if token == int(decoder_out[0, 0]) else token]}

    def parts():
        said = Stub("encoder", [("x", F32, (1, "T", 4))], ["e"], lambda x: {"e": x})
        others = {
            "decoder": Stub("decoder", [("y", I64, ("N", 2))], ["said"], decoder),
            "joiner": Stub("joiner", [("encoder_out", F32, (1, 4)), ("decoder_out", F32, (1, 1))], ["logit"], joiner),
        }
        return {"encoder": said, **others}

    for given in (LoopSettings(), LoopSettings(chunk=2), LoopSettings(chunk=3, shift=3)):
        assert ctc({"one": parts()["encoder"]}, {"x": frames}, given) == [1, 1, 2, 3]
        assert transducer(parts(), {"x": frames}, given) == [1, 2, 3]


def test_a_state_may_be_one_of_any_part_and_pairs_something():
    other = Stub("decoder", [("y", I64, (1, 2)), ("h", F32, (1, 1))], [], None)
    other.outputs = [InputSpec("hn", F32, (1, 1)), InputSpec("said", F32, (1, 1))]
    check_carried("p.toml", (*STATE, State("h", "hn")), [summing(), other])
    with pytest.raises(UsageError, match=r"p.toml: settings.state 'c\*=n\*': the model has an input 'cached_sum', but"):
        check_carried("p.toml", (State("c*", "n*"),), [summing(), other])
    with pytest.raises(UsageError, match=r"settings.state 'h=said'.* is declared twice"):
        check_carried("p.toml", (State("h", "hn"), State("h", "said")), [summing(), other])
    with pytest.raises(UsageError, match=r"settings.state 'y=hn'"):
        check_carried("p.toml", (State("y", "hn"),), [summing(), other])
