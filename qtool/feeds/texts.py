"""Texts -> the inputs of a language model, by a HuggingFace tokenizer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from qtool.core.errors import DataError, UsageError, arg
from qtool.core.extras import installed_by
from qtool.core.process import without_panic
from qtool.core.reading import DOCUMENT_LIMIT, read_bytes
from qtool.core.tensorspec import InputSpec
from qtool.core.text import amount
from qtool.feeds.checks import quoted

_IDS = "input_ids"
_FIELDS = {_IDS: "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
"""Input -> attribute of tokenizers.Encoding."""
_PADS = ("[PAD]", "<pad>")
_MOST_TOKENS = 2**31 - 1


class TextEncoder:
    """A tokenizer that makes those of input_ids, attention_mask and token_type_ids that the model has.

    Padding that the file asks for is left out: samples may differ in length. Where the model fixes the length, texts
    are cut and padded to it. Without `max_length` what the file says of truncation holds.

    Args:
        path: a tokenizer.json of the tokenizers library.
        inputs: the model's inputs.
        max_length: cut to so many tokens, special ones counted; None does not.

    Raises:
        UsageError: the library is missing, the file is no tokenizer, or it does not fit the model.
    """

    def __init__(self, path: Path, inputs: Sequence[InputSpec], max_length: int | None) -> None:
        self._path = path
        self._tokenizer = _loaded(path)
        self._types = {spec.name: spec.dtype for spec in inputs if spec.name in _FIELDS}
        if _IDS not in self._types:
            names = quoted(spec.name for spec in inputs)
            raise UsageError(
                f"{arg('tokenizer', path)}: the model has no input '{_IDS}' but {names}; give numbers, not text"
            )
        fixed = {spec.shape[1] for spec in inputs if spec.name in self._types and spec.shape and len(spec.shape) == 2}
        lengths = [length for length in fixed if isinstance(length, int)]
        own = self._tokenizer.truncation or {}
        if max_length is not None and max_length > _MOST_TOKENS:
            raise UsageError(f"{arg('max_length', max_length)}: give at most {_MOST_TOKENS}, or leave it out")
        self._limit: int | None = max_length or min([*lengths, *filter(None, [own.get("max_length")])], default=None)
        self._tokenizer.no_padding()
        if lengths:
            self._fix(min(lengths), max_length)
        if self._limit is not None:
            kept = {key: own[key] for key in ("strategy", "direction") if key in own}
            try:
                with _library():
                    self._tokenizer.enable_truncation(max_length=self._limit, **kept)
            except _LibraryError as error:
                raise UsageError(f"{arg('tokenizer', path)}: cannot cut texts ({error}); correct the file") from error

    def _fix(self, length: int, max_length: int | None) -> None:
        """Pad to the length that the model fixes."""
        if max_length is not None and max_length > length:
            raise UsageError(
                f"{arg('max_length', max_length)}: the model's input '{_IDS}' takes {amount(length, 'token')}; give "
                "at most that, or leave it out"
            )
        stored = _loaded(self._path).padding
        if stored is None:
            token = next((token for token in _PADS if self._tokenizer.token_to_id(token) is not None), None)
            if token is None:
                raise UsageError(
                    f"{arg('tokenizer', self._path)}: says nothing of padding, but the model takes "
                    f"{amount(length, 'token')}; give one with enable_padding"
                )
            stored = {"pad_token": token, "pad_id": self._tokenizer.token_to_id(token)}
        kept = {key: stored[key] for key in ("direction", "pad_id", "pad_type_id", "pad_token") if key in stored}
        self._tokenizer.enable_padding(length=length, **kept)

    def encode(self, where: str, text: str, pair: str | None) -> dict[str, np.ndarray]:
        """Return the inputs of one text or one pair, each [tokens]. Raises `DataError`."""
        for part in (text, pair or ""):
            try:
                part.encode()
            except UnicodeEncodeError as error:
                raise DataError(f"{where}: the text holds half a character ({error.reason}); correct it") from error
        try:
            with _library():
                encoding = self._tokenizer.encode(text, pair)
        except _LibraryError as error:
            raise DataError(
                f"{where}: {self._path} makes no tokens of the text ({error}); remove the text, or use the model's own "
                "tokenizer"
            ) from error
        count = len(encoding.ids)
        if count == 0:
            raise DataError(f"{where}: the text has no tokens; remove it")
        if self._limit is not None and sum(encoding.attention_mask) > self._limit:
            raise DataError(
                f"{where}: {amount(self._limit, 'token does', 'tokens do')} not hold the tokenizer's special ones; "
                f"give another {arg('max_length')}, or a model that takes more"
            )
        try:
            return {name: np.array(getattr(encoding, _FIELDS[name]), dtype) for name, dtype in self._types.items()}
        except OverflowError as error:
            raise DataError(
                f"{where}: {self._path} makes tokens that the model's inputs cannot hold; use the model's own tokenizer"
            ) from error


class TextDecoder:
    """A tokenizer that makes texts of tokens; special ones are left out.

    Args:
        path: a tokenizer.json of the tokenizers library.

    Raises:
        UsageError: the library is missing, or the file is no tokenizer.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tokenizer = _loaded(path)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of a row of tokens. Raises `DataError` where the library makes none of them."""
        try:
            with _library():
                text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        except _LibraryError as error:
            raise DataError(
                f"{self._path}: makes no text of the tokens ({error}); give the model's own tokenizer"
            ) from error
        return text

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, special ones among them. Raises `DataError`."""
        try:
            with _library():
                tokens: list[int] = self._tokenizer.encode(text).ids
        except _LibraryError as error:
            raise DataError(f"{self._path}: makes no tokens of the text ({error}); correct it") from error
        return tokens


class _LibraryError(Exception):
    """What the tokenizers library raised, in one line."""


@contextmanager
def _library() -> Iterator[None]:
    """Raises `_LibraryError` for whatever the library raises: also for a panic in Rust, which is no `Exception`."""
    try:
        with without_panic():
            yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # what the library raises is no more precise than that
        raise _LibraryError(" ".join(str(error).split())[:200]) from error


def _loaded(path: Path) -> Any:
    """A tokenizers.Tokenizer."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UsageError(f"{arg('tokenizer', path)}: needs tokenizers: {installed_by('text')}") from error
    try:
        content = read_bytes(path, DOCUMENT_LIMIT)
    except OSError as error:
        raise UsageError(
            f"{arg('tokenizer', path)}: cannot be read ({error.strerror}); give the tokenizer.json of the model"
        ) from error
    try:
        with _library():
            return Tokenizer.from_buffer(content)
    except _LibraryError as error:
        raise UsageError(f"{arg('tokenizer', path)}: is no tokenizer.json ({error}); give the model's") from error
