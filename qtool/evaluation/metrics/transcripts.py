"""The metrics of what models say: rows of tokens, or texts, beside what should have been said.

`wer`, `cer`, `exact_match`, `bleu` and `chrf`, each with settings behind colons: `ctc` and `ctc=BLANK` (what a CTC
model says: repeats merged, then blanks dropped), `end=TOKEN` (what stands from that token on is no part of either), and
`tokenizer=FILE` (which makes texts of tokens).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qtool.core.errors import DataError, UsageError, arg
from qtool.core.extras import installed_by
from qtool.core.text import amount
from qtool.evaluation.metrics.heads import LABELS, ClassOutput, Heads, predictions
from qtool.evaluation.metrics.observation import Observation
from qtool.evaluation.metrics.tokens import require_tokens, token_labels
from qtool.feeds.texts import TextDecoder

WER, CER, EXACT, BLEU, CHRF = TRANSCRIPT_METRICS = ("wer", "cer", "exact_match", "bleu", "chrf")
_SETTINGS = {"ctc": r"(-?\d{1,9})?", "end": r"\d{1,9}", "tokenizer": r".+"}


@dataclass(frozen=True, slots=True)
class Transcription:
    """The way in which a row of tokens is read.

    blank: merge repeats, then drop this token; a negative one counts from the last class. end: cut before this one.
    tokenizer: makes a text of it.
    """

    blank: int | None = None
    end: int | None = None
    tokenizer: Path | None = None

    @classmethod
    def parse(cls, spec: str) -> "Transcription":
        """Return the settings that a metric's name holds, such as `wer:ctc=0`. Raises `UsageError`."""
        name, *given = spec.split(":")
        found: dict[str, str] = {}
        for setting in given:
            key, equals, value = setting.partition("=")
            pattern = _SETTINGS.get(key)
            right = pattern is not None and re.fullmatch(pattern, value) and bool(equals) == bool(value)
            if not right or key in found:
                raise UsageError(
                    f"{arg('metric', spec)}: write {name}, {name}:ctc, {name}:ctc=BLANK or {name}:end=TOKEN, with "
                    f"whole numbers, or {name}:tokenizer=FILE; several stand behind one another"
                )
            found[key] = value
        if "ctc" in found and "end" in found:
            raise UsageError(f"{arg('metric', spec)}: what CTC says has no end; leave one of ctc and end out")
        return cls(
            int(found["ctc"] or 0) if "ctc" in found else None,
            int(found["end"]) if "end" in found else None,
            Path(found["tokenizer"]) if "tokenizer" in found else None,
        )


@dataclass(frozen=True, slots=True)
class Said:
    """The words of a batch, said and wanted: rows of tokens, a row a sample, or texts where `texts`."""

    wanted: Sequence[np.ndarray | str]
    found: Sequence[np.ndarray | str]
    texts: bool


