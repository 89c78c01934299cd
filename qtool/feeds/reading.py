"""The options of reading DATA, which every command and function that takes it has."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from qtool.core.errors import UsageError, arg
from qtool.core.state import State, StateSpec, parsed_states
from qtool.feeds.preprocess import Preprocess, load_preprocess


class ReadOptions(TypedDict, total=False):
    """Keyword arguments of everything that reads DATA; None is as if left out.

    preprocess: how uint8 images become the model's input: a preset's name, a file, or its keys.
    tokenizer: a HuggingFace tokenizer.json, which makes the model's inputs of the `text` in a .jsonl file.
    max_length: cut texts to so many tokens, special ones counted.
    trim: the input that masks padding with 0; every batch is cut to the longest sample in it.
    mask: the input [samples, length] whose zeros are padding, which statistics and SQNR leave out; `none` for none. It
        is found where left out, see `qtool.feeds.masks`.
    state: `INPUT=OUTPUT`, one or several: outputs that are fed back to inputs, step after step; every sample is then
        a sequence, see `qtool.feeds.formats.sequences`.
    """

    preprocess: Preprocess | str | Path | Mapping[str, Any] | None
    tokenizer: str | Path | None
    max_length: int | None
    trim: str | None
    mask: str | None
    state: StateSpec | None


class LabelledOptions(ReadOptions, total=False):
    """Keyword arguments of everything that reads DATA with its labels.

    labels: where the labels of a folder of pictures are: a COCO .json, a folder of YOLO .txt files, or one of masks.
    """

    labels: str | Path | None


def unlabelled(options: LabelledOptions) -> ReadOptions:
    """Return the options for other data than the one that has its labels where `labels` says."""
    return {name: value for name, value in options.items() if name != "labels"}  # type: ignore[return-value]


def refuse_mask(options: ReadOptions) -> None:
    """Refuse a mask where all positions count. Raises `UsageError`."""
    if options.get("mask") is not None:
        raise UsageError(
            f"{arg('mask', options['mask'])}: says nothing here, where all positions count; use {arg('trim')}"
        )


def as_given(options: ReadOptions) -> tuple[tuple[str, str], ...]:
    """Return the name and the text of each option that a command line can give; a list is an option several times."""
    return tuple(
        (name, str(one))
        for name, value in options.items()
        for one in (value if isinstance(value, list | tuple) else (value,))
        if isinstance(one, str | Path | int)
    )


@dataclass(frozen=True, slots=True)
class Reading:
    """The options of reading, checked. Raises `UsageError` where they contradict each other."""

    preprocess: Preprocess | None = None
    tokenizer: Path | None = None
    max_length: int | None = None
    trim: str | None = None
    mask: str | None = None
    states: tuple[State, ...] = ()
    labels: Path | None = None

    def __post_init__(self) -> None:
        for option, value in (
            ("preprocess", self.preprocess),
            ("tokenizer", self.tokenizer),
            ("trim", self.trim),
            ("mask", self.mask),
        ):
            if self.states and value is not None:
                raise UsageError(
                    f"{arg(option)} does not go with {arg('state')}, whose samples are sequences; leave one of them out"
                )
        if self.max_length is None:
            return
        if self.max_length < 1:
            raise UsageError(f"{arg('max_length', self.max_length)}: give 1 or more")
        if self.tokenizer is None:
            raise UsageError(
                f"{arg('max_length', self.max_length)} says nothing without {arg('tokenizer')}; give both, or neither"
            )

    @classmethod
    def of(cls, options: ReadOptions) -> "Reading":
        """Check options as given, and return them.

        Raises:
            UsageError: they make no sense.
            TypeError: a name is none of `LabelledOptions`.
        """
        given: dict[str, Any] = dict(options)
        for name, read in (("preprocess", load_preprocess), ("tokenizer", Path), ("labels", Path)):
            if given.get(name) is not None:
                given[name] = read(given[name])
        given["states"] = parsed_states(given.pop("state", None) or ())
        return cls(**given)
