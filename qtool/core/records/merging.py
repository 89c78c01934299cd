"""Adds statistics together: the parts of one calibration, or whole calibrations of one model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from qtool.core.errors import CalibrationError, arg
from qtool.core.numerics.histogram import ChannelRange, Histogram, no_channels
from qtool.core.records.examples import chosen, in_turns, starts, with_room
from qtool.core.records.parts import Part, Shard, united
from qtool.core.records.recipe import ASKED
from qtool.core.records.statistics import Flaw, Statistics
from qtool.core.text import amount


class Sum:
    """Parts of one shard, added as they come, in any order; takes over the histograms of the first."""

    def __init__(self, first: Statistics) -> None:
        part = _part_of(first)
        self._first = first
        self.samples = first.samples
        self.ranges = part.ranges
        self._rows = part.rows

    def add(self, statistics: Statistics) -> None:
        """Add a part. Raises `ValueError` where it holds a batch that is there already."""
        part = _part_of(statistics)
        self.ranges = united((*self.ranges, *part.ranges))
        self._rows = with_room((*self._rows, *part.rows))
        self.samples += statistics.samples
        _add(self._first.tensors, self._first.channels, self._first.flaws, statistics)

    def statistics(self, *, complete: bool, origin: str = "") -> Statistics:
        """Return what has been added, as a part."""
        part = replace(_part_of(self._first), ranges=self.ranges, rows=self._rows, complete=complete, origin=origin)
        return _sound(replace(self._first, samples=self.samples, part=part))


def whole(statistics: Statistics) -> Statistics:
    """Return a complete part that is all there is, as a calibration: with its examples chosen."""
    rows = _part_of(statistics).rows
    examples = chosen(rows)
    return replace(statistics, examples=examples, starts=starts(rows, examples), part=None)


def merge(given: Sequence[Statistics]) -> Statistics:
    """Return the sum of all shards of one calibration, which is what one run gives, or of whole calibrations.

    The examples of whole calibrations take turns.

    Raises:
        CalibrationError: they do not belong together, or a shard is missing, unfinished or there twice.
    """
    first = given[0]
    for other in given[1:]:
        _check_alike(first, other)
    if all(one.part is None for one in given):
        return replace(_total(given), examples=in_turns([one.examples for one in given]))
    for one in given:
        if one.part is None:
            raise CalibrationError(f"{one.name}: is a whole calibration, others are shards; merge the shards first")
        if not one.part.complete:
            raise CalibrationError(f"{one.name}: is unfinished; run its `qtool calibrate` again, which goes on from it")
    parts = [_part_of(one) for one in given]
    _check_shards(given, parts)
    rows = tuple(row for part in parts for row in part.rows)
    total = _total(sorted(given, key=lambda one: _part_of(one).shard.index))
    if total.samples == 0:
        raise CalibrationError(f"{first.name}: no shard holds samples; calibrate with data")
    return replace(total, examples=chosen(rows), part=None)


def _check_alike(first: Statistics, other: Statistics) -> None:
    differing = {
        "model": first.model_digest != other.model_digest,
        f"preparation ({', '.join(arg(name) for name in ASKED.values())})": first.recipe != other.recipe,
        f"{arg('mask')}": first.mask != other.mask,
        "list of tensors, made by another version of qtool": list(first.tensors) != list(other.tensors),
    }
    for what, differs in differing.items():
        if differs:
            raise CalibrationError(
                f"{other.name}: is of another {what} than {first.name}; merge calibrations made alike"
            )


def _check_shards(given: Sequence[Statistics], parts: Sequence[Part]) -> None:
    count = parts[0].shard.count
    seen: dict[int, str] = {}
    for one, part in zip(given, parts, strict=True):
        if part.shard.count != count or part.settings != parts[0].settings:
            raise CalibrationError(
                f"{one.name}: is shard {part.shard} of a calibration with other data or options than {given[0].name}; "
                f"merge shards that differ only in {arg('shard')}"
            )
        if part.shard.index in seen:
            raise CalibrationError(f"{one.name}: is shard {part.shard}, as {seen[part.shard.index]} is; give each once")
        seen[part.shard.index] = one.name
    absent = [str(Shard(i, count)) for i in range(1, count + 1) if i not in seen]
    if absent:
        shown = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        raise CalibrationError(f"{given[0].name}: of its {count} shards {shown} are missing; give all of them")
    total = sum(part.batches for part in parts)
    for one, part in zip(given, parts, strict=True):
        expected = len(range(part.shard.index - 1, total, count))
        if part.batches != expected:
            raise CalibrationError(
                f"{one.name}: shard {part.shard} has {amount(part.batches, 'batch', 'batches')}, not {expected} of "
                f"{total}; make all shards from the same data"
            )


def _total(given: Sequence[Statistics]) -> Statistics:
    tensors = {name: Histogram() for name in given[0].tensors}
    channels: dict[str, ChannelRange] = {}
    flaws: dict[str, Flaw] = {}
    for one in given:
        _add(tensors, channels, flaws, one)
    samples = sum(one.samples for one in given)
    reading = given[0].reading if all(one.reading == given[0].reading for one in given) else ()
    known: dict[str, str] = {}
    for one in given:
        for name in read_otherwise(known, dict(one.read_by)):
            raise CalibrationError(
                f"{one.name}: its data was read with another {name} than that of {given[0].name}; calibrate all with "
                "the same"
            )
        known |= dict(one.read_by)
    total = replace(
        given[0],
        samples=samples,
        tensors=tensors,
        channels=channels,
        flaws=flaws,
        reading=reading,
        read_by=tuple(sorted(known.items())),
    )
    return _sound(total)


def read_otherwise(one: Mapping[str, str], other: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of what both readings of data say, and say otherwise, see `Statistics.read_by`.

    What one does not say says nothing: arrays need no preprocess, and may hold what pictures become by one.
    """
    return tuple(name for name in one if name in other and one[name] != other[name])


def _sound(statistics: Statistics) -> Statistics:
    """Without what was counted of tensors that hold NaN or Inf: it depends on when that was seen."""
    flaws = statistics.flaws
    if not flaws:
        return statistics
    tensors = {name: Histogram() if name in flaws else histogram for name, histogram in statistics.tensors.items()}
    channels = {name: row for name, row in statistics.channels.items() if name not in flaws}
    return replace(statistics, tensors=tensors, channels=channels)


def _add(
    tensors: dict[str, Histogram], channels: dict[str, ChannelRange], flaws: dict[str, Flaw], other: Statistics
) -> None:
    for name, flaw in other.flaws.items():
        flaws[name] = min(flaw, flaws.get(name, flaw))
    for name, histogram in other.tensors.items():
        tensors[name].merge(histogram)
    for name, row in other.channels.items():
        known = channels.setdefault(name, no_channels(row.minimum.size))
        if known.minimum.shape != row.minimum.shape:
            raise CalibrationError(f"{other.name}: tensor {name!r} has another number of channels; calibrate again")
        known.merge(row)


def _part_of(statistics: Statistics) -> Part:
    assert statistics.part is not None
    return statistics.part
