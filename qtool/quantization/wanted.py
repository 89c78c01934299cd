"""The accuracy that is wanted of the outputs, and what may be float for it."""

from dataclasses import dataclass

from qtool.core.errors import UsageError, arg
from qtool.core.records.options import share
from qtool.evaluation.gates import check_gates

MIN_SQNR = 20.0
"""The SQNR of the outputs that is wanted where none is asked for, in dB."""
MAX_FLOAT_MACS = 0.1
"""The share of multiply-accumulates that may be left in float for it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The SQNR of the outputs that is wanted, in dB, and the share of multiply-accumulates that may be float for it.

    strict: what is as fast in float counts too, as it does where a share is asked for.
    """

    min_sqnr: float
    max_float_macs: float
    strict: bool = True

    @classmethod
    def of(cls, min_sqnr: float | None, max_float_macs: float | str | None) -> "Wanted":
        """Return what the arguments of a public function say; None is what is wanted where nothing is asked for.

        Raises:
            UsageError: no finite number, or no share.
        """
        check_gates((), None, min_sqnr)
        try:
            most = MAX_FLOAT_MACS if max_float_macs is None else share(max_float_macs)
        except UsageError as error:
            raise UsageError(f"{arg('max_float_macs')}: {error.marked}") from error
        return cls(MIN_SQNR if min_sqnr is None else min_sqnr, most, max_float_macs is not None)
