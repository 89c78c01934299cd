"""The names of what a call was given, as they were given, for the commands that a report proposes."""

from collections.abc import Mapping
from pathlib import Path

from qtool.core.records.options import Scheme
from qtool.core.records.results import Asked


def asked_of(
    model: str | Path,
    data: object,
    calibration: object,
    reading: tuple[tuple[str, str], ...],
    options: Mapping[str, object],
) -> Asked:
    """Return the names of what was given; a function or an array has none.

    reading: the options that say how data is read, with their values. options: of the command line by their names,
    which changed something; what is None, False or empty is left out.
    """
    return Asked(str(model), _name(data), _name(calibration), reading, _listed(options))


def grid_options(scheme: Scheme, target: str) -> dict[str, object]:
    """Return the options that say how a plan is made, where they are not what is meant without them."""
    plain = Scheme()
    return {
        "scheme": scheme.activations if scheme.activations != plain.activations else None,
        "granularity": scheme.granularity if scheme.granularity != plain.granularity else None,
        "target": target if target != "auto" else None,
        "include_op": scheme.include_ops,
        "exclude_op": scheme.exclude_ops,
        "exclude": scheme.exclude,
    }


def _listed(options: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (option, "" if one is True else str(one))
        for option, value in options.items()
        for one in (value if isinstance(value, list | tuple) else (value,))
        if isinstance(one, str | Path | int | float) and one is not False
    )


def _name(one: object) -> str | None:
    return str(one) if isinstance(one, str | Path) else None
