"""A described pipeline in memory: sessions, the loop, and the tokenizer that makes texts of what it says."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np

from qtool.core.errors import DataError, UsageError, in_file
from qtool.feeds import Batch, Data, Feeds, LabelledOptions, open_feeds
from qtool.feeds.open import JSONL
from qtool.feeds.reading import refuse_mask
from qtool.feeds.texts import TextDecoder
from qtool.generation.caches import check_caches
from qtool.generation.description import Description, PartFiles
from qtool.generation.loops import find_loop
from qtool.generation.part import Heard, PartModel
from qtool.generation.streams import check_carried, fed_by_data
from qtool.graph.finite import fed_specs_of

TEXT, TOKENS = "text", "tokens"
"""What a pipeline's output is called."""
_CACHED = ("greedy", "beam")
"""The loops whose decoder has a cache."""
_STREAMED = ("ctc", "transducer")
"""The loops that hear frames, and whose parts feed their states back to themselves."""
_RETURN = "return a text, or a list of tokens, which are whole numbers"


class Pipeline:
    """The parts and the loop, ready to run.

    Args:
        description: what it is made of.
        int8: whether parts run in their int8 models, where they have one.
        heard: is told of every run: the part's name, and what it was fed.
        threads, provider: of every session.

    Raises:
        UsageError: there is no such loop, or the tokenizer is none.
        ModelError: a model cannot be loaded.
    """

    def __init__(
        self,
        description: Description,
        *,
        int8: bool,
        heard: Heard | None = None,
        threads: int = 1,
        provider: str = "cpu",
    ) -> None:
        self.name = f"{description.path.name} ({'int8' if int8 else 'float'})"
        self.files = [_file(part, int8=int8) for part in description.parts]
        self._loop = find_loop(description.loop, description.settings)
        key = "tokenizer" if description.target_tokenizer is None else "target_tokenizer"
        with in_file(description.path, tokenizer=key):
            self._decoder = None if description.writing is None else TextDecoder(description.writing)
        self._kind: str | None = None
        self.parts = {
            part.name: PartModel(part.name, path, heard, threads=threads, provider=provider)
            for part, path in zip(description.parts, self.files, strict=True)
        }
        if description.loop in _CACHED:
            check_caches(description.path, description.settings.state, self.parts)
        elif description.loop in _STREAMED:
            # a joiner is given all that it reads
            own = [part for name, part in self.parts.items() if name != "joiner"]
            check_carried(description.path, description.settings.state, own)

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        """Return what is said of one sample: `text`, strings [1], or `tokens`, int64 [1, length].

        Raises:
            DataError, UsageError: a part does not run, or the loop gives something else.
        """
        said = self._loop(self.parts, batch.inputs)
        text = said if isinstance(said, str) else None
        tokens = None if text is not None else self._tokens(said)
        if tokens is not None and self._decoder is not None:
            text = self._decoder.decode(tokens.tolist())
        kind = TOKENS if text is None else TEXT
        if self._kind not in (None, kind):
            raise DataError(f"{self.name}: the loop gave {self._kind} first, and now {kind}; return always the same")
        self._kind = kind
        return {TOKENS: tokens[None]} if text is None and tokens is not None else {TEXT: np.array([text], np.object_)}

    def _tokens(self, said: Any) -> np.ndarray:
        """What a loop gave as tokens, int64 [length]."""
        try:
            tokens = np.asarray(said)
        except Exception as error:  # an array of somebody else's may raise anything
            raise DataError(f"{self.name}: the loop gave a {type(said).__name__}; {_RETURN}") from error
        if tokens.ndim != 1 or (tokens.size and tokens.dtype.kind not in "iu"):
            raise DataError(f"{self.name}: the loop gave {_kind_of(said, tokens)}; {_RETURN}")
        if tokens.size and tokens.max() > np.iinfo(np.int64).max:
            raise DataError(f"{self.name}: the loop gave the token {tokens.max()}, which is too large; {_RETURN}")
        return tokens.astype(np.int64)


def _kind_of(said: Any, array: np.ndarray) -> str:
    """What something is that a loop gave and that is no row of tokens."""
    name = type(said).__name__
    if array.ndim != 1 or not isinstance(said, list | tuple):
        return f"a {name}" if not array.ndim else f"a {name} of {array.dtype} {list(array.shape)}"
    kinds = dict.fromkeys(type(one).__name__ for one in said)
    too_large = set(kinds) <= {"int"}
    return f"a {name} of {' and '.join(kinds)}" + (", some of them too large for a token" if too_large else "")


def _file(part: PartFiles, *, int8: bool) -> Any:
    return part.int8_model if int8 and part.int8_model is not None else part.float_model


def open_pipeline_data(
    description: Description,
    pipeline: Pipeline,
    data: Data,
    samples: int | None,
    **reading: Unpack[LabelledOptions],
) -> Feeds:
    """Open data for the first part of a pipeline, one sample at a time.

    Text in a .jsonl file is made tokens by the pipeline's tokenizer.

    Raises:
        DataError, UsageError: as `qtool.feeds.open_feeds`.
    """
    refuse_mask(reading)
    first = next(iter(pipeline.parts.values()))
    inputs = fed_specs_of(first.inputs, pipeline.files[0])
    if reading.get("state"):
        raise UsageError(f"{description.path}: a pipeline has its states in settings.state; leave state out")
    reads_text = str(data).lower().endswith(JSONL) and any(spec.name == "input_ids" for spec in inputs)
    if description.tokenizer is not None and reads_text and reading.get("tokenizer") is None:
        reading = {**reading, "tokenizer": description.tokenizer}
    if description.loop in _STREAMED:
        inputs = fed_by_data(first, inputs, description.settings)
    wanted = tuple(spec for spec in inputs if not _fills_itself(description, spec.name))
    own = reading.get("tokenizer") is not None and reading.get("tokenizer") == description.tokenizer
    with in_file(description.path, tokenizer="tokenizer") if own else nullcontext():
        return open_feeds(data, wanted, samples=samples, batch_size=1, **reading)


def _fills_itself(description: Description, name: str) -> bool:
    """Whether the loop feeds that input of the first part: of a decoder without an encoder all but its tokens."""
    return description.parts[0].name == "decoder" and name not in ("input_ids", "decoder_input_ids")


@dataclass(frozen=True, slots=True)
class PartFeeds:
    """The inputs of one part while the float pipeline runs over the data: an iterable, made anew each time.

    Raises, while iterating:
        DataError: the pipeline does not run, or never calls the part.
    """

    description: Description
    part: str
    data: Data
    samples: int | None
    reading: Mapping[str, Any]

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield the inputs of each run of the part, in order."""
        waiting: list[dict[str, np.ndarray]] = []

        def heard(name: str, fed: Mapping[str, np.ndarray]) -> None:
            if name == self.part:
                waiting.append(dict(fed))

        pipeline = Pipeline(self.description, int8=False, heard=heard)
        called = False
        for batch in open_pipeline_data(self.description, pipeline, self.data, self.samples, **self.reading):
            pipeline(batch)
            yield from waiting
            called = called or bool(waiting)
            waiting.clear()
        if not called:
            raise DataError(
                f"{self.description.path}: the loop never runs part '{self.part}' on this data; leave the part out, or "
                "give data that needs it"
            )
