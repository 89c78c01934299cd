"""The input that says which positions of padded samples are tokens."""

import re
from collections.abc import Sequence

from qtool.core.errors import UsageError, arg
from qtool.core.tensorspec import InputSpec, describe
from qtool.core.text import meant
from qtool.feeds.checks import quoted

NO_MASK = "none"
_NAMES = ("attention_mask", "input_mask", "encoder_attention_mask")
"""What exporters call it, the likeliest first; 1 is a token in each."""


def chosen_mask(inputs: Sequence[InputSpec], asked: str | None) -> str | None:
    """Return the input [batch, length] whose zeros are padding; None where there is none.

    asked: its name, `none` for none; None finds it: by its name, where another input lies along its batch and length.

    Raises:
        UsageError: the model has no such input, or one of another shape.
    """
    if asked is None:
        named = (spec for name in _NAMES for spec in inputs if re.fullmatch(rf"{name}(:\d+)?", spec.name))
        return next((spec.name for spec in named if _is_mask(spec) and _has_company(spec, inputs)), None)
    known = {spec.name: spec for spec in inputs}
    if asked == NO_MASK and asked not in known:
        return None
    if asked not in known:
        raise UsageError(
            f"{arg('mask', asked)}: is no input of the model{meant(asked, known)}; its inputs are {quoted(known)}"
        )
    if not _is_mask(known[asked]):
        found = describe(known[asked].dtype, known[asked].shape)
        raise UsageError(
            f"{arg('mask', asked)}: the input is {found}; it must be numbers [samples, length], 1 for a token and 0 "
            "for padding"
        )
    return asked


def _is_mask(spec: InputSpec) -> bool:
    return spec.dtype.kind in "iubf" and spec.shape is not None and len(spec.shape) == 2


def _has_company(mask: InputSpec, inputs: Sequence[InputSpec]) -> bool:
    """Whether another input has the mask's batch and length among its axes."""
    batch, length = mask.shape or (None, None)
    return any(
        spec is not mask and spec.shape is not None and length is not None and _has_both(spec.shape, batch, length)
        for spec in inputs
    )


def _has_both(shape: Sequence[int | str | None], batch: int | str | None, length: int | str) -> bool:
    return len(shape) >= 2 and shape[0] == batch and length in shape[1:]
