"""The file of a sensitivity analysis: what is finished is in it, and an interrupted run goes on from it."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qtool.core.errors import UsageError, arg
from qtool.core.files import check_writable, write_text
from qtool.core.reading import DOCUMENT_LIMIT, read_text
from qtool.core.records.codec import json_text, parsed
from qtool.core.records.sensitivity import (
    VIEWS,
    Figures,
    HeadSensitivity,
    LayerSensitivity,
    Sensitivity,
    View,
    read_finished,
)

_CHECKSUM = "checksum"
Found = Figures | str
"""What was measured, or why nothing was."""


def load_found(path: Path, identity: dict[str, str]) -> tuple[dict[tuple[str, View], Found], dict[str, str]]:
    """Load what an earlier run has written, and its identity; both are empty where there is no file.

    The identity must agree with `identity` in all that the latter holds.

    Raises:
        OutputError: the file cannot be written.
        UsageError: the file is something else, or belongs to another analysis.
    """
    check_writable(path)
    if not path.exists():
        return {}, {}
    try:
        document = parsed(read_text(path, DOCUMENT_LIMIT))
        if isinstance(document, dict) and document.pop(_CHECKSUM, None) not in (None, _checksum(document)):
            raise ValueError("it was changed after it was written")
        earlier = read_finished(document)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path}: exists and is not what `qtool sensitivity` writes ({_line(error)}); remove it or name another "
            f"{arg('output')}"
        ) from error
    check_identity(path, earlier.identity, identity)
    every: list[LayerSensitivity | HeadSensitivity] = [*earlier.layers, *earlier.heads]
    return {pair: found for one in every for pair, found in _found(one)}, earlier.identity


def check_identity(path: Path, earlier: dict[str, str], identity: dict[str, str]) -> None:
    """Refuse to go on from an analysis of something else. Raises `UsageError`."""
    for key, value in identity.items():
        if earlier.get(key) != value:
            raise UsageError(
                f"{path}: holds an analysis with another {_WORDS[key]}; remove it, or name another {arg('output')} "
                "to begin anew"
            )


_WORDS = {
    "model": "model",
    "plan": "calibration, calibrator, scheme, target or bias correction",
    "metric": "metric",
    "decode": "decoder",
    "views": "choice of views",
    "data": "data or number of samples",
}


def save(path: Path, result: Sensitivity) -> None:
    """Write the result to the file at `path`, atomically, with a checksum. Raises `OutputError`."""
    document = result.to_dict()
    write_text(path, json_text({**document, _CHECKSUM: _checksum(document)}))


def _checksum(document: dict[str, Any]) -> str:
    """Of the document as it is written; older files have none."""
    return hashlib.sha256(json_text(document).encode()).hexdigest()


def _found(layer: LayerSensitivity | HeadSensitivity) -> Iterator[tuple[tuple[str, View], Found]]:
    for view in VIEWS:
        found = layer.figures(view) or layer.unmeasured.get(view)
        if found is not None:
            yield (layer.name, view), found


def _line(error: OSError | ValueError) -> str:
    reason = error.strerror if isinstance(error, OSError) else error
    return " ".join(str(reason).split())[:120]
