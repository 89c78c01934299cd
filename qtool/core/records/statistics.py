"""The statistics that a calibration pass leaves behind: a histogram for each tensor, a few samples, and whose they are.

The file is a zip of `.npy` arrays and a JSON header: no pickle, and byte for byte the same for the same content.
"""

import io
import json
import math
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from qtool.core.errors import CalibrationError
from qtool.core.files import atomic_output
from qtool.core.numerics.counting import BINS
from qtool.core.numerics.histogram import ChannelRange, Histogram
from qtool.core.records.codec import decoded, encoded, parsed
from qtool.core.records.examples import Row
from qtool.core.records.header import header, without_header
from qtool.core.records.parts import Part, Shard, united
from qtool.core.records.recipe import Recipe
from qtool.core.records.statistics_header import PartHeader, StatisticsHeader, TensorHeader
from qtool.core.records.summary import shortened, summary

VERSION = 2
_HEADER = "header.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_LIMIT = 2**31
"""No member of a genuine file comes near this many bytes."""
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
    examples: the first few batches of inputs, for verification after the data has gone.
    recipe: what was done to the float graph before it was observed.
    channels: tensor -> the range of each channel of its last axis, of the inputs of layers that smoothing may serve.
    ranges: tensor -> a range that is known without a histogram (of smoothed tensors); not saved.
    flaws: tensor -> where NaN or Inf was seen in it; its histogram is empty then, and no range can be chosen.
    part: which part of a calibration they are, whose examples are chosen once it is whole; None for a whole one.
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

    def __repr__(self) -> str:
        return summary(
            "Statistics",
            shortened(self.name),
            f"model {self.model_digest[:8]}",
            f"{self.samples} samples",
            f"{len(self.tensors)} tensors",
            "" if self.part is None else f"shard {self.part.shard}",
            " ".join(self.recipe.steps),
        )

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
        )
        document = {**header("calibration", VERSION), **encoded(content)}
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            _add(archive, _HEADER, json.dumps(document, allow_nan=False).encode())
            for i, histogram in enumerate(self.tensors.values()):
                filled = histogram.counts != 0
                counts = histogram.counts[filled]
                _add(archive, f"{i}.filled.npy", _npy(np.packbits(filled)))
                _add(archive, f"{i}.counts.npy", _npy(counts.astype(_smallest_type(counts))))
            for i, row in enumerate(self.channels.values()):
                _add(archive, f"channels.{i}.npy", _npy(np.stack([row.minimum, row.maximum]).astype("<f4")))
            for i, run in enumerate(runs):
                for j, array in enumerate(run.values()):
                    if array.dtype.kind in "OSU":
                        _add(archive, f"example.{i}.{j}.json", _json(array))
                    else:
                        _add(archive, f"example.{i}.{j}.npy", _npy(array))


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


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array, order="C"), allow_pickle=False)
    return buffer.getvalue()


def _json(array: np.ndarray) -> bytes:
    """Strings, which NumPy would only store as long as the longest, or pickle."""
    flat = [one.decode(errors="replace") if isinstance(one, bytes) else str(one) for one in array.reshape(-1).tolist()]
    return json.dumps({"shape": array.shape, "strings": flat}).encode()


def _strings(text: bytes) -> np.ndarray:
    document = parsed(text.decode())
    shape, flat = document["shape"], document["strings"]
    if not all(isinstance(one, str) for one in flat) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError("an example of strings has another form")
    return np.array(flat, np.object_).reshape(shape)


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, data, compresslevel=1)


def load_statistics(path: str | Path, model_digest: str | None = None, model_name: str = "the model") -> Statistics:
    """Read a calibration file.

    Raises:
        CalibrationError: missing, damaged, of another version, or (where `model_digest` is given) of another model.
    """
    file = Path(path)
    if not file.is_file():
        raise CalibrationError(f"{file}: no such calibration file; make one with `qtool calibrate`")
    return read_statistics(file, str(file), model_digest, model_name)


def read_statistics(
    source: Path | IO[bytes], name: str, model_digest: str | None = None, model_name: str = "the model"
) -> Statistics:
    """Return the statistics from anything that holds what `save` writes, called `name` in messages.

    The arguments and errors are those of `load_statistics`.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            return _read(archive, name, model_digest, model_name)
    except CalibrationError:
        raise
    except Exception as error:  # zipfile, zlib, json and numpy raise a dozen types on damaged input
        reason = " ".join((str(error) or type(error).__name__).split())[:120]
        raise CalibrationError(f"{name}: not a calibration file, or damaged ({reason}); calibrate again") from error


def _read(archive: zipfile.ZipFile, file: str, model_digest: str | None, model_name: str) -> Statistics:
    if any(info.file_size > _LIMIT for info in archive.infolist()):
        raise ValueError("a member is impossibly large")
    document = parsed(archive.read(_HEADER).decode())
    version, content = without_header(document, "calibration", former="qtool_calibration")
    if version is None and not content:
        raise ValueError("its header is another document's")
    if version != VERSION:
        raise CalibrationError(
            f"{file}: calibration format {str(version)[:12]!r}, this qtool reads {VERSION}; calibrate again"
        )
    known = decoded(StatisticsHeader, content)
    if model_digest is not None and known.model != model_digest:
        raise CalibrationError(
            f"{file}: made for another model than {model_name} "
            f"(SHA-256 {known.model[:12]!r} against {model_digest[:12]!r}); calibrate this model"
        )
    examples = tuple(
        {name: _example(archive, f"example.{i}.{j}") for j, name in enumerate(names)}
        for i, names in enumerate(known.examples)
    )
    part = None if known.part is None else _part(known.part, examples)
    return Statistics(
        file,
        known.model,
        known.samples,
        {row.name: _histogram(archive, i, row) for i, row in enumerate(known.tensors)},
        examples if part is None else (),
        known.preparation,
        {name: _channels(archive, i) for i, name in enumerate(known.channels)},
        flaws={name: Flaw(*found) for name, found in (known.not_finite or {}).items()},
        part=part,
    )


def _example(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    if f"{name}.json" in archive.namelist():
        return _strings(archive.read(f"{name}.json"))
    return _array(archive, f"{name}.npy")


def _channels(archive: zipfile.ZipFile, i: int) -> ChannelRange:
    rows = _array(archive, f"channels.{i}.npy")
    if rows.dtype != np.float32 or rows.ndim != 2 or rows.shape[0] != 2:
        raise ValueError(f"channels {i} have another form")
    if not np.isfinite(rows).all() or (rows[0] > rows[1]).any():
        raise ValueError(f"channels {i} have impossible ranges")
    return ChannelRange(rows[0], rows[1])


def _histogram(archive: zipfile.ZipFile, i: int, row: TensorHeader) -> Histogram:
    bits = _array(archive, f"{i}.filled.npy", _LARGEST_HISTOGRAM)
    counts = _array(archive, f"{i}.counts.npy", _LARGEST_HISTOGRAM)
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


def _array(archive: zipfile.ZipFile, name: str, limit: int = _LIMIT) -> np.ndarray:
    """Read a `.npy` member; its header is held against its size first, since numpy allocates what a header claims."""
    if archive.getinfo(name).file_size > limit:
        raise ValueError(f"{name} is impossibly large")
    data = archive.read(name)
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(stream)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ValueError(f"{name} is not as large as it says")
    values = np.frombuffer(data, dtype, math.prod(shape), stream.tell())
    return values.reshape(shape, order="F" if fortran else "C").copy()
