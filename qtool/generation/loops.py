"""The loops: parts and the inputs of a sample -> what is said. A loop of a user's own has the same two arguments.

`greedy` takes the token of the highest score, `beam` keeps several hypotheses, `ctc` merges what a recogniser says of
each frame, `transducer` asks a joiner frame by frame.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from qtool.core.errors import DataError, UsageError
from qtool.core.tensorspec import InputSpec
from qtool.core.text import amount
from qtool.evaluation.metrics.transcripts import merged
from qtool.feeds.formats.functions import load_function, raised, refuse_to_stop
from qtool.generation.caches import OWN_LOOP, Decoding, Hypothesis, paired
from qtool.generation.description import LoopSettings
from qtool.generation.part import PartModel
from qtool.generation.streams import first_state, heard

Parts = Mapping[str, PartModel]
Inputs = Mapping[str, np.ndarray]
Loop = Callable[[Parts, Inputs], Any]


def find_loop(name: str, settings: LoopSettings) -> Loop:
    """Return the loop that `greedy`, `beam`, `ctc`, `transducer` or `file.py:FUNCTION` names. Raises `UsageError`."""
    if name in _LOOPS:
        return lambda parts, inputs: _LOOPS[name](parts, inputs, settings)
    try:
        function = load_function(name)
    except DataError as error:
        raise UsageError(f"loop {error.marked}") from error

    def run(parts: Parts, inputs: Inputs) -> Any:
        try:
            return function(parts, inputs)
        except (DataError, UsageError):
            raise
        except BaseException as error:
            refuse_to_stop(error)
            raise DataError(f"{name}: raised {raised(error)}; correct the loop") from error

    return run


def greedy(parts: Parts, inputs: Inputs, settings: LoopSettings) -> list[int]:
    """Return the tokens, each the one of the highest score, in front of the end. Raises `DataError`, `UsageError`."""
    decoding = Decoding(parts, settings.state, inputs)
    so_far = _begin(decoding, settings)
    said: list[int] = []
    while len(said) < settings.max_tokens:
        scores, cache = decoding.step(so_far)
        token = int(scores.argmax())
        if token in settings.end:
            break
        said.append(token)
        so_far = Hypothesis((*so_far.tokens, token), 1, cache=cache)
    return said


def beam(parts: Parts, inputs: Inputs, settings: LoopSettings) -> list[int]:
    """Return the tokens of the best of several hypotheses: log-probability over length to the `length_penalty`.

    Raises:
        DataError, UsageError: as `greedy`.
    """
    decoding = Decoding(parts, settings.state, inputs)
    begun = _begin(decoding, settings)
    skipped = len(begun.tokens)
    live, ended = [begun], []

    def merit(one: Hypothesis) -> float:
        return float(one.score / max(len(one.tokens) - skipped, 1) ** settings.length_penalty)

    for _ in range(settings.max_tokens):
        grown = []
        for one in live:
            scores, cache = decoding.step(one)
            likely = scores - scores.max()
            likely -= np.log(np.exp(likely).sum())
            for token in np.argsort(-likely, kind="stable")[: settings.beams].tolist():
                grown.append(Hypothesis((*one.tokens, token), 1, one.score + float(likely[token]), cache))
        # of equal scores the earlier hypothesis
        best = sorted(grown, key=lambda one: -one.score)[: settings.beams]
        ended += [one for one in best if one.tokens[-1] in settings.end]
        live = [one for one in best if one.tokens[-1] not in settings.end]
        if not live or len(ended) >= settings.beams:
            break
    tokens = max(ended or live, key=merit).tokens[skipped:]
    return list(tokens[:-1] if tokens and tokens[-1] in settings.end else tokens)


def _begin(decoding: Decoding, settings: LoopSettings) -> Hypothesis:
    tokens = decoding.prompt or settings.start
    return Hypothesis(tokens, len(tokens))


def ctc(parts: Parts, inputs: Inputs, settings: LoopSettings) -> list[int]:
    """Return the classes of the frames, repeats merged and blanks dropped (Graves et al. 2006).

    With `chunk` the part takes the frames chunk by chunk, its state going on where `settings.state` says so.

    Raises:
        DataError, UsageError: the part does not run, or has no output [1, frames, classes].
    """
    (part,) = parts.values()
    scores = heard(part, inputs, settings)
    blank = settings.blank % scores.shape[-1]
    return [int(token) for token in merged(scores[0].argmax(axis=-1), blank)]


def transducer(parts: Parts, inputs: Inputs, settings: LoopSettings) -> list[int]:
    """Return what a transducer says (Graves 2012): in each frame tokens until the blank, `max_tokens` at most.

    The decoder reads the last tokens, blanks in front of the first, and has a state where `settings.state` says so. Of
    the joiner's inputs the one that is called after the encoder takes the frame, else the first. With `chunk` the
    encoder takes the frames chunk by chunk, its own state going on.

    Raises:
        DataError, UsageError: a part does not run, or has other inputs and outputs.
    """
    encoder, predictor, joiner = parts["encoder"], Predictor(parts["decoder"], settings), parts["joiner"]
    if len(joiner.inputs) != 2:
        raise UsageError(f"part 'joiner': has {amount(len(joiner.inputs), 'input')}, not 2; {OWN_LOOP}")
    of_frame, of_tokens = sorted(joiner.inputs, key=lambda spec: not spec.name.startswith("enc"))
    tokens: list[int] = []
    said = predictor.said(())
    for frame in heard(encoder, inputs, settings)[0]:
        for _ in range(settings.max_tokens):
            fed = {of_frame.name: _shaped(frame, of_frame), of_tokens.name: _shaped(said, of_tokens)}
            scores = next(iter(joiner(fed).values())).reshape(-1)
            token = int(scores.argmax())
            if token == settings.blank % len(scores):
                break
            tokens.append(token)
            said = predictor.said(tokens)
    return tokens


class Predictor:
    """The decoder of a transducer: what it says behind the tokens so far; its state goes on from call to call.

    Raises:
        UsageError: it has no input of tokens.
    """

    def __init__(self, decoder: PartModel, settings: LoopSettings) -> None:
        self._decoder = decoder
        self._pairs = paired(settings.state, decoder, decoder)
        carried = {pair.input for pair in self._pairs}
        self._state = first_state(decoder, self._pairs)
        whole = [spec for spec in decoder.inputs if spec.dtype.kind in "iu" and spec.name not in carried]
        self._tokens = next((spec for spec in whole if len(spec.shape or ()) == 2), None)
        if self._tokens is None:
            raise UsageError(f"part '{decoder.name}': has no input of tokens [1, length]; {OWN_LOOP}")
        self._lengths = [spec.name for spec in whole if len(spec.shape or ()) == 1]
        fixed = (self._tokens.shape or ())[1]
        self._context = fixed if isinstance(fixed, int) else settings.context
        self._blank = max(settings.blank, 0)

    def said(self, tokens: Sequence[int]) -> np.ndarray:
        """Return what the decoder says behind these tokens. Raises `DataError`."""
        assert self._tokens is not None
        last = [*[self._blank] * self._context, *tokens][-self._context :]
        fed = {**self._state, self._tokens.name: np.array([last])}
        outputs = self._decoder({**fed, **{name: np.array([self._context]) for name in self._lengths}})
        carried = {pair.output for pair in self._pairs}
        self._state = {pair.input: outputs[pair.output] for pair in self._pairs}
        return next(array for name, array in outputs.items() if name not in carried)


def _shaped(vector: np.ndarray, spec: InputSpec) -> np.ndarray:
    """A vector with as many axes of 1 in front as the input has."""
    return vector.reshape((*[1] * (len(spec.shape or (0, 0)) - 1), -1))


_LOOPS: dict[str, Callable[[Parts, Inputs, LoopSettings], list[int]]] = {
    "greedy": greedy,
    "beam": beam,
    "ctc": ctc,
    "transducer": transducer,
}
