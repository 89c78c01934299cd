"""Outputs that are never half-written: made beside the target and renamed, several of them together or not at all.

An unfinished file is called `.NAME.xxxxxxxx.qtool.part` and locked by the process that writes it; those of processes
that were killed are removed by the next one that writes into the same folder.
"""

import errno
import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from qtool.core.errors import OutputError
from qtool.core.leftovers import is_at, left_over, lock, lock_new
from qtool.core.process import uninterrupted
from qtool.core.recognition import tilde

_PART, _OLD, _MOVED = ".qtool.part", ".qtool.old", ".qtool.moved"
_OURS = re.compile(r"\.(?P<name>.*)\.[a-z0-9_]{8}\.qtool\.(?:part|old|moved)", re.DOTALL)
_STREAMS, _IN_MEMORY = ("/dev", "/proc"), ("/dev/shm",)
"""Folders of streams and devices, and one within whose files are like others."""
_MOST_LINKS = 40
_LONGEST_STEM = 200
"""Bytes of the target's name in that of its unfinished file."""


@dataclass(slots=True, eq=False)
class _Part:
    """An unfinished file. place: what it becomes, all links followed. handle: open on it, and holds the lock."""

    target: Path
    place: Path
    path: Path
    handle: int
    written: bool = False

    @property
    def there(self) -> bool:
        """Whether it has been renamed."""
        return is_at(self.place, self.handle)

    def remove(self) -> None:
        with suppress(OSError):
            self.path.unlink()
        with suppress(OSError):
            os.close(self.handle)
        _parts.discard(self)


@dataclass(slots=True)
class _Group:
    """Outputs that are renamed together. gone: what is of no use any more once they are there."""

    parts: list[_Part] = field(default_factory=list)
    gone: list[Path] = field(default_factory=list)
    appeared: list[Path] = field(default_factory=list)


_parts: set[_Part] = set()
_groups: list[_Group] = []


def check_writable(path: str | Path) -> Path:
    """Refuse, before any work is done for it, an output that cannot be written; return its path.

    A link is written through: what it leads to is replaced, or made where it leads to nothing.

    Raises:
        OutputError: the folder is missing or not writable, or the path is a folder or device, or leads through /dev or
            /proc.
    """
    target = Path(path)
    _refuse_streams(target)
    try:
        place = place_of(target)
        is_folder = target.is_dir() or str(path).endswith(("/", os.sep))
        other = target.exists() and not target.is_file()
    except (OSError, ValueError) as error:
        # too long, links in a circle, or a zero byte
        raise _unwritable(target, error) from error
    if is_folder:
        raise OutputError(f"{target}: is a folder; name a file")
    if other:
        # a rename would put a file in the place of /dev/null
        raise OutputError(f"{target}: is a device or pipe; name a file")
    linked = f" is a link to {place}, and" if target.is_symlink() else ""
    shown = place.parent if linked else target.parent
    if place.parent.is_dir() and (not target.parent.is_dir() or (place.exists() and not target.exists())):
        # `missing/../file`, or a link to that: what it seems to lead to may be a file that is read
        raise OutputError(f"{target}: leads through a folder that does not exist, to {place}; name that")
    if not place.parent.is_dir():
        raise OutputError(f"{target}:{linked} the folder {shown} does not exist; create it first{tilde(path)}")
    if not os.access(place.parent, os.W_OK):
        raise OutputError(f"{target}:{linked} the folder {shown} is not writable; choose another output")
    return target


def _refuse_streams(target: Path) -> None:
    """Refuse a path that names a stream or device, whatever that is now: /dev/stdout may lead to a file like others.

    Raises:
        OutputError: it leads through /dev or /proc, other than files in memory.
    """
    for place in _places_along(target):
        known = next((folder for folder in _STREAMS if place.is_relative_to(folder)), None)
        if known is not None and not any(place.is_relative_to(folder) for folder in _IN_MEMORY):
            linked = "" if target.is_relative_to(known) else f"leads to {place}, which "
            raise OutputError(
                f"{target}: {linked}is in {known}, where streams and devices are; name a file (- is standard "
                "output, for what can be printed)"
            )


