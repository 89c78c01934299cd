"""Arrays whose first axis counts samples, read a few at a time: `.npz`, `.npy`, or in memory."""

import io
import math
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from numpy.lib import format as npy_format

from qtool.core.errors import DataError, QtoolError
from qtool.core.process import memory_of_machine
from qtool.core.reading import open_file
from qtool.core.text import amount

_PIECE = 1 << 20
_FORTRAN_LIMIT = 64 << 20
_MOST_EMPTY = 2**24


@dataclass(frozen=True, slots=True)
class Header:
    """The shape and type that a stored array states before its values."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool = False

    @property
    def nbytes(self) -> int:
        """The size of the values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class Rows(Protocol):
    """A reader of an array, from its first sample on."""

    def read(self, count: int) -> np.ndarray:
        """Return the next `count` samples, which the header promises to be there. Raises `DataError`."""
        ...

    def skip(self, count: int) -> None:
        """Leave the next `count` samples out. Raises `DataError`."""
        ...


class Table(Protocol):
    """Named arrays with a common first axis."""

    @property
    def name(self) -> str:
        """The file's or the data's name, for messages."""

    @property
    def headers(self) -> Mapping[str, Header]:
        """The header of each array, by its name."""

    @contextmanager
    def open(self) -> Iterator[Mapping[str, Rows]]:
        """Yield readers of all arrays by name, each at its first sample. Raises `DataError`."""
        ...


