"""The header of every JSON document that qtool writes: what it is, in which form, and by which versions it was made.

`schema` is "qtool." and the kind of document; `schema_version` grows when a key changes its meaning or goes; `versions`
are for people: whoever reads a document does not look at them, and no digest that things are compared by holds them.
"""

import functools
from collections.abc import Mapping
from importlib import metadata
from typing import Any

_DISTRIBUTIONS = {
    "qtool": ("qtool",),
    "onnx": ("onnx",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "numpy": ("numpy",),
}
"""Package -> the names that it is installed under."""


def header(kind: str, version: int) -> dict[str, Any]:
    """Return the first keys of a document of that kind, whose content has the form called `version`."""
    return {"schema": f"qtool.{kind}", "schema_version": version, "versions": dict(installed_versions())}


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
    return content.pop("schema_version", None), content
