"""JSON documents from records and records from JSON documents, by the types of the records' fields.

A field has the same name in both, but where its metadata say otherwise: `called`, `keyed`, `OPTIONAL`, `EMPTY`,
`UNWRITTEN`, `PAIRS`, `TEXT`. Properties that a class names in `DERIVED` are written as well. What types do not say, a
record says in a method `check`; it raises `ValueError` with a message that begins with the field's name.

JSON has no infinities: `encoded` writes numbers that are not finite as "inf", "-inf" and "nan", and only fields of type
`Real` are read so. In the documents of results they are null instead, and their words stand apart (`noting`), so that
numbers are numbers there.
"""

import functools
import json
import math
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import Field, dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

Real = Annotated[float, "may be infinite or NaN"]
OPTIONAL: Mapping[str, Any] = {"optional": True}
"""Metadata of a field that a document leaves out where it is None."""
EMPTY: Mapping[str, Any] = {"optional": True, "left out": ()}
"""Metadata of a tuple that a document leaves out where it is empty."""
UNWRITTEN: Mapping[str, Any] = {"name": None}
"""Metadata of a field that is in no document; a record that is read has a default for it."""
PAIRS: Mapping[str, Any] = {"pairs": True}
"""Metadata of a tuple of pairs that documents have as an object; no record that is read has one."""
TEXT: Mapping[str, Any] = {"text": True}
"""Metadata of a field that documents have as its `str`; no record that is read has one."""
_NOT_FINITE = ("inf", "-inf", "nan")
_T = TypeVar("_T")


@runtime_checkable
class _Checked(Protocol):
    def check(self) -> None: ...


def called(name: str) -> Mapping[str, Any]:
    """Return the metadata of a field that documents call `name`."""
    return {"name": name}


def keyed(key: str, name: str) -> Mapping[str, Any]:
    """Return the metadata of a tuple of records that documents have as an object called `name`, keyed by a field."""
    return {"key": key, "name": name}


def encoded(value: Any) -> Any:
    """Return a record, or a value of its fields, as `json.dumps` takes it.

    It consists of objects, lists, strings and finite numbers.
    """
    return _Writing(None).value(value, "")


