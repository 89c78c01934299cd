"""The settings that a user asks for in a quantised model: values, of which a wrong combination cannot be built."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from qtool.core.arguments import check_type
from qtool.core.errors import UsageError, arg

SCHEMES = ("symmetric", "affine")
GRANULARITIES = ("per-channel", "per-tensor")
Form = Literal["static", "dynamic", "weight-only"]
FORMS: tuple[Form, ...] = ("static", "dynamic", "weight-only")
Correction = Literal["auto", "on", "off"]
CORRECTIONS: tuple[Correction, ...] = ("auto", "on", "off")
Bits = Literal["int4", "int8"]
BITS: tuple[Bits, ...] = ("int4", "int8")
Rounding = Literal["auto", "nearest", "scales", "gptq"]
ROUNDINGS: tuple[Rounding, ...] = ("auto", "nearest", "scales", "gptq")
Written = Literal["qoperator", "qdq"]
WRITTEN: tuple[Written, ...] = ("qoperator", "qdq")
BLOCKS = (16, 32, 64, 128, 256)
"""The sizes of blocks that onnxruntime's kernel takes."""


def names(given: str | Iterable[str]) -> tuple[str, ...]:
    """Return names as a tuple; a text is one name."""
    return (given,) if isinstance(given, str) else tuple(given)


def share(given: str | float) -> float:
    """Return the part of a whole that a text or number says, from 0 to 1: 0.1 or "10%".

    Raises:
        UsageError: not a number, or outside 0 to 1.
    """
    number = re.fullmatch(r"\s*([0-9.eE+-]+)\s*(%?)\s*", str(given))
    try:
        found = float(number[1]) / (100 if number[2] else 1) if number else math.nan
    except ValueError:
        found = math.nan
    if not 0.0 <= found <= 1.0:
        raise UsageError(f"a share of '{given}' makes no sense; give 0% to 100%, such as 10%, or 0 to 1, such as 0.1")
    return found


Names = str | Sequence[str]
"""One name, or several."""


@dataclass(frozen=True, slots=True)
class BlockWise:
    """Weights in blocks: what is stored of each product of a layer, and how it is found.

    bits: of an integer. block: how many numbers of a sum share a scale, and with the affine scheme a zero point.
    rounding: `nearest` integers on the grid that reaches the largest number; `scales` that are searched; `gptq`: these,
        and integers that take up each other's error on data. `auto`: what measures best, without data `scales`.
    written: as an operator of onnxruntime's, or as DequantizeLinear of opset 21, which onnxruntime fuses to the same.

    Raises:
        UsageError: an unknown value.
    """

    bits: Bits = "int4"
    block: int = 32
    rounding: Rounding = "auto"
    written: Written = "qoperator"

    def __post_init__(self) -> None:
        known: dict[str, tuple[object, tuple[object, ...]]] = {
            "weights": (self.bits, BITS),
            "block": (self.block, BLOCKS),
            "rounding": (self.rounding, ROUNDINGS),
            "weight_format": (self.written, WRITTEN),
        }
        for name, (value, values) in known.items():
            if value not in values:
                raise UsageError(f"{arg(name, str(value))}: is unknown; choose one of {', '.join(map(str, values))}")

    @property
    def width(self) -> int:
        """The bits of an integer, as a number."""
        return int(self.bits.removeprefix("int"))


@dataclass(frozen=True, slots=True)
class Scheme:
    """Representation and selection.

    activations: `affine` or `symmetric` grids for activations, and for weights in blocks (others are symmetric).
    granularity: of weights.
    include_ops: quantise only these operator types; empty means all that the target knows.
    exclude_ops, exclude: operator types, and node names or globs, that stay float.
    form: of layers with weights. `static`: ranges from calibration. `dynamic`: each run takes the ranges of its own
        data, and only weights are stored as integers. `weight-only`: these are, and all inputs stay float.
    dynamic: names of layers that are dynamic whatever `form` says.

    Names may be given as any sequence, or as one text for one name; they are kept as tuples.

    Raises:
        UsageError: an unknown value.
    """

    activations: Literal["symmetric", "affine"] = "affine"
    granularity: Literal["per-channel", "per-tensor"] = "per-channel"
    include_ops: tuple[str, ...] = ()
    exclude_ops: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    form: Form = "static"
    dynamic: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in ("include_ops", "exclude_ops", "exclude", "dynamic"):
            check_type(field, getattr(self, field), Names)
            object.__setattr__(self, field, names(getattr(self, field)))
        if self.activations not in SCHEMES:
            raise UsageError(f"unknown scheme {self.activations!r}; choose one of {', '.join(SCHEMES)}")
        if self.granularity not in GRANULARITIES:
            raise UsageError(f"unknown granularity {self.granularity!r}; choose one of {', '.join(GRANULARITIES)}")
        if self.form not in FORMS:
            raise UsageError(f"unknown form {self.form!r}; choose one of {', '.join(FORMS)}")

    @property
    def selects(self) -> bool:
        """Whether it says which nodes are quantised."""
        return bool(self.include_ops or self.exclude_ops or self.exclude)

    def selecting(
        self, include_ops: str | Iterable[str], exclude_ops: str | Iterable[str], exclude: str | Iterable[str]
    ) -> "Scheme":
        """Return a copy of the scheme with these selections.

        Raises:
            UsageError: one of them is given here and in the scheme.
        """
        given = {"include_ops": names(include_ops), "exclude_ops": names(exclude_ops), "exclude": names(exclude)}
        for field, value in given.items():
            if value and getattr(self, field):
                raise UsageError(f"{arg(field)} is given twice, once in {arg('scheme')}; leave one of them out")
        return replace(
            self,
            include_ops=given["include_ops"] or self.include_ops,
            exclude_ops=given["exclude_ops"] or self.exclude_ops,
            exclude=given["exclude"] or self.exclude,
        )

    def form_of(self, layer: str) -> Form:
        """Return the form of a layer, by its name."""
        return "dynamic" if layer in self.dynamic else self.form