class Transcriber:
    """Reads what a model says, and the labels, as texts or as rows of tokens.

    Texts are the strings of an output [N], or what the tokenizer makes of tokens; labels are strings, one a sample, or
    rows of tokens padded with -1. Where neither labels nor output are texts, and there is no tokenizer, both are
    tokens. A sample with NaN among its scores counts as one where nothing was said.

    Raises:
        UsageError: at once, where no output says tokens or texts, the blank is no class, or there is no such tokenizer;
            from `read`, where a tokenizer is missing.
    """

    def __init__(self, heads: Heads, metric: str) -> None:
        settings = Transcription.parse(metric)
        self._metric = metric
        self._texts = heads.texts
        self._output: ClassOutput | None = None if heads.texts is not None else require_tokens(heads, metric)
        self._decoder = None if settings.tokenizer is None else TextDecoder(settings.tokenizer)
        self._end, self._blank = settings.end, settings.blank
        classes = None if self._output is None else self._output.classes
        if self._blank is not None and self._output is not None and classes is not None:
            if not -classes <= self._blank < classes:
                raise UsageError(
                    f"{arg('metric', metric)}: output '{self._output.name}' has the classes 0 to {classes - 1}; "
                    "give the blank as one of them"
                )
            self._blank %= classes

    def read(self, seen: Observation) -> Said:
        """Return what a batch says and should say.

        Raises:
            UsageError: tokens stand beside texts, and there is no tokenizer.
            DataError: labels are missing, of another form, no class of the model, or blank.
        """
        labels = seen.labels.get(LABELS)
        as_text = self._decoder is not None or self._texts is not None or _is_text(labels)
        if _is_text(labels):
            wanted: Sequence[np.ndarray | str] = self._label_texts(seen)
        else:
            rows = self._label_rows(seen)
            wanted = self._decoded(rows) if as_text else rows
        if self._texts is not None:
            found = [str(text) for text in seen.outputs[self._texts].reshape(-1)]
            return Said(wanted, found, texts=True)
        said = self._heard_rows(seen)
        return Said(wanted, self._decoded(said) if as_text else said, texts=as_text)

    def _decoded(self, rows: Sequence[np.ndarray]) -> list[str]:
        if self._decoder is None:
            raise UsageError(
                f"{arg('metric', self._metric)}: tokens stand beside texts; name what makes texts of them: "
                f"{arg('metric', f'{self._metric}:tokenizer=tokenizer.json')}"
            )
        return [self._decoder.decode(row.tolist()) for row in rows]

    def _label_texts(self, seen: Observation) -> list[str]:
        labels = seen.labels[LABELS]
        if labels.shape not in {(seen.size,), (seen.size, 1)}:
            raise DataError(
                f"{arg('metric', self._metric)}: '{seen.labels_name}' in {arg('data')} are texts of shape "
                f"{list(labels.shape)} for {amount(seen.size, 'sample')} from sample {seen.start}; give one a sample"
            )
        return [_text(one) for one in labels.reshape(-1)]

    def _label_rows(self, seen: Observation) -> list[np.ndarray]:
        output = self._output or ClassOutput(self._texts or "", 1, holds_class=True)
        labels = token_labels(seen, output, self._metric).reshape(seen.size, -1)
        if self._blank is not None and (labels == self._blank).any():
            sample = seen.start + int((labels == self._blank).any(axis=1).argmax())
            raise DataError(
                f"{arg('metric', self._metric)}: the labels of sample {sample} hold the blank {self._blank}; pad "
                "them with -1, or give the blank as wer:ctc=BLANK"
            )
        return [self._cut(label[label >= 0]) for label in labels]

    def _heard_rows(self, seen: Observation) -> list[np.ndarray]:
        assert self._output is not None
        tokens, bad = predictions(seen.outputs[self._output.name], self._output)
        said, broken = tokens.reshape(seen.size, -1), bad.reshape(seen.size, -1)
        return [row[:0] if nan.any() else self._heard(row) for row, nan in zip(said, broken, strict=True)]

    def _heard(self, said: np.ndarray) -> np.ndarray:
        if self._blank is None:
            return self._cut(said[said >= 0])
        return merged(said, self._blank)

    def _cut(self, tokens: np.ndarray) -> np.ndarray:
        ends = np.flatnonzero(tokens == self._end) if self._end is not None else np.empty(0, int)
        return tokens[: ends[0]] if ends.size else tokens


def merged(tokens: np.ndarray, blank: int) -> np.ndarray:
    """Return what a row of tokens says where repeats are one and blanks are nothing, as CTC has it."""
    once = tokens[np.diff(tokens, prepend=-1) != 0]
    return np.asarray(once[(once != blank) & (once >= 0)])


def _is_text(labels: np.ndarray | None) -> bool:
    return labels is not None and (
        labels.dtype.kind in "US" or (labels.dtype.kind == "O" and all(isinstance(x, str | bytes) for x in labels.flat))
    )


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