def noting(record: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what `encoded` makes of a record, with null for numbers that are not finite, and these.

    They are "inf", "-inf" or "nan" by their place, a JSON pointer (RFC 6901) such as `/tensors/3/sqnr_db`. Records
    inside that are documents of their own (they have a `SCHEMA`) stand there as they are by themselves.
    """
    found: dict[str, str] = {}
    return _Writing(found).record(record, ""), found


@dataclass(frozen=True, slots=True)
class _Writing:
    """One encoding. lost: where numbers that are not finite are noted; None: they are strings in their place."""

    lost: dict[str, str] | None

    def value(self, value: Any, where: str) -> Any:  # noqa: PLR0911
        if is_dataclass(value):
            own = self.lost is not None and hasattr(value, "SCHEMA")
            return value.to_dict() if own else self.record(value, where)  # type: ignore[union-attr]
        if isinstance(value, Mapping):
            return self._object(((str(key), item) for key, item in value.items()), where)
        if isinstance(value, list | tuple):
            return [self.value(item, f"{where}/{i}") for i, item in enumerate(value)]
        if isinstance(value, Enum):
            return value.value
        if isinstance(value, float) and not math.isfinite(value):
            if self.lost is None:
                return str(float(value))
            self.lost[where] = str(float(value))
            return None
        return str(value) if isinstance(value, Path) else value

    def record(self, value: Any, where: str) -> dict[str, Any]:
        kind: Any = type(value)
        written = {
            name: self._field(field, given, f"{where}/{name}")
            for name, field in _written(kind).items()
            if (given := getattr(value, field.name)) != field.metadata.get("left out")
            or not field.metadata.get("optional")
        }
        return written | {name: self.value(getattr(value, name), f"{where}/{name}") for name in _derived(kind)}

    def _field(self, field: "Field[Any]", given: Any, where: str) -> Any:
        if field.metadata.get("text"):
            return str(given)
        if field.metadata.get("pairs"):
            return self._object(given, where)
        if (key := field.metadata.get("key")) is not None:
            return self._object(((getattr(one, key), one) for one in given), where)
        return self.value(given, where)

    def _object(self, pairs: Iterable[tuple[str, Any]], where: str) -> dict[str, Any]:
        return {key: self.value(item, f"{where}/{key.replace('~', '~0').replace('/', '~1')}") for key, item in pairs}


class Key(NamedTuple):
    """A key of the documents of a record: the field, or the property in `DERIVED`, that it holds, and its type."""

    field: str
    hint: Any
    metadata: Mapping[str, Any]
    is_derived: bool


def keys(record: Any) -> dict[str, Key]:
    """Return what documents hold of a class of records, by its name there, in order."""
    hints = _hints(record)
    found = {name: Key(one.name, hints[one.name], one.metadata, False) for name, one in _written(record).items()}
    for name in _derived(record):
        hint = get_type_hints(getattr(record, name).fget, include_extras=True)["return"]
        found[name] = Key(name, hint, {}, True)
    return found


def _derived(record: Any) -> tuple[str, ...]:
    names: tuple[str, ...] = getattr(record, "DERIVED", ())
    return names


def json_text(document: Any) -> str:
    """Return the document as text, a fact a line, so that two of them can be compared by diff."""
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def parsed(text: str, *, strict: bool = True) -> Any:
    """Return what JSON text says.

    Raises:
        ValueError: it is not JSON, holds NaN or Infinity and `strict` is set, an object holds a key twice, or it is
            nested too deeply.
    """
    with _within_bounds():
        return json.loads(text, parse_constant=_refuse_constant if strict else None, object_pairs_hook=_object)


def parsed_toml(text: str) -> dict[str, Any]:
    """Return what a TOML text says. Raises `ValueError` where it is not TOML."""
    with _within_bounds():
        return tomllib.loads(text)


@contextmanager
def _within_bounds() -> Iterator[None]:
    """Turns what Python raises for texts beyond its own limits into a `ValueError` that a user can read."""
    try:
        yield
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValueError as error:
        if "integer string conversion" not in str(error):
            raise
        raise ValueError("a number has thousands of digits") from error


def decoded(record: type[_T], document: Any, where: str = "") -> _T:
    """Return the record that a parsed JSON document says; `where` is what to call the document in messages.

    Raises:
        ValueError: a key is missing, unknown, or has a value of another type, or a record's `check` refuses it. The
            message begins with the path of the culprit, such as `weights[3].params.axis`.
    """
    result: _T = _record(record, document, where)
    return result


def _record(record: Any, document: Any, where: str) -> Any:
    if not isinstance(document, dict):
        raise _wrong(where, "an object", document)
    known = _written(record)
    unknown = [key for key in document if key not in known]
    if unknown:
        raise ValueError(
            f"{where or 'the document'}: has an unknown key {unknown[0][:40]!r}; it has {', '.join(known)}"
        )
    values: dict[str, Any] = {}
    for name, field in known.items():
        if name in document:
            values[field.name] = _value(_hints(record)[field.name], document[name], _inside(where, name))
        elif field.metadata.get("optional"):
            values[field.name] = field.metadata.get("left out")
        else:
            raise ValueError(f"{_inside(where, name)}: is missing")
    result = record(**values)
    if isinstance(result, _Checked):
        try:
            result.check()
        except ValueError as error:
            raise ValueError(_inside(where, str(error))) from error
    return result


def _value(hint: Any, value: Any, where: str) -> Any:  # noqa: PLR0911
    if isinstance(hint, type) and is_dataclass(hint):
        return _record(hint, value, where)
    if hint in _SCALARS:
        return _SCALARS[hint](value, where)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(_one_of([one.value for one in hint], value, where))
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else _value(inner, value, where)
    if origin is Literal:
        return _one_of(arguments, value, where)
    if origin is tuple:
        return _tuple(arguments, value, where)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise _wrong(where, "an object", value)
        return {_text(key, where): _value(arguments[1], item, f"{where}[{key!r}]") for key, item in value.items()}
    raise TypeError(f"{hint}: no type that documents have")


def _one_of(allowed: Sequence[Any], value: Any, where: str) -> Any:
    if value not in allowed:
        raise _wrong(where, " or ".join(map(json.dumps, allowed)), value)
    return value


def _tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _wrong(where, "a list", value)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_value(kinds[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(value) != len(kinds):
        raise _wrong(where, f"a list of {len(kinds)} values", value)
    return tuple(_value(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(where, "a string", value)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _wrong(where, "a string of whole characters", value) from error
    return value


def _truth(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(where, "true or false", value)
    return value


def _whole(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(where, "a whole number", value)
    return value


def _finite(value: Any, where: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf:
        try:
            return float(value)
        except OverflowError:
            pass
    raise _wrong(where, "a finite number", value)


def _real(value: Any, where: str) -> float:
    if isinstance(value, str) and value in _NOT_FINITE:
        return float(value)
    return _finite(value, where)


_SCALARS: dict[Any, Callable[[Any, str], Any]] = {str: _text, bool: _truth, int: _whole, float: _finite, Real: _real}


@functools.cache
def _hints(record: Any) -> dict[str, Any]:
    return get_type_hints(record, include_extras=True)


@functools.cache
def _written(record: Any) -> dict[str, "Field[Any]"]:
    """The fields that documents hold, by their names there, in order."""
    named = {field.metadata.get("name", field.name): field for field in fields(record)}
    return {name: field for name, field in named.items() if name is not None}


def _inside(where: str, what: str) -> str:
    return f"{where}.{what}" if where else what


def _wrong(where: str, wanted: str, found: Any) -> ValueError:
    if isinstance(found, list | dict):
        shown = "a list" if isinstance(found, list) else "an object"
    else:
        shown = json.dumps(found, default=repr)
        shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
    return ValueError(f"{where or 'the document'}: {wanted} is needed, not {shown}")


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands there twice")
    return result
