"""The commands that reports propose, of what was given."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

from qtool.core.records.results import Asked


def after_calibration(asked: Asked, command: str) -> str:
    """Return how a command begins that needs a calibration file, behind the one that makes it where there is none."""
    model = word(asked.model)
    if asked.calibration is not None:
        return f"`qtool {command} {model}{calibration_text(asked)}"
    file = word(str(PurePath(asked.model).with_suffix(".calib")))
    fixed = options_text(asked, only=("fix",))
    made = f"qtool calibrate {model} {data_text(asked)}{fixed} -o {file}"
    return f"`{made} && qtool {command} {model} --calibration {file}"


def calibration_text(asked: Asked) -> str:
    """Return the option that names the calibration file, with a space in front; "" where there is none."""
    return "" if asked.calibration is None else f" --calibration {word(asked.calibration)}"


def options_text(asked: Asked, *, only: Sequence[str] | None = None, without: Sequence[str] = ()) -> str:
    """Return the options that were given as they are typed, with a space in front of each."""
    wanted = [(name, text) for name, text in asked.options if (only is None or name in only) and name not in without]
    return "".join(f" --{name.replace('_', '-')}{f' {word(text)}' if text else ''}" for name, text in wanted)


def eval_command(asked: Asked, output: str, *options: str) -> str:
    """Return the command that compares a model with float: on the data to evaluate with, or on that which was given.

    options: what stands behind the metric and the decoder that were given.
    """
    data = data_text(replace(asked, data=dict(asked.options).get("eval_data") or asked.data))
    measured = options_text(asked, only=("metric", "decode", "labels"))
    command = f"qtool eval {word(asked.model)} {word(output)} {data}{measured}"
    return " ".join([command, *options])


def inspect_command(model: str, floating: str) -> str:
    """Return the command that tells why a model is slow, on made-up inputs, which serve for times."""
    return f"qtool inspect {word(model)} --float {word(floating)} --latency"


def data_text(asked: Asked) -> str:
    """Return the data as it was given, with how it is read."""
    data = "DATA" if asked.data is None else word(asked.data)
    return " ".join([f"--data {data}", *(f"--{name.replace('_', '-')} {word(text)}" for name, text in asked.reading)])


def word(name: str) -> str:
    """Return a name as a shell takes it."""
    return shlex.quote(name)
