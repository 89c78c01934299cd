"""The doubts that a calibration raises by itself: one sample, always the same one, inputs that 8 bits hardly hold."""

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qtool.core.numerics.histogram import Distribution
from qtool.core.records.codec import encoded
from qtool.core.records.header import installed_versions
from qtool.core.records.merging import read_otherwise
from qtool.core.records.plan import CalibrationNote, Plan
from qtool.core.records.recipe import CALIBRATED, FLOAT, MADE
from qtool.core.records.statistics import Statistics
from qtool.core.text import amount

_RARE = 0.0005
"""The share of the values at each end that is not the bulk of them."""
_USED = 1 / 16
"""Of its grid, which leaves 16 steps of 256 to nearly all values."""
_CLIPPED = 0.02


def calibration_doubts(statistics: Statistics) -> tuple[str, ...]:
    """Return a line for each thing that makes a whole calibration doubtful, and what to check; mostly none."""
    examples = statistics.examples
    if statistics.part is not None or not statistics.samples:
        return ()
    if statistics.samples == 1 and len(examples) < 2:
        return (
            "one sample calibrated, so that all ranges and figures are of it alone; give some hundred samples of what "
            "the model will see",
        )
    if len(examples) > 1 and all(_same(examples[0], other) for other in examples[1:]):
        return (
            f"all {len(examples)} examples of the {amount(statistics.samples, 'sample')} are identical; check how the "
            "data was made, and calibrate with samples that differ",
        )
    return ()


def grid_doubts(statistics: Statistics, plan: Plan, inputs: Collection[str]) -> tuple[str, ...]:
    """Return a line for each of the inputs whose grid in a plan clips much of what calibrated, or is barely used."""
    result = []
    for row in plan.activations:
        histogram = statistics.tensors.get(row.tensor)
        if row.tensor not in inputs or histogram is None or not histogram.count:
            continue
        low, high = row.params.range
        values = histogram.distribution()
        clipped = float(values.counts[(values.high < low) | (values.low > high)].sum()) / histogram.count
        # what is sparse is 0 nearly everywhere
        filled = (values.low != 0.0) | (values.high != 0.0)
        if not filled.any():
            continue
        values = Distribution(values.low[filled], values.high[filled], values.counts[filled])
        least, greatest = min(values.quantile(_RARE), 0.0), max(values.quantile(1.0 - _RARE), 0.0)
        if clipped > _CLIPPED:
            result.append(
                f"input {row.tensor!r}: {100 * clipped:.1f} % of its values are clipped to {low:.4g} to {high:.4g}; "
                "check that samples are preprocessed alike, or use the calibrator max"
            )
        elif greatest - least < _USED * (high - low):
            result.append(
                f"input {row.tensor!r}: {100 * (1 - 2 * _RARE):g} % of its values lie between {least:.4g} and "
                f"{greatest:.4g}, and its 8 bits reach from {low:.4g} to {high:.4g}; check that no sample is unlike "
                "the others, and that the input is scaled as the model wants it"
            )
    return tuple(result)


def with_ranges(plan: Plan, statistics: Statistics, inputs: Collection[str]) -> Plan:
    """Return the plan with what calibrated it, and the range there of each of the inputs that it does not quantise.

    Nothing calibrated it where there are no samples.
    """
    gridded = {row.tensor for row in plan.activations}
    found = {name: statistics.tensors.get(name) for name in sorted(inputs) if name not in gridded}
    ranges = {name: (h.minimum, h.maximum) for name, h in found.items() if h is not None and h.count}
    known = None
    if statistics.samples:
        known = CalibrationNote(statistics.samples, statistics.values_digest(inputs), dict(statistics.read_by))
    return replace(plan, inputs=ranges, calibration=known)


def notes(plan: Plan) -> dict[str, str]:
    """Return what to note in a model's metadata: what it is made of and how, and the range of some inputs.

    By the entry's key: of the float model the SHA-256, which also tells that qtool made this; how it was made, as JSON;
    of each input that the model does not quantise the range in calibration "low,high", so that whoever evaluates it can
    tell that data is preprocessed otherwise.
    """
    ranges = {f"{CALIBRATED}{name}": f"{low!r},{high!r}" for name, (low, high) in plan.inputs.items()}
    made = {
        "versions": dict(installed_versions()),
        "target": plan.target,
        "scheme": plan.scheme,
        "granularity": plan.granularity,
        "calibrator": plan.calibrator,
        "calibration": None if plan.calibration is None else encoded(plan.calibration),
    }
    return {FLOAT: plan.model_digest, MADE: json.dumps(made), **ranges}


def reading_noted(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return how the data was read that calibrated a model with this metadata; empty where that is not noted."""
    reading = _table(_table(_made(metadata).get("calibration")).get("reading"))
    return {str(k): str(v) for k, v in reading.items()}


def made_otherwise(there: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    """Return what a model was made of that another one was not, a few words each; none where it does not say.

    there, now: the metadata of both.
    """
    before, after = _made(there), _made(now)
    if not before or not after:
        return ()
    found = ["another float model"] if there.get(FLOAT) != now.get(FLOAT) else []
    fed, feeds = _table(before.get("calibration")), _table(after.get("calibration"))
    if fed.get("sha256") != feeds.get("sha256"):
        one, other = (table.get("samples", 0) for table in (fed, feeds))
        found.append("other samples" + (f" ({one}, now {other})" if one != other else ""))
    others = read_otherwise(reading_noted(there), reading_noted(now))
    found += [f"another {name}" for name in others]
    rows = [(name, before.get(name), after.get(name)) for name in ("target", "scheme", "granularity", "calibrator")]
    versions, own = _table(before.get("versions")), _table(after.get("versions"))
    rows += [(name, versions.get(name), own[name]) for name in own]
    return (*found, *(f"{name} {one}, now {other}" for name, one, other in rows if one != other))


def _made(metadata: Mapping[str, str]) -> dict[str, Any]:
    """How a model was made, as its metadata say; empty where they do not."""
    try:
        return _table(json.loads(metadata.get(MADE, "{}")))
    except (ValueError, RecursionError):
        return {}


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def reading_doubts(calibrated: Mapping[str, str], reading: Mapping[str, str], whose: str) -> tuple[str, ...]:
    """Return a line where data is read otherwise than what calibrated; see `Statistics.read_by`.

    whose: calibration it was, in words.
    """
    others = read_otherwise(calibrated, reading)
    if not others:
        return ()
    return (f"{whose} was calibrated on data read with another {' and '.join(others)}; read this data with the same",)


def _same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(array, other[name]) for name, array in one.items())
