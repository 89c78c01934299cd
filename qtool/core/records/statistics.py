"""The statistics that a calibration pass leaves behind: a histogram for each tensor, a few samples, and whose they are.

The file is a zip of `.npy` arrays and a JSON header: no pickle, and byte for byte the same for the same content and the
same installed versions, which the header names. Its last member is a checksum of the others.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from qtool.core.arguments import checked_types
from qtool.core.errors import CalibrationError
from qtool.core.files import atomic_output
from qtool.core.numerics.counting import BINS
from qtool.core.numerics.histogram import ChannelRange, Histogram
from qtool.core.reading import DOCUMENT_LIMIT, open_file
from qtool.core.recognition import instead_of_calibration, tilde
from qtool.core.records.codec import decoded, encoded, parsed
from qtool.core.records.examples import Row
from qtool.core.records.header import header, without_header
from qtool.core.records.members import LIMIT, MemberReader, MemberWriter
from qtool.core.records.parts import Part, Shard, united
from qtool.core.records.recipe import Recipe
from qtool.core.records.statistics_header import PartHeader, StatisticsHeader, TensorHeader
from qtool.core.records.summary import shortened, summary
from qtool.core.text import amount

VERSION = 3
_WITH_FIRST = 2
"""The same, with the first samples as examples: parts of those and of these would not add up to one calibration."""
_HEADER = "header.json"
_EXAMPLES_ROOM, _EXAMPLES_SHARE = 2**26, 512
"""What the examples may take together: so many bytes, or so many for each value that was counted of some tensor."""
_LARGEST_HISTOGRAM = BINS * 8 + 1024
_COUNT_TYPES = {"|u1": 2**8, "<u2": 2**16, "<u4": 2**32}
"""Where counts are smaller than this; else 8-byte integers."""


class Flaw(NamedTuple):
    """NaN or Inf in a tensor: the index of the first sample of the batch that it is seen in first, and its name."""

    sample: int
    origin: str


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of a model over data.

    name: what to call them in messages (the file's path).
    model_digest: SHA-256 of the model file they belong to.
    samples: how many samples were seen.
    tensors: tensor name -> histogram.
    examples: some batches of inputs from all over the data, for what is measured after it has gone; see `halves`.
    starts: of each example, the index of the first sample of its batch or sequence in the data; not saved.
    recipe: what was done to the float graph before it was observed.
    channels: tensor -> the range of each channel of its last axis, of the inputs of layers that smoothing may serve.
    ranges: tensor -> a range that is known without a histogram (of smoothed tensors); not saved.
    flaws: tensor -> where NaN or Inf was seen in it; its histogram is empty then, and no range can be chosen.
    part: which part of a calibration they are, whose examples are chosen once it is whole; None for a whole one.
    reading: the options that said how the data is read, by name, as they were given: for commands that are proposed.
    read_by: what they say: digests of the preprocess and of the tokenizer, and the others, by name.
    mask: the input whose zeros are padded positions, of which nothing was counted where tensors have them; "" for none.
    """

    name: str
    model_digest: str
    samples: int
    tensors: dict[str, Histogram]
    examples: tuple[dict[str, np.ndarray], ...]
    recipe: Recipe = field(default_factory=Recipe)
    channels: dict[str, ChannelRange] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    flaws: dict[str, Flaw] = field(default_factory=dict)
    part: Part | None = None
    reading: tuple[tuple[str, str], ...] = ()
    read_by: tuple[tuple[str, str], ...] = ()
    mask: str = ""
    starts: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return summary(
            "Statistics",
            shortened(self.name),
            f"model {self.model_digest[:8]}",
            amount(self.samples, "sample"),
            amount(len(self.tensors), "tensor"),
            "" if self.part is None else f"shard {self.part.shard}",
            " ".join(self.recipe.steps),
        )

    def values_digest(self, inputs: Collection[str]) -> str:
        """Return the SHA-256 of what was fed: how often each value of the inputs occurs, and the examples.

        Whole numbers, such as tokens, are not counted, and are in the examples alone.
        """
        digest = hashlib.sha256()
        for name in sorted(set(inputs) & set(self.tensors)):
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0" + self.tensors[name].counts.tobytes())
        for example in self.examples:
            for name, array in sorted(example.items()):
                digest.update(f"{name}\0{array.dtype}{array.shape}\0".encode("utf-8", "surrogateescape"))
                digest.update(repr(array.tolist()).encode() if array.dtype.kind == "O" else array.tobytes())
        return digest.hexdigest()

    def save(self, path: str | Path) -> int:
        """Write atomically; returns the size in bytes. Raises `OutputError`."""
        with atomic_output(path) as temporary:
            with temporary.open("wb") as stream:
                self._write(stream)
            return temporary.stat().st_size

    def to_bytes(self) -> bytes:
        """Return the bytes that `save` writes."""
        stream = io.BytesIO()
        self._write(stream)
        return stream.getvalue()

    def _write(self, stream: IO[bytes]) -> None:
        runs = self.examples
        part = None
        if self.part is not None:
            # a short sequence gives a run several times
            by_id = {id(run): run for row in self.part.rows for run in row.runs}
            part = _part_header(self.part, {key: i for i, key in enumerate(by_id)})
            runs = tuple(by_id.values())
        content = StatisticsHeader(
            self.model_digest,
            self.samples,
            self.recipe,
            tuple(
                TensorHeader(name, h.minimum, h.maximum) if h.count else TensorHeader(name)
                for name, h in self.tensors.items()
            ),
            tuple(self.channels),
            part,
            tuple(map(tuple, runs)),
            {name: (flaw.sample, flaw.origin) for name, flaw in sorted(self.flaws.items())} or None,
            self.reading or None,
            self.read_by or None,
            self.mask or None,
        )
        document = {**header("calibration", VERSION), **encoded(content)}
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            members = MemberWriter(archive)
            members.add(_HEADER, json.dumps(document, allow_nan=False).encode())
            for i, histogram in enumerate(self.tensors.values()):
                filled = histogram.counts != 0
                counts = histogram.counts[filled]
                members.add_array(f"{i}.filled", np.packbits(filled))
                members.add_array(f"{i}.counts", counts.astype(_smallest_type(counts)))
            for i, row in enumerate(self.channels.values()):
                members.add_array(f"channels.{i}", np.stack([row.minimum, row.maximum]).astype("<f4"))
            for i, run in enumerate(runs):
                for j, array in enumerate(run.values()):
                    members.add_array(f"example.{i}.{j}", array)
            members.add_checksum()


