"""Word error rate: edits from what a model says to what was said, over the number of tokens that were said.

`wer`, `wer:ctc` and `wer:ctc=BLANK` (what a CTC model says: repeats merged, then blanks dropped), `wer:end=TOKEN` (what
stands from that token on is no part of either).
"""

import re
from dataclasses import dataclass

import numpy as np

from qtool.core.errors import DataError, UsageError, arg
from qtool.evaluation.metrics.heads import ClassOutput, predictions
from qtool.evaluation.metrics.observation import Observation
from qtool.evaluation.metrics.tokens import token_labels

WER = "wer"


@dataclass(frozen=True, slots=True)
class Transcription:
    """The way in which a row of tokens is read.

    blank: merge repeats, then drop this token; a negative one counts from the last class. end: cut before this one.
    """

    blank: int | None = None
    end: int | None = None

    @classmethod
    def parse(cls, spec: str) -> "Transcription":
        """Return the settings that a metric's name holds, such as `wer:ctc=0`. Raises `UsageError`."""
        found = re.fullmatch(rf"{WER}(?::ctc(?:=(?P<blank>-?\d{{1,9}}))?|:end=(?P<end>\d{{1,9}}))?", spec)
        if found is None:
            raise UsageError(
                f"{arg('metric', spec)}: write wer, wer:ctc, wer:ctc=BLANK or wer:end=TOKEN, with whole numbers"
            )
        if found["end"] is not None:
            return cls(end=int(found["end"]))
        return cls(blank=int(found["blank"] or 0)) if ":" in spec else cls()


class WordErrorRate:
    """The word error rate: insertions, deletions and substitutions, over the number of tokens in all labels.

    A sample with NaN among its scores counts as one where nothing was said.

    Raises:
        UsageError: at once, where the blank is no class.
        DataError: from `update`, where labels are missing, no row of tokens a sample, no class of the model, or blank;
            from `result`, where no label holds a token.
    """

    def __init__(self, output: ClassOutput, metric: str) -> None:
        self._output = output
        self._metric = metric
        settings = Transcription.parse(metric)
        self._end, self._blank = settings.end, settings.blank
        if self._blank is not None and output.classes is not None:
            if not -output.classes <= self._blank < output.classes:
                raise UsageError(
                    f"{arg('metric', metric)}: output '{output.name}' has the classes 0 to {output.classes - 1}; "
                    "give the blank as one of them"
                )
            self._blank %= output.classes
        self._edits = 0
        self._tokens = 0

    def update(self, seen: Observation) -> None:
        """Count the edits and the tokens of one batch. Raises `DataError`."""
        labels = token_labels(seen, self._output, self._metric).reshape(seen.size, -1)
        if self._blank is not None and (labels == self._blank).any():
            sample = seen.start + int((labels == self._blank).any(axis=1).argmax())
            raise DataError(
                f"{arg('metric', self._metric)}: the labels of sample {sample} hold the blank {self._blank}; pad "
                "them with -1, or give the blank as wer:ctc=BLANK"
            )
        tokens, bad = predictions(seen.outputs[self._output.name], self._output)
        said, broken = tokens.reshape(seen.size, -1), bad.reshape(seen.size, -1)
        for index, label in enumerate(labels):
            wanted = self._cut(label[label >= 0])
            found = said[index, :0] if broken[index].any() else self._heard(said[index])
            self._edits += edit_distance(wanted, found)
            self._tokens += len(wanted)

    def result(self) -> float:
        """Return edits over tokens of all batches, from 0 on. Raises `DataError`."""
        if not self._tokens:
            raise DataError(f"{arg('metric', self._metric)}: the labels hold no token; give what was said")
        return self._edits / self._tokens

    def _heard(self, said: np.ndarray) -> np.ndarray:
        if self._blank is None:
            return self._cut(said[said >= 0])
        merged = said[np.diff(said, prepend=-1) != 0]
        return np.asarray(merged[(merged != self._blank) & (merged >= 0)])

    def _cut(self, tokens: np.ndarray) -> np.ndarray:
        ends = np.flatnonzero(tokens == self._end) if self._end is not None else np.empty(0, int)
        return tokens[: ends[0]] if ends.size else tokens


def edit_distance(wanted: np.ndarray, found: np.ndarray) -> int:
    """Return the fewest insertions, deletions and substitutions from one row of tokens to the other (Levenshtein)."""
    steps = np.arange(len(found) + 1)
    row = steps
    for index, token in enumerate(wanted.tolist(), 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (found != token))
        # the insertions: each entry is the least of those to its left plus one for every step from there
        row = np.minimum.accumulate(np.concatenate([[index], best]) - steps) + steps
    return int(row[-1])