def _places_along(path: Path) -> Iterator[Path]:
    """Yield what an absolute path names, one link after the other, as far as it leads."""
    here, parts, links = Path("/"), list(reversed(Path.cwd().joinpath(path).parts[1:])), 0
    while parts:
        part = parts.pop()
        if part == os.pardir:
            here = here.parent
            continue
        here = here / part
        if not parts:
            yield here
        with suppress(OSError, ValueError):
            lead = here.readlink()
            links += 1
            if links > _MOST_LINKS:
                return
            yield here
            here = here.parent
            parts += [one for one in reversed(lead.parts) if one != lead.anchor]
            here = Path("/") if lead.is_absolute() else here


def check_folder(path: str | Path, owned: Callable[[Path], Collection[str]]) -> Path:
    """Refuse, before any work is done for it, a folder that outputs cannot be written into; return its path.

    Args:
        path: the folder; it need not be there, but the one that it is in.
        owned: names the files in a folder that are there that an earlier run wrote; they may be replaced.

    Raises:
        OutputError: it holds other files, is no folder, or cannot be written or made.
    """
    target = Path(path)
    _refuse_streams(target)
    try:
        if not target.exists():
            check_writable(place_of(target))
            return target
        there = sorted(entry.name for entry in target.iterdir()) if target.is_dir() else None
    except (OSError, ValueError) as error:
        raise _unwritable(target, error) from error
    if there is None:
        raise OutputError(f"{target}: is a file; name a folder")
    if not os.access(target, os.W_OK):
        raise OutputError(f"{target}: is not writable; choose another folder")
    known = owned(target)
    others = [name for name in there if name not in known and not _OURS.fullmatch(name)]
    if others:
        raise OutputError(f"{target}: holds other files (such as {others[0]}); name a new or an empty folder")
    return target


@contextmanager
def made_folder(path: str | Path) -> Iterator[None]:
    """Make a folder for outputs where there is none; take it away where the block fails. Yields nothing.

    Raises:
        OutputError: it cannot be made.
    """
    target = Path(path)
    made = not target.exists()
    try:
        if made:
            target.mkdir()
    except OSError as error:
        raise _unwritable(target, error) from error
    try:
        yield
    except BaseException:
        if made:
            with suppress(OSError):
                target.rmdir()
        raise


def place_of(path: str | Path) -> Path:
    """Return where an output is really written: the path without any links, also where nothing is there yet."""
    place = Path(os.path.realpath(path))
    if place.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return place


def identity_of(path: str | Path) -> tuple[int, int] | None:
    """Return what tells a file from all others, whatever it is called; None where there is none."""
    try:
        stat = Path(path).stat()
    except (OSError, ValueError):
        return None
    return stat.st_dev, stat.st_ino


def _unwritable(target: Path, error: Exception) -> OutputError:
    reason = getattr(error, "strerror", None) or error
    return OutputError(f"{target}: cannot be written ({reason}); choose another output")


@contextmanager
def together(*paths: str | Path) -> Iterator[list[Path]]:
    """Let the outputs at these paths appear once the block has succeeded: all that it has written, or none.

    Their unfinished files are made at once, so that a folder that cannot be written is noticed before the work. An
    error, an interrupt or a full disk leaves all that was there before. Blocks may be nested: where an outer one has
    one of the paths, they all appear with its outputs. Yields a list, which names the outputs once they are there.

    Raises:
        OutputError: a file cannot be created or written.
    """
    places = {place_of(check_writable(path)): Path(path) for path in paths}
    outer = next((group for group in _groups if any(part.place in places for part in group.parts)), None)
    group = outer or _Group()
    known = {part.place for part in group.parts}
    try:
        # inner ones first: what was asked for in the outermost block shows that all is there
        for place, target in reversed(places.items()):
            if place not in known:
                group.parts.insert(0, _begin(target, place))
        _groups.append(group)
        try:
            yield group.appeared
        except BaseException:
            for part in group.parts:
                part.written = part.written and part.place not in places
            raise
        finally:
            _groups.pop()
        if outer is None:
            _rename([part for part in group.parts if part.written], group.appeared)
            for path in group.gone:
                with suppress(OSError):
                    path.unlink()
    finally:
        if outer is None:
            for part in group.parts:
                part.remove()


