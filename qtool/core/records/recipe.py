"""The changes to the float graph before quantisation beyond the folding that every model gets, as data.

Calibration files and plans carry it: whoever reads one prepares the model the same way, without the data that decided.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qtool.core.errors import DataError, arg
from qtool.core.numerics.affine import FLOAT32_MAX
from qtool.core.records.codec import OPTIONAL, decoded, encoded

EQUALIZE = "equalize"
ABSORB_BIASES = "absorb-biases"
SMOOTH = "smooth"
SOFTEN_MASKS = "soften-masks"
JOIN_ATTENTION = "join-attention"
STEPS = (EQUALIZE, ABSORB_BIASES, SOFTEN_MASKS, JOIN_ATTENTION, SMOOTH)
ASKED = {EQUALIZE: "equalize", ABSORB_BIASES: "absorb_biases"}
"""The steps that are done where a caller asks for them, and the argument that does; the others are tried unasked."""
NUMBERS = {EQUALIZE: "scales", ABSORB_BIASES: "shifts", SMOOTH: "smoothing"}
"""The fields of `Recipe` that hold what steps decided; others decide nothing."""
_MAY_BE_ZERO = {"shifts"}
FIXED = "qtool.fixed."
"""What the metadata of a model call the value of an input that it is made for, with the input's name behind it."""
CALIBRATED = "qtool.calibrated."
"""What the metadata of a model call the range that an input had in calibration, where no grid of its own says that."""
FLOAT = "qtool.float"
"""What the metadata of an int8 model call the SHA-256 of the float model that it is made of."""
MADE = "qtool.made"
"""What the metadata of an int8 model call how it was made: versions, options, and what calibrated it, as JSON."""
# elements of an input, in messages
_SHOWN = 8

Channels = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Steps, and what they decided.

    steps: which of `STEPS` were asked for, in their order; a step may have found nothing to do.
    scales: output of a layer -> what each of its channels is divided by (positive).
    shifts: output of a layer -> by how much each of its channels is lowered, after `scales` (not negative).
    smoothing: input of a layer -> what each of its channels is divided by (positive), and the weight multiplied by.
    fixed: input of the model -> the one value that it is prepared for, element by element; None where there is none.
    attention: the products, by name, that end what becomes one kernel of attention; None where there is none.
    transposed: true where each ConvTranspose stays one, in forms that would compute what it is rewritten as in float.
    recurrent: true where each GRU stays one, where the steps that it is rewritten as would not be integers.
    """

    steps: tuple[str, ...] = ()
    scales: Channels = field(default_factory=dict)
    shifts: Channels = field(default_factory=dict)
    smoothing: Channels = field(default_factory=dict)
    fixed: Channels | None = field(default=None, metadata=OPTIONAL)
    transposed: bool | None = field(default=None, metadata=OPTIONAL)
    attention: tuple[str, ...] | None = field(default=None, metadata=OPTIONAL)
    recurrent: bool | None = field(default=None, metadata=OPTIONAL)

    @property
    def left(self) -> dict[str, bool]:
        """The arguments of `qtool.pipeline.prepare.prepare` that say what is not rewritten."""
        return {"transposed": bool(self.transposed), "recurrent": bool(self.recurrent)}

    @property
    def idle(self) -> tuple[str, ...]:
        """The steps that found nothing to do."""
        return tuple(step for step in self.steps if step in NUMBERS and not getattr(self, NUMBERS[step]))

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as strict JSON, which `read_recipe` takes."""
        result: dict[str, Any] = encoded(self)
        return result

    def check(self) -> None:
        """Raise `ValueError`, naming the field, where no such graph can be made."""
        if list(self.steps) != [step for step in STEPS if step in self.steps]:
            raise ValueError(f"steps: some of {', '.join(STEPS)}, in this order, are needed")
        for step, name in NUMBERS.items():
            channels: Channels = getattr(self, name) or {}
            for tensor, row in channels.items():
                if not all(0.0 <= n <= FLOAT32_MAX and (n > 0.0 or name in _MAY_BE_ZERO) for n in row):
                    wanted = "no negative" if name in _MAY_BE_ZERO else "positive"
                    raise ValueError(f"{name}[{tensor!r}]: {wanted} float32 numbers are needed")
            if channels and step not in self.steps:
                raise ValueError(f"steps: {step} is missing, whose {name} are there")
        if bool(self.attention) != (JOIN_ATTENTION in self.steps):
            raise ValueError(f"attention: names are needed where steps has {JOIN_ATTENTION}, and there alone")
        if any(not row for row in (self.fixed or {}).values()):
            raise ValueError("fixed: a value is needed")


def text_of(name: str, numbers: Sequence[float]) -> str:
    """Return the words in which a user fixes an input to a value: `sr=16000`."""
    return f"{name}={','.join(str(int(n)) if float(n).is_integer() else repr(float(n)) for n in numbers)}"


def check_fixed(inputs: Mapping[str, np.ndarray], fixed: Channels | None, where: str, says: str = "") -> None:
    """Refuse data in which an input that is fixed to one value has another.

    `says`: the model that is for that value alone; "" names the argument that fixes it. Raises `DataError`.
    """
    for name, numbers in (fixed or {}).items():
        rows = inputs[name].reshape(-1, len(numbers))
        other = (rows != np.asarray(numbers).astype(rows.dtype)).any(axis=1)
        if other.any():
            seen, wanted = text_of(name, rows[other][0, :_SHOWN].tolist()), text_of(name, numbers)
            why = f"{says} is for {wanted} alone" if says else f"{arg('fix', wanted)} says otherwise"
            raise DataError(f"{where}: holds {seen}, and {why}; leave such samples out, or make another model of them")


def read_recipe(data: Any, where: str = "preparation") -> Recipe:
    """Return the recipe that `Recipe.to_dict` wrote. Raises `ValueError` for anything else than it writes."""
    return decoded(Recipe, data, where)