def _part_header(part: Part, number: dict[int, int]) -> PartHeader:
    rows = tuple((row.start, row.size, tuple(number[id(run)] for run in row.runs)) for row in part.rows)
    return PartHeader(
        (part.shard.index, part.shard.count), part.ranges, part.complete, part.settings, part.origin, rows
    )


def _part(header: PartHeader, runs: tuple[dict[str, np.ndarray], ...]) -> Part:
    """Raises `ValueError`, `IndexError` or `UsageError` for what `_part_header` does not write."""
    if united(header.ranges) != header.ranges or (header.ranges and header.ranges[0][0] < 0):
        raise ValueError("impossible ranges of batches")
    rows = tuple(Row(start, size, tuple(runs[i] for i in kept)) for start, size, kept in header.rows)
    return Part(Shard(*header.shard), header.ranges, header.complete, header.settings, header.origin, rows)


def _smallest_type(counts: np.ndarray) -> str:
    """Of those that hold the counts: small ones are compressed in less time."""
    largest = int(counts.max(initial=0))
    return next((kind for kind, end in _COUNT_TYPES.items() if largest < end), "<i8")


@checked_types
def load_statistics(path: str | Path, model_digest: str | None = None, model_name: str = "the model") -> Statistics:
    """Read a calibration file.

    Raises:
        CalibrationError: missing, damaged, of another version, or (where `model_digest` is given) of another model.
    """
    file = Path(path)
    other = instead_of_calibration(file)
    if other is not None:
        raise CalibrationError(f"{file}: {other}")
    try:
        stream = open_file(file)
    except FileNotFoundError as error:
        raise CalibrationError(
            f"{file}: no such calibration file; make one with `qtool calibrate`{tilde(file)}"
        ) from error
    except OSError as error:
        raise CalibrationError(
            f"{file}: cannot be read ({error.strerror}); make a calibration file with `qtool calibrate`"
        ) from error
    with stream:
        return read_statistics(stream, str(file), model_digest, model_name)


