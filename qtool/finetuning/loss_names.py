"""The losses on labels by what they are called; what computes them needs torch, see `labels.py`."""

import inspect
from collections.abc import Callable
from typing import Any

from qtool.feeds import load_function

Loss = Callable[[dict[str, Any], dict[str, Any]], Any]
LossSpec = str | Loss
CROSS_ENTROPY = "cross_entropy"


def describe(spec: LossSpec | None) -> str | None:
    """Return a text that tells one loss from another: of a function its source, where there is one."""
    if spec is None or spec == CROSS_ENTROPY:
        return spec
    function = load_function(spec) if isinstance(spec, str) else spec
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return getattr(function, "__name__", type(function).__name__)
