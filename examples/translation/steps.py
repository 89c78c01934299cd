"""The steps of a decoder as DATA: what it is really fed while greedy or beam search translates.

    qtool calibrate decoder_with_past_model.onnx --data steps.py:greedy -o decoder_with_past.calib

A function without arguments that yields a dictionary for each run of the model is DATA of every command. For models of
your own change the files and tokens at the top; the names of inputs and outputs are those of Hugging Face's optimum.
`qtool calibrate --pipeline numbers.toml` does the same for all three models, without a line of Python.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

HERE = Path(__file__).parent
DATA, START, END, LONGEST, BEAMS = "calib.jsonl", 0, 1, 40, 3
Cache = dict[str, np.ndarray]


def greedy() -> Iterator[Cache]:
    """Yield what the decoder is fed behind the first step, token by token."""
    return _steps(1)


def beam() -> Iterator[Cache]:
    """Yield the same for each of several hypotheses."""
    return _steps(BEAMS)


def _steps(beams: int) -> Iterator[Cache]:
    encoder, first, later = (
        onnxruntime.InferenceSession(HERE / f"{name}_model.onnx")
        for name in ("encoder", "decoder", "decoder_with_past")
    )
    tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    for line in (HERE / DATA).read_text(encoding="utf-8").splitlines():
        ids = np.array([tokenizer.encode(json.loads(line)["text"]).ids])
        mask = np.ones_like(ids)
        encoded = encoder.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        fed = {"input_ids": np.array([[START]]), "encoder_hidden_states": encoded, "encoder_attention_mask": mask}
        # (log-probability, tokens, cache) of each hypothesis
        live = _grown(0.0, (), {}, _run(first, fed), beams)
        for _ in range(LONGEST):
            live = [one for one in sorted(live, key=lambda one: -one[0])[:beams] if one[1][-1] != END]
            grown = []
            for score, tokens, cache in live:
                fed = {"input_ids": np.array([tokens[-1:]]), "encoder_attention_mask": mask, **cache}
                yield fed
                grown += _grown(score, tokens, cache, _run(later, fed), beams)
            live = grown


def _run(session: onnxruntime.InferenceSession, fed: Cache) -> Cache:
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, fed), strict=True))


def _grown(
    score: float, tokens: tuple[int, ...], cache: Cache, outputs: Cache, beams: int
) -> list[tuple[float, tuple[int, ...], Cache]]:
    """The likeliest hypotheses behind one; the later decoder leaves the encoder's part of the cache as it is."""
    scores = outputs.pop("logits")[0, -1].astype(np.float64)
    likely = scores - scores.max() - np.log(np.exp(scores - scores.max()).sum())
    new = {name.replace("present.", "past_key_values."): array for name, array in outputs.items()}
    best = np.argsort(-likely, kind="stable")[:beams].tolist()
    return [(score + float(likely[token]), (*tokens, token), {**cache, **new}) for token in best]
