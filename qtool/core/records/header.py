"""The header of every JSON document that qtool writes: what it is, in which form, and by which versions it was made.

`schema` is "qtool." and the kind of document; `schema_version` grows when a key changes its meaning or goes; `versions`
are for people: whoever reads a document does not look at them, and no digest that things are compared by holds them. So
is `machine`, which only the documents of results have.
"""

import functools
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from qtool.core.records.codec import noting
from qtool.core.records.machine import this_machine

_DISTRIBUTIONS = {
    "qtool": ("qtool",),
    "onnx": ("onnx",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "numpy": ("numpy",),
}
"""Package -> the names that it is installed under."""
_LONG = ("verification", "evaluation", "plan")


def header(kind: str, version: int) -> dict[str, Any]:
    """Return the first keys of a document of that kind, whose content has the form called `version`."""
    return {"schema": f"qtool.{kind}", "schema_version": version, "versions": dict(installed_versions())}


def document(result: Any, kind: str | None = None) -> dict[str, Any]:
    """Return the document of a result: its header, the machine, what it holds, and the numbers that are not finite.

    result: a record whose class has a `SCHEMA`, the kind of document and its version. kind: where it is another. Where
    a number is not finite it is null, and `not_finite` says which (see `qtool.core.records.codec.noting`).
    """
    named, version = result.SCHEMA
    content, lost = noting(result)
    # what is long stands at the end, for those who look at the beginning
    content = dict(sorted(content.items(), key=lambda one: one[0] in _LONG))
    machine, _ = noting(this_machine())
    return {**header(kind or named, version), "machine": machine, **content, "not_finite": lost}


@functools.cache
def installed_versions() -> Mapping[str, str]:
    """Return package -> version, of qtool and of what decides about its results; without what is not installed."""
    found: dict[str, str] = {}
    for package, names in _DISTRIBUTIONS.items():
        for name in names:
            try:
                found.setdefault(package, metadata.version(name))
            except metadata.PackageNotFoundError:
                continue
    return found


def without_header(document: Any, kind: str, *, former: str | None = None) -> tuple[Any, dict[str, Any]]:
    """Return the version of a parsed document of that kind, and its content; the version of any other document is None.

    Numbers that are not finite stand in their places again, as the words that `codec.Real` is read from.

    Args:
        document: what was parsed.
        kind: as `header` takes it.
        former: the key that held the version before there were headers.
    """
    if not isinstance(document, dict):
        return None, {}
    content = dict(document)
    if former is not None and former in content:
        return content.pop(former), content
    if content.pop("schema", None) != f"qtool.{kind}":
        return None, {}
    content.pop("versions", None)
    # only results have both; the key is another thing in calibration files
    lost = content.pop("not_finite", {}) if content.pop("machine", None) is not None else {}
    if not isinstance(lost, dict):
        return None, {}
    for place, word in lost.items():
        path = [part.replace("~1", "/").replace("~0", "~") for part in place.split("/")[1:]]
        # what points to nothing, or to all of it, points to no number
        content = _with(content, path, word) if path else content
    return content.pop("schema_version", None), content


def _with(value: Any, path: list[str], word: str) -> Any:
    """A parsed value with another one in the place that a path leads to; as it is where it leads nowhere."""
    if not path:
        return word
    if isinstance(value, dict) and path[0] in value:
        return value | {path[0]: _with(value[path[0]], path[1:], word)}
    if isinstance(value, list) and path[0].isdecimal() and int(path[0]) < len(value):
        index = int(path[0])
        return [*value[:index], _with(value[index], path[1:], word), *value[index + 1 :]]
    return value
