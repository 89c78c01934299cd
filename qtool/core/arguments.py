"""Arguments of public functions, held against the types that their signatures name, before any work is done.

What a value says is checked where it is used; here only that it is of the kind that was meant, so that a list in the
place of a text is one line and no traceback from somewhere within.
"""

import functools
import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, Unpack, get_args, get_origin, get_type_hints

import numpy as np

from qtool.core.errors import UsageError, arg

_P = ParamSpec("_P")
_T = TypeVar("_T")
_WORDS: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    Path: "a path",
    type(None): "None",
    Sequence: "a list",
    Iterable: "a list",
    Mapping: "a dictionary",
    Callable: "a function",
}


def checked_types(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Return the function as one that refuses arguments of another type than its signature names.

    It raises `UsageError`, which names the argument; what is missing or unknown is a `TypeError` as ever.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checking(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            given = dict(signature.bind(*args, **kwargs).arguments)
        except TypeError:
            # Python says it better
            return function(*args, **kwargs)
        hints = _hints(function)
        for parameter in signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD and get_origin(hints.get(parameter.name)) is Unpack:
                others, (options,) = given.pop(parameter.name, {}), get_args(hints[parameter.name])
                hints = hints | get_type_hints(options)
                unknown = set(others) - set(hints)
                if unknown:
                    raise TypeError(f"{function.__name__}() got an unexpected keyword argument {min(unknown)!r}")
                given |= others
        for name, value in given.items():
            if name in hints:
                check_type(name, value, hints[name])
        return function(*args, **kwargs)

    return checking


def check_type(name: str, value: object, hint: Any) -> None:
    """Refuse a value that is not of a type, a number that is not finite, and a text with a null character.

    Raises:
        UsageError: it is such a value, called `name` in the message.
    """
    if not _fits(value, hint):
        number = isinstance(value, Real) and not isinstance(value, bool)
        given = arg(name, value) if number else f"{arg(name)} is {_kind(value)}"
        raise UsageError(f"{given}{':' if number else ';'} give {' or '.join(dict.fromkeys(_words(hint)))}")
    if isinstance(value, str | os.PathLike) and "\0" in str(value):
        raise UsageError(f"{arg(name)} holds a null character; remove it")


@functools.cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(function)


def _fits(value: object, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin in (Sequence, Iterable):
        return _is_list(value, inner)
    if hint in (bool, int, float):
        return _is_number(value, hint)
    kind = str if origin is Literal else origin or hint
    if kind is Callable or (isinstance(kind, type) and "__call__" in vars(kind)):
        return callable(value)
    # what is no class says nothing here, nor do protocols
    known = isinstance(kind, type) and not getattr(kind, "_is_protocol", False)
    return not known or isinstance(value, (str, os.PathLike) if kind is Path else kind)


def _is_number(value: object, hint: type) -> bool:
    if isinstance(value, bool | np.bool_) or hint is bool:
        return isinstance(value, bool | np.bool_) and hint is bool
    if hint is int:
        return isinstance(value, Integral)
    return isinstance(value, Real) and math.isfinite(value)


def _is_list(value: object, inner: tuple[Any, ...]) -> bool:
    """Whether it can be gone through, and what of it can be seen without that is right."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        return False
    return not isinstance(value, list | tuple | set | frozenset) or all(_fits(one, inner[0]) for one in value)


def _words(hint: Any) -> list[str]:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return [word for one in inner for word in _words(one)]
    if origin is Literal:
        return list(map(repr, inner))
    kind = origin or hint
    if kind in (Sequence, Iterable):
        return [f"several of them ({' or '.join(dict.fromkeys(_words(inner[0])))})"]
    return [_WORDS.get(kind) or ("a function" if "__call__" in vars(kind) else _one(kind.__name__))]


def _one(name: str) -> str:
    return f"an {name}" if name[0] in "AEIOUaeiou" else f"a {name}"


def _kind(value: object) -> str:
    if value is None:
        return "None"
    return _one(type(value).__name__)
