"""The record of a command that ended with an error."""

from dataclasses import dataclass
from typing import Any, ClassVar

from qtool.core.records.header import document


@dataclass(frozen=True, slots=True)
class Failure:
    """A command that ended with an error, so that what was asked for was not written.

    command: its name. exit_code: 2 for wrong usage or bad input, 3 for a bug of qtool. error: the line on stderr.
    """

    SCHEMA: ClassVar[tuple[str, int]] = ("failure", 1)

    command: str
    exit_code: int
    error: str

    def to_dict(self) -> dict[str, Any]:
        """Return the failure as strict JSON; docs/json.md has its keys."""
        return document(self)
