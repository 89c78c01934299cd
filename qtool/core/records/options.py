"""What the user asks of a quantised model; settings are values, and a wrong combination cannot be built."""

from dataclasses import dataclass
from typing import Literal

from qtool.core.errors import UsageError

SCHEMES = ("symmetric", "affine")
GRANULARITIES = ("per-channel", "per-tensor")
FORMS = ("static", "dynamic", "weight-only")
Form = Literal["static", "dynamic", "weight-only"]
Correction = Literal["auto", "on", "off"]
CORRECTIONS: tuple[Correction, ...] = ("auto", "on", "off")


@dataclass(frozen=True, slots=True)
class Scheme:
    """Representation and selection.

    activations: `affine` or `symmetric` grids for activations (weights are always symmetric).
    granularity: of weights.
    include_ops: quantise these operator types alone; empty means all that the target knows.
    exclude_ops, exclude: operator types, and node names or globs, that stay float.
    form: of layers with weights. `static`: ranges from calibration. `dynamic`: each run takes the ranges of its own
        data, and only weights are stored as integers. `weight-only`: these are, and everything computes in float.
    dynamic: names of layers that are dynamic whatever `form` says.

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
        if self.activations not in SCHEMES:
            raise UsageError(f"unknown scheme {self.activations!r}; choose one of {', '.join(SCHEMES)}")
        if self.granularity not in GRANULARITIES:
            raise UsageError(f"unknown granularity {self.granularity!r}; choose one of {', '.join(GRANULARITIES)}")
        if self.form not in FORMS:
            raise UsageError(f"unknown form {self.form!r}; choose one of {', '.join(FORMS)}")

    def form_of(self, layer: str) -> Form:
        """The form of a layer, by its name."""
        return "dynamic" if layer in self.dynamic else self.form