class NpzTable:
    """The arrays of a `.npz` file, compressed or not, never whole in memory.

    Arrays in Fortran order cannot be read sample by sample; up to 64 MiB they are read whole, above that
    refused.

    Raises:
        DataError: the file is no readable `.npz`, or an array needs pickle, or it is shorter than its header
            says.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self.headers: dict[str, Header] = {}
        with _readable(self.name), open_file(path) as file, zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                if not member.filename.endswith(".npy"):
                    continue
                label = member.filename.removesuffix(".npy")
                if label in self.headers:
                    raise DataError(f"{self.name}: holds the array '{label}' twice; save it again")
                with archive.open(member) as stream:
                    header, offset = _header(self.name, label, stream)
                _check_length(self.name, label, header, member.file_size - offset)
                self.headers[label] = header
        if not self.headers:
            raise DataError(f"{self.name}: holds no arrays; save them with numpy.savez")

    @contextmanager
    def open(self) -> Iterator[Mapping[str, Rows]]:
        """Yield readers of all arrays by name, each at its first sample. Raises `DataError`."""
        with ExitStack() as stack:
            rows: dict[str, Rows] = {}
            with _readable(self.name):
                archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(open_file(self._path))))
                for label in self.headers:
                    stream = stack.enter_context(archive.open(f"{label}.npy"))
                    rows[label] = _stored_rows(self.name, label, stream)
            yield rows


class NpyTable:
    """The one array of a `.npy` file, under the name of the input that it feeds, never whole in memory.

    Raises:
        DataError: the file is no readable `.npy`, or needs pickle, or is shorter than its header says.
    """

    def __init__(self, path: Path, label: str) -> None:
        self.name = str(path)
        self._path = path
        self._label = label
        with _readable(self.name), open_file(path) as stream:
            header, offset = _header(self.name, label, stream)
            _check_length(self.name, label, header, stream.seek(0, io.SEEK_END) - offset)
        self.headers = {label: header}

    @contextmanager
    def open(self) -> Iterator[Mapping[str, Rows]]:
        """Yield a reader of the array, by its name. Raises `DataError`."""
        with ExitStack() as stack:
            with _readable(self.name):
                stream = stack.enter_context(open_file(self._path))
                rows = _stored_rows(self.name, self._label, stream)
            yield {self._label: rows}


class ArrayTable:
    """A table of arrays that are in memory."""

    def __init__(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        self.name = name
        self._arrays = {label: np.asarray(array) for label, array in arrays.items()}
        self.headers = {label: Header(array.shape, array.dtype) for label, array in self._arrays.items()}

    @contextmanager
    def open(self) -> Iterator[Mapping[str, Rows]]:
        """Yield readers of all arrays by name, each at its first sample."""
        yield {label: _MemoryRows(array) for label, array in self._arrays.items()}


class _MemoryRows:
    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self._next = 0

    def read(self, count: int) -> np.ndarray:
        first, self._next = self._next, self._next + count
        return self._array[first : self._next] if self._array.ndim else self._array

    def skip(self, count: int) -> None:
        self._next += count


class _StreamRows:
    def __init__(self, where: str, label: str, stream: IO[bytes], header: Header) -> None:
        self._where = where
        self._label = label
        self._stream = stream
        self._header = header

    def read(self, count: int) -> np.ndarray:
        shape = (count, *self._header.shape[1:]) if self._header.shape else ()
        return _read_values(self._where, self._label, self._stream, shape, self._header.dtype)

    def skip(self, count: int) -> None:
        size = count * math.prod(self._header.shape[1:]) * self._header.dtype.itemsize
        with _readable(self._where):
            if not isinstance(self._stream, zipfile.ZipExtFile):
                self._stream.seek(size, io.SEEK_CUR)
                return
            # seeking from where a member is, Python 3.12.1 seeks from where another one was read last
            while size > 0 and (passed := len(self._stream.read(min(size, _PIECE)))):
                size -= passed


def _stored_rows(where: str, label: str, stream: IO[bytes]) -> Rows:
    header, _ = _header(where, label, stream)
    if not header.fortran or len(header.shape) < 2:
        return _StreamRows(where, label, stream, header)
    values = _read_values(where, label, stream, header.shape[::-1], header.dtype)
    return _MemoryRows(values.transpose())


def _header(where: str, label: str, stream: IO[bytes]) -> tuple[Header, int]:
    """The header, and its length in bytes. Source: numpy.lib.format, versions 1.0 and 2.0."""
    try:
        with warnings.catch_warnings():
            # numpy tells of headers that Python 2 wrote, and reads them
            warnings.simplefilter("ignore")
            version = npy_format.read_magic(stream)
            if version == (1, 0):
                shape, fortran, dtype = npy_format.read_array_header_1_0(stream)
            elif version == (2, 0):
                shape, fortran, dtype = npy_format.read_array_header_2_0(stream)
            else:
                raise ValueError(f"format version {version[0]}.{version[1]}")
    except Exception as error:  # of Python's parser, too
        raise DataError(f"{where}: '{label}' is no NumPy array ({_first_line(error)}); save it again") from error
    header = Header(shape, dtype, fortran)
    if dtype.hasobject:
        raise DataError(
            f"{where}: '{label}' holds Python objects, which would need pickle; save arrays of numbers "
            f"that all have one shape, or a folder with one file a sample"
        )
    if fortran and len(shape) > 1 and header.nbytes > _FORTRAN_LIMIT:
        raise DataError(
            f"{where}: '{label}' is in Fortran order and too large to be read whole; save numpy.ascontiguousarray of it"
        )
    return header, stream.tell()


def _check_length(where: str, label: str, header: Header, found: int) -> None:
    samples, *rest = header.shape or (1,)
    # of arrays without values the length of the file says nothing
    countless = header.nbytes == 0 and samples > _MOST_EMPTY
    if min(header.shape, default=0) < 0 or header.nbytes != found or countless:
        raise DataError(
            f"{where}: '{label}' is damaged: {amount(found, 'byte')} of values, its header says "
            f"{header.nbytes}; save it again"
        )
    size = math.prod(rest) * header.dtype.itemsize
    if size > memory_of_machine():
        raise DataError(
            f"{where}: one sample of '{label}' takes {size >> 20} MiB, more than this machine has; save it in smaller "
            "samples, with their number as the first axis"
        )


def _read_values(where: str, label: str, stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    with _readable(where):
        values = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
        done = 0
        while done < values.size:
            piece = stream.read(min(_PIECE, values.size - done))
            if not piece:
                raise EOFError(f"'{label}' ends early")
            values[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
            done += len(piece)
    array: np.ndarray = values.view(dtype).reshape(shape)
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


@contextmanager
def _readable(where: str) -> Iterator[None]:
    """Turns whatever reading a damaged file raises into a `DataError`."""
    try:
        yield
    except QtoolError:
        raise
    except MemoryError as error:
        raise DataError(f"{where}: one sample does not fit into memory; check the file") from error
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({_first_line(error)}); check the file") from error
    except Exception as error:  # zipfile, zlib, lzma and numpy raise a dozen types on damaged input
        raise DataError(f"{where}: is damaged or cannot be read ({_first_line(error)}); save it again") from error


def _first_line(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.splitlines() or [type(error).__name__])[0][:200]
