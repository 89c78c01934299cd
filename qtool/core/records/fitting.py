"""Parsed documents of results held against the types of their records: whoever shows them need not look again."""

from collections.abc import Mapping
from dataclasses import MISSING, is_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from qtool.core.records.codec import Real, keys
from qtool.core.text import amount, cell

_KINDS: dict[Any, tuple[str, tuple[type, ...]]] = {
    str: ("a text", (str,)),
    bool: ("true or false", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
}
_WORDS = ("inf", "-inf", "nan")
_MOST = 10**300
"""Larger ones are no numbers of floating point."""


def misfit(record: type, document: Any, where: str = "") -> str | None:
    """Return what is wrong with a parsed document of a record, or None: which key, and what it should be.

    Keys that are not known are fine, since later versions may add some; so are those that are missing of what a record
    has a default for. `where` is what to call the place of the document.
    """
    if not isinstance(document, Mapping):
        return _wrong(where, "an object", document)
    for name, key in keys(record).items():
        place = f"{where}.{name}" if where else name
        if name in document:
            found = _field(key.hint, key.metadata, document[name], place)
            if found is not None:
                return found
        elif not key.metadata.get("optional") and not _has_default(record, key.field):
            return f"{place}: is missing"
    return None


def _has_default(record: Any, name: str) -> bool:
    found = record.__dataclass_fields__.get(name)
    return found is not None and (found.default is not MISSING or found.default_factory is not MISSING)


def _field(hint: Any, metadata: Mapping[str, Any], value: Any, where: str) -> str | None:
    if metadata.get("text"):
        return _value(str, value, where)
    if metadata.get("pairs"):
        return _each(get_args(get_args(hint)[0])[1], value, where)
    if metadata.get("key") is not None:
        return _each(get_args(hint)[0], value, where)
    return _value(hint, value, where)


def _value(hint: Any, value: Any, where: str) -> str | None:  # noqa: PLR0911
    if hint is Real:
        # null stands for what is not finite, a word in a plan
        return None if value is None or value in _WORDS else _value(float, value, where)
    if hint in _KINDS:
        words, kinds = _KINDS[hint]
        right = isinstance(value, kinds) and (hint is bool or not isinstance(value, bool))
        if right and isinstance(value, int) and abs(value) > _MOST:
            return f"{where}: a number of fewer digits is needed"
        return None if right else _wrong(where, words, value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _one_of([one.value for one in hint], value, where)
    if isinstance(hint, type) and is_dataclass(hint):
        return misfit(hint, value, where)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _union(arguments, value, where)
    if origin is Literal:
        return _one_of(arguments, value, where)
    if origin is tuple:
        return _tuple(arguments, value, where)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _each(arguments[1], value, where)
    # a path or a calibrator, of which documents have the text
    return _value(str, value, where)


def _union(hints: tuple[Any, ...], value: Any, where: str) -> str | None:
    if value is None and NoneType in hints:
        return None
    wrong = [_value(hint, value, where) for hint in hints if hint is not NoneType]
    return None if None in wrong else wrong[0]


def _tuple(hints: tuple[Any, ...], value: Any, where: str) -> str | None:
    if not isinstance(value, list | tuple):
        return _wrong(where, "a list", value)
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(hints) != len(value):
        return _wrong(where, f"a list of {amount(len(hints), 'value')}", value)
    found = (_value(hint, one, f"{where}[{n}]") for n, (hint, one) in enumerate(zip(hints, value, strict=True)))
    return next(filter(None, found), None)


def _each(hint: Any, value: Any, where: str) -> str | None:
    if not isinstance(value, Mapping):
        return _wrong(where, "an object", value)
    return next(filter(None, (_value(hint, one, f"{where}[{cell(key)!r}]") for key, one in value.items())), None)


def _one_of(known: Any, value: Any, where: str) -> str | None:
    if isinstance(value, str | int) and value in known:
        return None
    return _wrong(where, f"one of {', '.join(map(repr, known))}", value)


def _wrong(where: str, wanted: str, found: Any) -> str:
    shown = {list: "a list", tuple: "a list", dict: "an object", NoneType: "null", bool: str(found).lower()}.get(
        type(found), repr(found)[:40]
    )
    return f"{where or 'the document'}: {wanted} is needed, not {shown}"