class ErrorRate:
    """Insertions, deletions and substitutions (Levenshtein), over the number of what all labels hold.

    `wer` counts words of texts, else tokens; `cer` counts characters, blanks between words too.

    Raises:
        DataError: from `update`, see `Transcriber`, and where characters are asked of tokens; from `result`, where no
            label holds a token, word or character.
    """

    def __init__(self, heads: Heads, metric: str) -> None:
        self._transcriber = Transcriber(heads, metric)
        self._metric = metric
        self._characters = metric.partition(":")[0] == CER
        self._edits = 0
        self._units = 0

    def update(self, seen: Observation) -> None:
        """Count the edits of one batch. Raises `DataError`."""
        said = self._transcriber.read(seen)
        if self._characters and not said.texts:
            raise DataError(
                f"{arg('metric', self._metric)}: tokens have no characters; name what makes texts of them, "
                f"{arg('metric', f'{self._metric}:tokenizer=tokenizer.json')}, or give the labels as texts"
            )
        for wanted, found in zip(said.wanted, said.found, strict=True):
            units = self._of(wanted)
            self._edits += edit_distance(units, self._of(found))
            self._units += len(units)

    def result(self) -> float:
        """Return edits over units of all batches, from 0 on. Raises `DataError`."""
        if not self._units:
            raise DataError(f"{arg('metric', self._metric)}: the labels hold no token; give what was said")
        return self._edits / self._units

    def _of(self, said: np.ndarray | str) -> np.ndarray:
        return np.array(list(said) if self._characters else _units(said), np.object_)


class ExactMatch:
    """The share of samples of which all is said as it should be; of texts, whatever blanks stand between words.

    Raises:
        DataError: see `Transcriber`.
    """

    def __init__(self, heads: Heads, metric: str) -> None:
        self._transcriber = Transcriber(heads, metric)
        self._right = 0
        self._samples = 0

    def update(self, seen: Observation) -> None:
        """Count the samples of one batch. Raises `DataError`."""
        said = self._transcriber.read(seen)
        for wanted, found in zip(said.wanted, said.found, strict=True):
            self._right += _units(wanted) == _units(found)
        self._samples += seen.size

    def result(self) -> float:
        """Return the share, from 0 to 1."""
        return self._right / self._samples


@dataclass(slots=True)
class CorpusScore:
    """BLEU or chrF of all texts together, by sacrebleu with its own defaults, from 0 to 100.

    BLEU: Papineni et al. 2002, of up to four words, tokenizer 13a. chrF: Popović 2015 (chrF2, six characters). Tokens
    without a tokenizer count as words. All texts are held until `result`.

    Raises:
        UsageError: sacrebleu is not installed.
        DataError: see `Transcriber`.
    """

    heads: Heads
    metric: str
    _found: list[str] = field(default_factory=list)
    _wanted: list[str] = field(default_factory=list)
    _transcriber: Transcriber = field(init=False)

    def __post_init__(self) -> None:
        _sacrebleu(self.metric)
        self._transcriber = Transcriber(self.heads, self.metric)

    def update(self, seen: Observation) -> None:
        """Keep the texts of one batch. Raises `DataError`."""
        said = self._transcriber.read(seen)
        self._found += [_as_words(one) for one in said.found]
        self._wanted += [_as_words(one) for one in said.wanted]

    def result(self) -> float:
        """Return the score of the whole corpus, from 0 to 100."""
        sacrebleu = _sacrebleu(self.metric)
        function = sacrebleu.corpus_bleu if self.metric.partition(":")[0] == BLEU else sacrebleu.corpus_chrf
        return float(function(self._found, [self._wanted]).score)


def _units(said: np.ndarray | str) -> list[str] | list[int]:
    """The words of a text, or the tokens."""
    return said.split() if isinstance(said, str) else [int(token) for token in said]


def _as_words(said: np.ndarray | str) -> str:
    return said if isinstance(said, str) else " ".join(map(str, said.tolist()))


def _sacrebleu(metric: str):  # type: ignore[no-untyped-def]  # a module
    try:
        import sacrebleu
    except ImportError as error:
        raise UsageError(f"{arg('metric', metric)}: needs sacrebleu: {installed_by('generation')}") from error
    return sacrebleu


def edit_distance(wanted: np.ndarray, found: np.ndarray) -> int:
    """Return the fewest insertions, deletions and substitutions from one row of tokens to the other (Levenshtein)."""
    steps = np.arange(len(found) + 1)
    row = steps
    for index, token in enumerate(wanted.tolist(), 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (found != token))
        # the insertions: each entry is the least of those to its left plus one for every step from there
        row = np.minimum.accumulate(np.concatenate([[index], best]) - steps) + steps
    return int(row[-1])
