"""Gates that need no metric: the classes that a model predicts, its speed, its size, what of it runs in integers."""

import math
from dataclasses import dataclass
from typing import Any

from qtool.core.errors import UsageError, arg
from qtool.core.records.evaluation import Gate, GateRule, Latency, MaxSize, percent
from qtool.core.records.options import share

ShareLimit = float | str | None
"""A share as a public function takes it: 0.99 or "99%"."""
SizeLimit = MaxSize | str | int | None
"""A size as a public function takes it: "30%" of float's, "5MB", or bytes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits that are asked of a model besides its metrics; None: nothing.

    min_agreement: the least share of predictions that are float's. min_integer: of multiply-accumulates that run in
    integer kernels. min_speedup: the least speed, as a multiple of float's. max_size: of its file, with external data.
    """

    min_agreement: float | None = None
    min_integer: float | None = None
    min_speedup: float | None = None
    max_size: MaxSize | None = None

    @classmethod
    def of(
        cls, min_agreement: ShareLimit, min_integer: ShareLimit, min_speedup: float | None, max_size: SizeLimit
    ) -> "Limits":
        """Return what the arguments of a public function say.

        Raises:
            UsageError: one says nothing, or every model would pass.
        """
        if min_speedup is not None and not 0 < min_speedup < math.inf:
            raise UsageError(f"{arg('min_speedup', min_speedup)}: give a multiple of float's speed, such as 1.2")
        return cls(
            _least("min_agreement", min_agreement),
            _least("min_integer", min_integer),
            min_speedup,
            None if max_size is None else _size(max_size),
        )

    def gates(
        self,
        name: str,
        *,
        agreement: float | None,
        integer: float | None,
        size: tuple[int, int],
        speed: Latency | None,
        unread: str = "no output says classes",
        unknown: str = "",
        untimed: str = "",
    ) -> tuple[Gate, ...]:
        """Return the gates of what is asked of the model of that name.

        Args:
            name: of the model.
            agreement: the share of predictions that are float's; None where it predicts no classes.
            integer: the share of multiply-accumulates in integer kernels; None where it is unknown.
            size: of the model and of float, in bytes.
            speed: of the model beside float; None where it was not measured.
            unread: why there is no share of predictions.
            unknown: why the share in integers is not known.
            untimed: why the speed was not measured.
        """
        asked = (
            self.min_agreement is not None and _agreement(name, agreement, self.min_agreement, unread),
            self.min_integer is not None and _integer(name, integer, self.min_integer, unknown),
            self.min_speedup is not None and _speed(name, speed, self.min_speedup, untimed),
            self.max_size is not None and _file(name, size, self.max_size),
        )
        return tuple(gate for gate in asked if gate)


NO_LIMITS = Limits()


def _least(name: str, given: ShareLimit) -> float | None:
    if given is None:
        return None
    try:
        found = share(given)
    except UsageError as error:
        raise UsageError(f"{arg(name, given)}: {error}") from None
    if found == 0.0:
        raise UsageError(f"{arg(name, given)}: would pass every model; give a share above 0, such as 95%")
    return found


def _size(given: MaxSize | str | int) -> MaxSize:
    try:
        return MaxSize.parse(given)
    except UsageError as error:
        raise UsageError(f"{arg('max_size', given)}: {error}") from None


def _agreement(name: str, found: float | None, limit: float, unread: str) -> Gate:
    asked = f"asked at least {percent(limit)}"
    if found is None:
        said = f" cannot be measured, since {unread}; {asked}; ask for a metric instead"
    else:
        said = f": {percent(found)} of predictions are float's, {asked}"
    return _gate(name, GateRule.MIN_AGREEMENT, "agreement", limit, found, said)


def _integer(name: str, found: float | None, limit: float, unknown: str) -> Gate:
    asked = f"asked at least {percent(limit)}"
    if found is None:
        said = f" is not known{f' ({unknown})' if unknown else ''}; {asked}"
    else:
        said = f": {percent(found)} of multiply-accumulates run in integer kernels, {asked}"
    return _gate(name, GateRule.MIN_INTEGER, "integer", limit, found, said)


def _speed(name: str, speed: Latency | None, limit: float, untimed: str) -> Gate:
    asked = f"asked at least {limit:.4g}x"
    if speed is None:
        return _gate(name, GateRule.MIN_SPEEDUP, "speed", limit, None, f" was not measured ({untimed}); {asked}")
    said = f" is {speed.speedup:.2f}x float's ({speed.median_ms:.3g} ms), {asked}"
    if not speed.noisy:
        return _gate(name, GateRule.MIN_SPEEDUP, "speed", limit, speed.speedup, said)
    said += "; the runs differ too much to say, repeat it on a quiet machine"
    return _gate(name, GateRule.MIN_SPEEDUP, "speed", limit, speed.speedup, said, passed=False)


def _file(name: str, size: tuple[int, int], limit: MaxSize) -> Gate:
    own, of_float = size
    found = own / of_float if limit.relative else float(own)
    is_ = f"{percent(found)} of float's ({own} bytes)" if limit.relative else f"{own} bytes"
    fine = found <= limit.value
    said = f" is {is_}, asked at most {limit}"
    return _gate(name, GateRule.MAX_SIZE, "size", limit.value, found, said, passed=fine, relative=limit.relative)


def _gate(
    name: str,
    rule: GateRule,
    metric: str,
    limit: float,
    found: float | None,
    said: str,
    **answered: Any,
) -> Gate:
    answer = {"relative": False, "passed": found is not None and found >= limit, **answered}
    return Gate(
        model=name, rule=rule, metric=metric, limit=limit, found=found, message=f"{name}: {metric}{said}", **answer
    )
