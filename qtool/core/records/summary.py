"""Short forms of results for `repr`: the essentials, whatever the size of the model."""

from pathlib import Path

_LIMIT = 480
_NAME = 60


def summary(name: str, *parts: str) -> str:
    """Return `Name(part, part, ...)`, in under 500 characters."""
    inside = ", ".join(part for part in parts if part)
    return f"{name}({inside})" if len(inside) <= _LIMIT - len(name) else f"{name}({inside[: _LIMIT - len(name)]}...)"


def shortened(text: str | Path) -> str:
    """Return a name or path, of which the middle is left out where it is long."""
    given = str(text)
    return given if len(given) <= _NAME else f"{given[: _NAME // 2]}...{given[-_NAME // 2 :]}"
