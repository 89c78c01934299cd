"""The options that ask something of a model, and what they ask where the answer is no."""

import functools
from collections.abc import Callable
from typing import Any, TypedDict

import click

from qtool.cli.parameters import Share, Size
from qtool.core.records.evaluation import MaxSize


class LimitOptions(TypedDict):
    """The gates that need no metric, as functions take them."""

    min_agreement: float | None
    min_integer: float | None
    min_speedup: float | None
    max_size: MaxSize | None


def limit_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the gates that need no metric; return the command, which takes them as one dictionary, `limits`."""

    @functools.wraps(function)
    def collecting(*args: Any, **values: Any) -> Any:
        return function(*args, limits={name: values.pop(name) for name in LimitOptions.__annotations__}, **values)

    for option in (
        click.option(
            "--max-size",
            type=Size(),
            metavar="SIZE",
            help="Fail where the model is larger: 30% of float's size, or 5MB.",
        ),
        click.option(
            "--min-speedup",
            type=click.FloatRange(min=0, min_open=True),
            metavar="X",
            help="Fail where it is less than X times as fast as float on this machine; times the models for it.",
        ),
        click.option(
            "--min-integer",
            type=Share(),
            metavar="SHARE",
            help="Fail where less of the multiply-accumulates runs in integer kernels, such as 95%.",
        ),
        click.option(
            "--min-agreement",
            type=Share(),
            metavar="SHARE",
            help="Fail where fewer predictions are float's, such as 99%.",
        ),
    ):
        collecting = option(collecting)
    return collecting