def read_statistics(
    source: IO[bytes], name: str, model_digest: str | None = None, model_name: str = "the model"
) -> Statistics:
    """Return the statistics from anything that holds what `save` writes, called `name` in messages.

    The arguments and errors are those of `load_statistics`.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            return _read(MemberReader(archive), name, model_digest, model_name)
    except (CalibrationError, MemoryError):
        raise
    except Exception as error:  # zipfile, zlib, json and numpy raise a dozen types on damaged input
        reason = " ".join((str(error) or type(error).__name__).split())[:120]
        raise CalibrationError(f"{name}: not a calibration file, or damaged ({reason}); calibrate again") from error


def written_by(path: str | Path) -> dict[str, str]:
    """Return the versions that wrote a calibration file, as it says itself; none where it does not say them."""
    with open_file(Path(path)) as stream, zipfile.ZipFile(stream) as archive:
        document = parsed(MemberReader(archive).read(_HEADER, DOCUMENT_LIMIT).decode())
    said = document.get("versions") if isinstance(document, dict) else None
    return {str(name): str(version) for name, version in said.items()} if isinstance(said, dict) else {}


def _read(members: MemberReader, file: str, model_digest: str | None, model_name: str) -> Statistics:
    document = parsed(members.read(_HEADER, DOCUMENT_LIMIT).decode())
    version, content = without_header(document, "calibration", former="qtool_calibration")
    if version is None and not content:
        raise ValueError("its header is another document's")
    if version not in (VERSION, _WITH_FIRST):
        raise CalibrationError(
            f"{file}: calibration format {str(version)[:12]!r}, this qtool reads {VERSION}; calibrate again"
        )
    known = decoded(StatisticsHeader, content)
    if version == _WITH_FIRST and known.part is not None:
        raise CalibrationError(f"{file}: is part of a calibration by an earlier qtool; calibrate all parts again")
    if model_digest is not None and known.model != model_digest:
        raise CalibrationError(
            f"{file}: made for another model than {model_name} "
            f"(SHA-256 {known.model[:12]!r} against {model_digest[:12]!r}); calibrate this model"
        )
    tensors = {row.name: _histogram(members, i, row) for i, row in enumerate(known.tensors)}
    channels = {name: _channels(members, i, tensors.get(name)) for i, name in enumerate(known.channels)}
    examples = _examples(members, known.examples, tensors)
    members.check()
    part = None if known.part is None else _part(known.part, examples)
    return Statistics(
        file,
        known.model,
        known.samples,
        tensors,
        examples if part is None else (),
        known.preparation,
        channels,
        flaws={name: Flaw(*found) for name, found in (known.not_finite or {}).items()},
        part=part,
        reading=known.reading or (),
        read_by=known.read_by or (),
        mask=known.mask or "",
    )


def _examples(
    members: MemberReader, inputs: tuple[tuple[str, ...], ...], tensors: Mapping[str, Histogram]
) -> tuple[dict[str, np.ndarray], ...]:
    """The inputs of each run.

    All together they cannot hold many times more than was counted of the largest tensor, and of a counted one nothing
    that was not.
    """
    counts = {name: histogram.count for name, histogram in tensors.items()}
    counted = max(counts.values(), default=0)
    room = min(LIMIT, max(_EXAMPLES_ROOM, _EXAMPLES_SHARE * counted))
    wanted = [{name: f"example.{i}.{j}" for j, name in enumerate(names)} for i, names in enumerate(inputs)]
    if sum(members.sizes.get(members.of_array(stem), 0) for run in wanted for stem in run.values()) > room:
        raise ValueError("its examples are impossibly large")
    runs = tuple({name: members.read_array(stem) for name, stem in run.items()} for run in wanted)
    for name, array in (item for run in runs for item in run.items() if counts.get(item[0])):
        if not ((array >= tensors[name].minimum) & (array <= tensors[name].maximum)).all():
            raise ValueError(f"an example of {name!r} holds what was not counted")
    return runs


def _channels(members: MemberReader, i: int, whole: Histogram | None) -> ChannelRange:
    rows = members.read_array(f"channels.{i}")
    if rows.dtype != np.float32 or rows.ndim != 2 or rows.shape[0] != 2:
        raise ValueError(f"channels {i} have another form")
    if not np.isfinite(rows).all() or (rows[0] > rows[1]).any():
        raise ValueError(f"channels {i} have impossible ranges")
    if whole is not None and rows.size and (rows[0].min(), rows[1].max()) != (whole.minimum, whole.maximum):
        raise ValueError(f"channels {i} are those of another tensor")
    return ChannelRange(rows[0], rows[1])


def _histogram(members: MemberReader, i: int, row: TensorHeader) -> Histogram:
    bits = members.read_array(f"{i}.filled", _LARGEST_HISTOGRAM)
    counts = members.read_array(f"{i}.counts", _LARGEST_HISTOGRAM)
    if bits.dtype != np.uint8 or bits.shape != (BINS // 8,) or counts.dtype.str not in (*_COUNT_TYPES, "<i8"):
        raise ValueError(f"histogram {i} has another form")
    filled = np.unpackbits(bits).view(np.bool_)
    if counts.shape != (np.count_nonzero(filled),) or (counts <= 0).any():
        raise ValueError(f"histogram {i} has impossible counts")
    histogram = Histogram()
    histogram.counts[filled] = counts
    if counts.size:
        if row.min is None or row.max is None:
            raise ValueError(f"histogram {i} has no range")
        histogram.minimum, histogram.maximum = row.min, row.max
        if not _holds(histogram):
            raise ValueError(f"histogram {i} has an impossible range")
    return histogram


def _holds(histogram: Histogram) -> bool:
    """Whether the exact minimum and maximum fall into bins that are not empty, as they must; false for NaN."""
    if not np.isfinite([histogram.minimum, histogram.maximum]).all():
        return False
    with np.errstate(over="ignore"):
        ends = np.array([histogram.minimum, histogram.maximum], np.float32)
    inside = (histogram.counts[ends.view(np.uint32) >> 16] > 0) | (ends == 0.0)
    return bool(inside.all()) and histogram.minimum <= histogram.maximum
