"""Text for people: what names may hold is escaped and shortened, and numbers are followed by the right noun."""

import difflib
import re
from collections.abc import Iterable
from os import PathLike

_LONG, _KEPT = 300, 80
"""Characters of a word, or a cell, that is shown whole; and of a longer one."""
_LINE, _HEAD, _TAIL = 6000, 2000, 1000
"""Characters of a line that is shown whole; and of a longer one its beginning and end, where the remedy is."""
_LONG_WORD = re.compile(rf"[^\s'\"]{{{_LONG + 1},}}")
_THREE_DIGITS = 999.5
"""What rounds to more than three digits in front of the point."""
_TOLD = 300
"""Characters of what somebody else's exception says."""


def line(text: str) -> str:
    """Return a text as one line that does nothing to a terminal, whatever names and files put into it.

    What is not printable (line breaks, control characters, marks that turn the direction of writing) is written as
    `repr` does, without the quotes. Words of over 300 characters are cut to their first 80 and their length.
    """
    return _printable(_shortened(in_utf8(text)))


def cell(text: str) -> str:
    """Return a name as one cell of a table: as `line` does, and cut like a word although it may hold spaces."""
    return _printable(_cut(in_utf8(text)) if len(text) > _LONG else in_utf8(text))


def amount(number: int, noun: str, several: str | None = None, *, commas: bool = False) -> str:
    """Return a number with its noun: 1 sample, 2 samples; `several` where an s does not make the plural.

    commas: between its thousands.
    """
    return f"{number:{',' if commas else ''}} {noun if number == 1 else several or noun + 's'}"


def rounded(number: float) -> str:
    """Return a number with three digits that count, and all of those in front of the point: 0.0123, 12.3, 1234."""
    return f"{number:.3g}" if abs(number) < _THREE_DIGITS else f"{number:.0f}"


def told(error: BaseException) -> str:
    """Return the type and the text of an exception on one line, whatever its own methods do."""
    try:
        text = " ".join(str(error).split())
    except BaseException:  # of a class that somebody else wrote
        text = ""
    name = type(error).__name__
    return line(f"{name}: {text[:_TOLD]}" if text else name)


def in_utf8(path: str | PathLike[str]) -> str:
    """Return a path, or another text, as it is in UTF-8, which is how libraries in C++ take it.

    In an environment that knows ASCII only Python holds the bytes of a path as surrogates.
    """
    text = str(path)
    try:
        return text.encode("utf-8", "surrogateescape").decode()
    except UnicodeError:
        return text


def _shortened(text: str) -> str:
    if len(text) <= _LONG:
        return text
    text = _LONG_WORD.sub(_word, text)
    if len(text) <= _LINE:
        return text
    return f"{text[:_HEAD]}… ({len(text)} characters) …{text[-_TAIL:]}"


def _word(found: re.Match[str]) -> str:
    name = found[0].rstrip(":;,.)")
    return _cut(name) + found[0][len(name) :]


def _cut(text: str) -> str:
    return f"{text[:_KEPT]}… ({len(text)} characters)"


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def sentence(text: str) -> str:
    """Return a text with a capital at its beginning, but for names that have none."""
    return text if text.startswith("onnxruntime") else text[:1].upper() + text[1:]


def closest(name: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that somebody who wrote `name` may have meant, or None."""
    known = list(names)
    folded = {other.casefold(): other for other in known}
    found = difflib.get_close_matches(name.casefold(), list(folded), n=1)
    return folded[found[0]] if found else None


def meant(name: str, names: Iterable[str]) -> str:
    """Return the question whether one of `names` was meant, in brackets behind a space; "" where none is near."""
    near = closest(name, names)
    return "" if near is None else f" (did you mean '{near}'?)"
