"""The file of a sensitivity analysis: every finished layer is in it, and an interrupted run goes on from it."""

import json
from pathlib import Path
from typing import Any

from qtool.core.errors import UsageError, arg
from qtool.core.files import check_writable, write_text
from qtool.core.records.sensitivity import SCHEMA_VERSION, VIEWS, Figures, Sensitivity, View, figures_of

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
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["qtool"] != "sensitivity" or document["schema_version"] != SCHEMA_VERSION:
            raise ValueError("another kind of document, or another version")
        earlier = {str(key): str(value) for key, value in document["identity"].items()}
        found = dict(pair for row in document["layers"] for pair in _found(row))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{path}: exists and is not what `qtool sensitivity` writes ({_line(error)}); remove it or name another "
            f"{arg('output')}"
        ) from error
    check_identity(path, earlier, identity)
    return found, earlier


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
    "views": "choice of views",
    "data": "data or number of samples",
}


def save(path: Path, result: Sensitivity) -> None:
    """Write the result to the file at `path`, atomically. Raises `OutputError`."""
    write_text(path, json.dumps(result.to_dict(), indent=1, allow_nan=False) + "\n")


def _found(row: Any) -> list[tuple[tuple[str, View], Found]]:
    result: list[tuple[tuple[str, View], Found]] = []
    for view in VIEWS:
        if row[view] is not None:
            result.append(((str(row["name"]), view), figures_of(row[view])))
        elif view in row["unmeasured"]:
            result.append(((str(row["name"]), view), str(row["unmeasured"][view])))
    return result


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:120]
