"""What calibration asks of data."""

from typing import Protocol

import numpy as np


class Batch(Protocol):
    """What a feed yields: input arrays by name, the index and number of the samples, and what to call it in words."""

    @property
    def inputs(self) -> dict[str, np.ndarray]: ...
    @property
    def start(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def origin(self) -> str: ...
