"""`diff`: what two int8 models, two calibration files or two plans differ in."""

from pathlib import Path
from typing import Unpack

from qtool.anatomy.opened import open_model
from qtool.core.arguments import checked_types
from qtool.core.errors import UsageError, arg
from qtool.core.numerics.calibrators import Calibrator
from qtool.core.recognition import is_calibration, is_json
from qtool.core.records.difference import Difference
from qtool.core.records.plan import load_plan
from qtool.core.records.statistics import load_statistics
from qtool.feeds import Data, ReadOptions
from qtool.inspection.diff_calibrations import diff_calibrations
from qtool.inspection.diff_models import diff_models
from qtool.inspection.diff_plans import diff_plans


@checked_types
def diff(
    a: str | Path,
    b: str | Path,
    data: Data | None = None,
    *,
    latency: bool = False,
    calibrator: Calibrator | str = "max",
    **reading: Unpack[ReadOptions],
) -> Difference:
    """Compare two models, two calibration files or two plans, and return what the second has otherwise.

    Args:
        a, b: two ONNX models, of any maker; or two files of `calibrate`; or two plans.
        data: of models, what both are run on, to compare what they compute.
        latency: of models, also time both, side by side; without data on made-up inputs.
        calibrator: of calibration files, what chooses the ranges that are compared.
        reading: how data is read: see `qtool.feeds.ReadOptions`.

    Raises:
        UsageError: files of different kinds, or options that say nothing to files of this kind.
        ModelError, CalibrationError, DataError: as their names say.
    """
    for file in (a, b):
        if not Path(file).exists():
            raise UsageError(f"{file}: does not exist; give a file that does")
    kinds = [_kind(Path(file)) for file in (a, b)]
    if kinds[0] != kinds[1]:
        raise UsageError(f"{a} is {kinds[0]}, and {b} is {kinds[1]}; give two of one kind")
    measured = {"data": data is not None, "latency": latency, **{name: bool(value) for name, value in reading.items()}}
    if kinds[0] != _MODEL:
        for name in (name for name, given in measured.items() if given):
            raise UsageError(f"{arg(name)}: says nothing to {kinds[0].removeprefix('a ')}s; leave it out")
    if data is None and (given := [name for name, value in reading.items() if value]):
        raise UsageError(f"{arg(given[0])}: says how data is read; give {arg('data')}")
    chosen = Calibrator.parse(calibrator)
    if kinds[0] != _CALIBRATION and str(chosen) != "max":
        raise UsageError(f"{arg('calibrator')}: is for calibration files; leave it out")
    if kinds[0] == _CALIBRATION:
        return diff_calibrations(load_statistics(a), load_statistics(b), chosen)
    if kinds[0] == _PLAN:
        return diff_plans(load_plan(a), load_plan(b), (str(a), str(b)))
    return diff_models(open_model(a), open_model(b), data, latency=latency, **reading)


_MODEL, _CALIBRATION, _PLAN = "a model", "a calibration file", "a plan"


def _kind(file: Path) -> str:
    """By what the file is, not by its name; what is neither is a model, whose reader says what is wrong."""
    if is_calibration(file):
        return _CALIBRATION
    return _PLAN if is_json(file) else _MODEL