@contextmanager
def atomic_output(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` if the block succeeds, remove it if not.

    Within `together` it is renamed with the others. An interrupt, an error or a full disk leaves what was at `path`
    before.

    Raises:
        OutputError: the file cannot be created or written.
    """
    target = check_writable(path)
    place = place_of(target)
    reserved = [part for group in reversed(_groups) for part in group.parts if part.place == place]
    part = reserved[0] if reserved else _begin(target, place)
    try:
        try:
            yield part.path
        except OSError as error:
            raise _unwritable(target, error) from error
        part.written = True
        if not reserved:
            _rename([part], [])
    finally:
        if not reserved:
            part.remove()


def remove_with_outputs(path: Path) -> None:
    """Remove a file; within `together`, once the outputs are there that make it needless."""
    if _groups:
        _groups[0].gone.append(path)
    else:
        path.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write `content` to `path` atomically. Raises `OutputError`."""
    with atomic_output(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` (UTF-8) to `path` atomically. Raises `OutputError`."""
    with atomic_output(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def restored_on_error(*paths: str | Path) -> Iterator[None]:
    """Let what the block writes at these paths stand although it is stopped, but not where it fails with an error.

    For outputs that are there, and get better, while the work goes on. Yields nothing.
    """
    kept = [_Kept.of(place_of(path)) for path in paths]
    try:
        yield
    except Exception:
        for one in kept:
            one.restore()
        raise
    finally:
        for one in kept:
            one.forget()


def drop_unfinished() -> None:
    """Remove every unfinished file of this process."""
    for part in list(_parts):
        part.remove()


def _begin(target: Path, place: Path) -> _Part:
    """Make the unfinished file of an output, and lock it."""
    stem = os.fsdecode(os.fsencode(place.name)[:_LONGEST_STEM])
    try:
        with suppress(FileNotFoundError):
            place.lstat()  # a name that is too long is no matter of the shorter one beside it
        _sweep(place.parent)
        while True:
            handle, name = tempfile.mkstemp(prefix=f".{stem}.", suffix=_PART, dir=place.parent)
            part = _Part(target, place, Path(name), handle)
            _parts.add(part)
            if lock_new(part.path, handle):
                return part
            part.remove()
    except OSError as error:
        raise _unwritable(target, error) from error


def _rename(parts: list[_Part], appeared: list[Path]) -> None:
    """Rename all of them, and say so in `appeared`; where that fails or is interrupted, undo it."""
    kept: list[_Kept] = []
    part = None
    try:
        with uninterrupted():
            mask = os.umask(0)
            os.umask(mask)
            for part in parts:
                part.path.chmod(0o666 & ~mask)
            for part in parts:
                kept.append(_Kept.of(part.place))
            for part in parts:
                part.path.replace(part.place)
    except BaseException as error:
        if all(one.there for one in parts):
            appeared += [one.target for one in parts]
        else:
            for one, its in zip(kept, parts, strict=False):
                if its.there or not one.place.exists():
                    one.restore()
        if isinstance(error, OSError) and part is not None:
            raise _unwritable(part.target, error) from error
        raise
    else:
        appeared += [one.target for one in parts]
    finally:
        for one in kept:
            one.forget()


@dataclass(slots=True)
class _Kept:
    """What is at a place before it is replaced. other: a second name of it; None where nothing is there."""

    place: Path
    other: Path | None
    handle: int = -1

    @classmethod
    def of(cls, place: Path) -> "_Kept":
        if not place.is_file():
            return cls(place, None)
        stem = os.fsdecode(os.fsencode(place.name)[:_LONGEST_STEM])
        with tempfile.NamedTemporaryFile(prefix=f".{stem}.", suffix=_OLD, dir=place.parent) as unused:
            other = Path(unused.name)
        handle = -1
        try:
            os.link(place, other)
            with suppress(OSError):
                handle = os.open(other, os.O_RDONLY)
                lock(handle)
        except OSError:
            # a file system without links; or one that another process sweeps
            other = other.with_name(other.name.removesuffix(_OLD) + _MOVED)
            place.replace(other)
        return cls(place, other, handle)

    def restore(self) -> None:
        if self.other is None:
            self.place.unlink(missing_ok=True)
            return
        try:
            self.other.replace(self.place)
        except OSError:
            # better a file too many than none
            self.other = None

    def forget(self) -> None:
        if self.other is not None:
            with suppress(OSError):
                self.other.unlink()
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1


def _sweep(folder: Path) -> None:
    """Remove unfinished files of processes that were killed; once for each folder."""
    for path in left_over(folder, lambda entry: _OURS.fullmatch(entry.name) is not None):
        found = _OURS.fullmatch(path.name)
        target = folder / (found["name"] if found is not None else "")
        with suppress(OSError):
            if path.name.endswith(_MOVED) and not target.exists():
                path.replace(target)
            else:
                path.unlink()
