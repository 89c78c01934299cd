"""The parts of a page: values that the templates draw, a macro each. Texts are shortened here, escaped there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from qtool.core.text import cell, line

WHOLE = 100.0
"""The width of a picture: all places across are in percent of it, all places down in pixels."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One element of a picture: its SVG tag, its attributes, the words in it, and what a pointer on it shows."""

    tag: str
    attributes: Mapping[str, str | float]
    words: str = ""
    title: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", cell(self.words))
        object.__setattr__(self, "title", cell(self.title))


@dataclass(frozen=True, slots=True)
class Legend:
    """The meaning of a colour of a picture."""

    words: str
    tone: str


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture with its caption.

    label: what it shows, for those who do not see it. height: in pixels. flush: it has nothing beside it, so needs no
    room there.
    """

    kind: ClassVar[str] = "figure"

    caption: str
    label: str
    height: int
    shapes: tuple[Shape, ...]
    legend: tuple[Legend, ...] = ()
    flush: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", line(self.label))
        object.__setattr__(self, "caption", line(self.caption))


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table. key: what it is sorted by, its text where there is none. bars: (share 0 to 1, tone) each."""

    text: str
    key: float | None = None
    bars: tuple[tuple[float, str], ...] = ()
    tone: str = ""
    code: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", cell(self.text))


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its title, whether it holds numbers, and what it is, for a pointer on the title."""

    title: str
    number: bool = False
    about: str = ""


_NOTHING = ("", "-")
"""What a cell says that has nothing to say."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A table that can be sorted and searched, without the columns in which no row has anything but the first one.

    folded: what opens it, where it is closed at first; "": it is open.
    """

    kind: ClassVar[str] = "listing"

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    folded: str = ""

    def __post_init__(self) -> None:
        filled = [n for n in range(len(self.columns)) if not n or any(row[n].text not in _NOTHING for row in self.rows)]
        object.__setattr__(self, "columns", tuple(self.columns[n] for n in filled))
        object.__setattr__(self, "rows", tuple(tuple(row[n] for n in filled) for row in self.rows))


@dataclass(frozen=True, slots=True)
class Square:
    """One node of a map: its look, and what a pointer on it shows."""

    tone: str
    title: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", cell(self.title))


@dataclass(frozen=True, slots=True)
class NetworkMap:
    """The nodes of a network in the order in which they run, a square each."""

    kind: ClassVar[str] = "network"

    label: str
    squares: tuple[Square, ...]
    legend: tuple[Legend, ...]


@dataclass(frozen=True, slots=True)
class Fold:
    """Figures that open one by one and can be searched: (name, facts, figures) each."""

    kind: ClassVar[str] = "fold"

    caption: str
    entries: tuple[tuple[str, str, tuple[Figure, ...]], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "entries", tuple((cell(n), line(f), p) for n, f, p in self.entries))


@dataclass(frozen=True, slots=True)
class Shot:
    """A picture of a sample, as a data URI, with what stands below it and what it shows."""

    uri: str
    caption: str
    alt: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "caption", line(self.caption))
        object.__setattr__(self, "alt", line(self.alt))


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures of samples, side by side; `wide` ones have several panels."""

    kind: ClassVar[str] = "gallery"

    shots: tuple[Shot, ...]
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence; `command` is what to type, "" where there is nothing."""

    kind: ClassVar[str] = "note"

    words: str
    tone: str = ""
    command: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", line(self.words))
        object.__setattr__(self, "command", line(self.command))


@dataclass(frozen=True, slots=True)
class Card:
    """A figure that matters, large. bars: (words, share 0 to 1, tone) each. source: where it comes from."""

    title: str
    value: str
    detail: str = ""
    tone: str = ""
    bars: tuple[tuple[str, float, str], ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("title", "value", "detail", "source"):
            object.__setattr__(self, name, line(getattr(self, name)))


Block = Figure | Listing | NetworkMap | Fold | Gallery | Note


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page: its anchor, its title, what it says in a sentence, what it shows, and which file it is of."""

    anchor: str
    title: str
    lead: str
    blocks: tuple[Block, ...]
    of: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "lead", line(self.lead))
        object.__setattr__(self, "of", cell(self.of))


@dataclass(frozen=True, slots=True)
class Headline:
    """A verdict: of which file, in words, its tone, the command that comes next, and other advice ("": none)."""

    of: str
    words: str
    tone: str
    next: str = ""
    advice: str = ""

    def __post_init__(self) -> None:
        for name in ("of", "words", "next", "advice"):
            object.__setattr__(self, name, line(getattr(self, name)))


@dataclass(frozen=True, slots=True)
class Page:
    """Everything that a page shows. of: the model that the cards are of, where there are several; else ""."""

    title: str
    headlines: tuple[Headline, ...]
    cards: tuple[Card, ...]
    sections: tuple[Section, ...]
    warnings: tuple[str, ...] = field(default=())
    of: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", cell(self.title))
        object.__setattr__(self, "of", cell(self.of))
        object.__setattr__(self, "warnings", tuple(map(line, self.warnings)))
