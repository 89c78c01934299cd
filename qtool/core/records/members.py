"""Members of a zip file of arrays: byte for byte the same for the same content, with a checksum, and safe to read.

Sizes are held against limits before anything is decompressed, and nothing is pickled.
"""

import hashlib
import io
import json
import math
import warnings
import zipfile

import numpy as np

from qtool.core.records.codec import parsed

LIMIT = 2**31
"""No member of a genuine file comes near this many bytes."""
_CHECKSUM = "sha256"
_EPOCH = (1980, 1, 1, 0, 0, 0)


class MemberWriter:
    """Writes members one by one, with the same time of change for all."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._digests: dict[str, str] = {}

    def add(self, name: str, data: bytes) -> None:
        """Add a member of that name."""
        info = zipfile.ZipInfo(name, _EPOCH)
        info.compress_type = zipfile.ZIP_DEFLATED
        self._archive.writestr(info, data, compresslevel=1)
        self._digests[name] = hashlib.sha256(data).hexdigest()

    def add_array(self, stem: str, array: np.ndarray) -> None:
        """Add an array as `.npy`, or as `.json` where it holds strings, which NumPy would pickle."""
        if array.dtype.kind in "OSU":
            self.add(f"{stem}.json", _of_strings(array))
            return
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.asarray(array, order="C"), allow_pickle=False)
        self.add(f"{stem}.npy", buffer.getvalue())

    def add_checksum(self) -> None:
        """Add the checksum of all that was added before; nothing may follow."""
        self.add(_CHECKSUM, _checksum(self._digests))


class MemberReader:
    """Reads the members of a file that somebody may have made. sizes: of each member, in bytes, as the file says."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.sizes = {info.filename: info.file_size for info in archive.infolist()}
        self._digests: dict[str, str] = {}
        if len(self.sizes) < len(archive.infolist()):
            raise ValueError("a member is there twice")

    def read(self, name: str, limit: int = LIMIT) -> bytes:
        """Return the bytes of a member.

        Raises:
            ValueError: it is larger than `limit`, which is seen before it is decompressed.
            KeyError: it is not there.
        """
        if self.sizes.get(name, 0) > limit:
            raise ValueError(f"{name} is impossibly large")
        data = self._archive.read(name)
        self._digests[name] = hashlib.sha256(data).hexdigest()
        return data

    def of_array(self, stem: str) -> str:
        """Return the name of the member that `MemberWriter.add_array` makes of an array."""
        return f"{stem}.json" if f"{stem}.json" in self.sizes else f"{stem}.npy"

    def read_array(self, stem: str, limit: int = LIMIT) -> np.ndarray:
        """Return an array; its header is held against its size first, since NumPy allocates what a header claims.

        Raises:
            ValueError, KeyError: as `read`, and where it is another thing than an array.
        """
        name = self.of_array(stem)
        data = self.read(name, limit)
        if name.endswith(".json"):
            return _strings(data)
        stream = io.BytesIO(data)
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with warnings.catch_warnings():
            # NumPy tells of headers that Python 2 wrote
            warnings.simplefilter("ignore")
            shape, fortran, dtype = read_header(stream)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
            raise ValueError(f"{name} is not as large as it says")
        values = np.frombuffer(data, dtype, math.prod(shape), stream.tell())
        return values.reshape(shape, order="F" if fortran else "C").copy()

    def check(self) -> None:
        """Refuse members that nobody has read, and a file that is not as it was written; older ones do not tell.

        Raises:
            ValueError: it is such a file.
        """
        given = dict(self._digests)
        if _CHECKSUM in self.sizes and self.read(_CHECKSUM, 1024) != _checksum(given):
            raise ValueError("it was changed after it was written")
        unknown = set(self.sizes) - set(self._digests)
        if unknown:
            raise ValueError(f"its header does not speak of {min(unknown)[:40]!r}")


def _checksum(digests: dict[str, str]) -> bytes:
    """Of all members by their names, in hexadecimal digits."""
    lines = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest().encode()


def _of_strings(array: np.ndarray) -> bytes:
    flat = [one.decode(errors="replace") if isinstance(one, bytes) else str(one) for one in array.reshape(-1).tolist()]
    return json.dumps({"shape": array.shape, "strings": flat}).encode()


def _strings(text: bytes) -> np.ndarray:
    document = parsed(text.decode())
    shape, flat = document["shape"], document["strings"]
    if not all(isinstance(one, str) for one in flat) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError("an example of strings has another form")
    return np.array(flat, np.object_).reshape(shape)
