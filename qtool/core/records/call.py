"""The call of the command line that made a document: its options, and digests of what it read."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FileRead:
    """A file, or the files of a folder or of a model, that a command read.

    option: that named it. path: as it was given. bytes: of all of it. sha256: of what it holds, one file after another
    in the order of their names, a model's own file first; null where it was not measured. why: it was not; "" where it
    was.
    """

    option: str
    path: str
    bytes: int | None
    sha256: str | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Invocation:
    """The command that wrote the document; what Python writes has none.

    command: its name. options: that were given, on the command line or by a configuration file, as texts. read: what it
    read, by the options that name it. typed: the words of the command line, behind the name of the program.
    """

    command: str
    options: dict[str, tuple[str, ...]]
    read: tuple[FileRead, ...]
    typed: tuple[str, ...] = ()
