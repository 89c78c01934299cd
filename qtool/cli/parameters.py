"""Types of options: texts of the command line or a configuration file -> the values that functions take."""

import re
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from qtool.core.errors import UsageError
from qtool.core.numerics.calibrators import CALIBRATORS, SPELLINGS, Calibrator, Percentile, listed_calibrators
from qtool.core.records.evaluation import MaxDrop, MaxSize
from qtool.core.records.options import share

if TYPE_CHECKING:
    # generic from click 8.2 on only
    _OfDrop = click.ParamType[MaxDrop]
    _OfShare = click.ParamType[float]
    _OfSize = click.ParamType[MaxSize]
    _OfDuration = click.ParamType[float]
    _OfCalibrator = click.ParamType["Calibrator | str"]
    _OfCalibrators = click.ParamType[tuple[Calibrator, ...]]
else:
    _OfDrop = _OfShare = _OfSize = _OfDuration = _OfCalibrator = _OfCalibrators = click.ParamType

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
CALIBRATOR_METAVAR = f"[{'|'.join(['auto', *SPELLINGS])}]"


class Drop(_OfDrop):
    """A permitted drop: `1%` of the float value, or `0.01` in the metric's own unit. Becomes a `MaxDrop`."""

    name = "drop"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> MaxDrop:
        """Return the `MaxDrop` that `value` says; raise click's usage error where it says none."""
        try:
            return MaxDrop.parse(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class Share(_OfShare):
    """A part of a whole: `10%`, or `0.1`. Becomes a number from 0 to 1."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number that `value` says, from 0 to 1; raise click's usage error where it is no share."""
        try:
            return share(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class Size(_OfSize):
    """The size of a file: `30%` of float's, or `5MB`. Becomes a `MaxSize`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> MaxSize:
        """Return the `MaxSize` that `value` says; raise click's usage error where it says none."""
        try:
            return MaxSize.parse(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class Duration(_OfDuration):
    """A time: `90s`, `30m` or `2h`. Becomes seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds that `value` says; raise click's usage error where it is no time."""
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh])\s*", str(value))
        if found is None or float(found[1]) == 0.0:
            self.fail(f"{value!r} is no time; write 90s, 30m or 2h", param, ctx)
        return float(found[1]) * _SECONDS[found[2]]


def _calibrators(incomplete: str, *others: str) -> list[CompletionItem]:
    names = (*others, *(kind.method for kind in CALIBRATORS))
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


class OneCalibrator(_OfCalibrator):
    """A calibrator by its name, or `auto`."""

    name = "calibrator"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Calibrator | str:
        """Return the calibrator that `value` names; raise click's usage error where it names none.

        "auto", and a calibrator with a parameter that is not given, stay texts: an option of its own may say it.
        """
        try:
            found = Calibrator.parse(value) if value != "auto" else None
            return found if found is not None and value != Percentile.method else value
        except UsageError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        """Return the calibrators that begin so, for a shell."""
        return _calibrators(incomplete, "auto")


class Calibrators(_OfCalibrators):
    """Calibrators with commas between them."""

    name = "calibrators"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Calibrator, ...]:
        """Return the calibrators that `value` lists; raise click's usage error where one is none."""
        try:
            return listed_calibrators(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        """Return the lists whose last calibrator begins so, for a shell."""
        before, comma, last = incomplete.rpartition(",")
        return [CompletionItem(before + comma + item.value) for item in _calibrators(last)]
