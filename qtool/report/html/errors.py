"""The origin of the error: the SQNR after each tensor and layer, and what each layer costs by itself."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qtool.core.text import amount, sentence
from qtool.report.html.accuracy import outputs_of
from qtool.report.html.blocks import Block, Cell, Column, Legend, Listing, Note, Section
from qtool.report.html.documents import Document, of_kind, sensitivity_of, verifications
from qtool.report.html.figures import (
    count_cell,
    db_cell,
    db_tone,
    finite,
    number_cell,
    real,
    share_cell,
)
from qtool.report.html.measured import samples_of
from qtool.report.html.plots import Axis, Dot, Mark, plot, ranked
from qtool.report.sensitivity import NO_GAIN, exclude_options, said_of, worth_leaving
from qtool.report.words import GOOD_DB, POOR_DB

Content = Mapping[str, Any]
_MARKS = (Mark(GOOD_DB, "good"), Mark(POOR_DB, "bad"))
_LEGEND = (
    Legend(f"good: {GOOD_DB:g} dB or more", "good"),
    Legend(f"fair: {POOR_DB:g} to {GOOD_DB:g} dB", "warn"),
    Legend(f"poor: below {POOR_DB:g} dB", "bad"),
)
_CLEAR_DB = 60.0
"""Twice what is good."""
_NAMED = 5
_RANKED = 20
"""Layers that the picture of them shows."""


def errors(documents: Sequence[Document]) -> list[Section]:
    """Return the waterfall of each model that was measured tensor by tensor, and each sensitivity analysis."""
    found = [
        _waterfall(
            [(row["tensor"], row["op"], row["sqnr_db"], None) for row in one.content["errors"]],
            one.of,
            one.content["inputs_from"],
        )
        for one in of_kind(documents, "inspect")
        if one.content["errors"]
    ]
    if not found:
        found = [
            _waterfall(
                [(row["tensor"], "", row["sqnr_db"], row["steps"]) for row in proof["tensors"]],
                one.of,
                samples_of(proof),
            )
            for one, proof in verifications(documents)
            if proof["examples"] and proof["tensors"]
        ]
    outputs = [outputs for one, proof in verifications(documents) if (outputs := _of_outputs(one, proof)) is not None]
    return [*found, *outputs] + [_sensitivity(one) for one in of_kind(documents, "sensitivity")]


def _of_outputs(document: Document, proof: Content) -> Section | None:
    """The SQNR of each of several outputs, and which hold NaN or Inf unlike float's; None where there is one alone."""
    blocks: list[Block] = outputs_of({document.of: proof["sqnr_db_by_output"]}) if proof["examples"] else []
    blocks += [
        Note(f"{amount(count, 'entry', 'entries')} of output {name!r} NaN or Inf unlike float's", "bad")
        for name, count in proof["unlike"].items()
    ]
    lead = f"On {samples_of(proof)}."
    return Section("outputs", "Each output", lead, tuple(blocks), document.of) if blocks else None


def _waterfall(tensors: Sequence[tuple[str, str, Any, int | None]], of: str, data: str) -> Section:
    """The SQNR after each tensor, in the order of the network, on that data."""
    dots, worst = [], []
    clear = _clear(db for _, _, db, _ in tensors)
    for place, (name, op, db, _) in enumerate(tensors):
        value = finite(db)
        if value is not None:
            dots.append(
                Dot(place, min(value, clear), f"{name}{f' ({op})' if op else ''}: {value:.1f} dB", db_tone(value))
            )
            worst.append((value, name))
    blocks: list[Block] = []
    if dots:
        axes = (Axis("in the order of the network"), Axis(_decibels(clear)))
        label = f"SQNR after each of {amount(len(dots), 'tensor')}, in the order of the network"
        blocks.append(plot("SQNR after each tensor", label, dots, axes, joined=True, marks=_MARKS, legend=_LEGEND))
    blocks.append(_drops(tensors))
    lead = "How much noise the int8 model has beside float after each tensor, everything before it quantised"
    lead += f", on {data}." if data else "."
    if worst:
        value, name = min(worst)
        lead += f" The noisiest is {name} at {value:.1f} dB."
    return Section("error", "Where the error comes from", lead, tuple(blocks), of)


def _clear(decibels: Iterable[Any]) -> float:
    """What pictures show at most: a tensor next to exact would take the room of those that tell something.

    inf where nothing is above it, or nothing below.
    """
    found = [value for value in map(finite, decibels) if value is not None]
    return _CLEAR_DB if found and min(found) < _CLEAR_DB < max(found) else math.inf


def _decibels(clear: float) -> str:
    return "dB" if clear == math.inf else f"dB; {clear:g} and more in one place"


def _drops(tensors: Sequence[tuple[str, str, Any, int | None]]) -> Listing:
    """The table of the waterfall: what each tensor loses against the one before it."""
    rows: list[tuple[Cell, ...]] = []
    before: float | None = None
    clear = _clear(db for _, _, db, _ in tensors)
    most = max((min(finite(db) or 0.0, clear) for _, _, db, _ in tensors), default=1.0) or 1.0
    for place, (name, op, db, steps) in enumerate(tensors, 1):
        value = finite(db)
        lost = None if value is None or before is None else before - value
        shown = db_cell(db)
        bar = () if value is None else ((min(max(value, 0.0), clear) / most, db_tone(value)),)
        cells = [count_cell(place), Cell(name), Cell(shown.text, shown.key, bar)]
        cells.append(Cell("-", -1e9) if lost is None else Cell(f"{lost:+.1f}", lost))
        cells.append(Cell(op, code=True) if steps is None else count_cell(steps))
        rows.append(tuple(cells))
        before = value if value is not None else before
    last = (
        Column("op")
        if all(steps is None for *_, steps in tensors)
        else Column("steps", number=True, about="how far the integer kernel is from the layer it stands for, at most")
    )
    columns = (
        Column("place", number=True),
        Column("tensor"),
        Column("SQNR dB", number=True),
        Column("lost dB", number=True, about="against the tensor before it"),
        last,
    )
    return Listing("After each tensor", columns, tuple(rows), folded=amount(len(rows), "tensor"))


def _sensitivity(document: Document) -> Section:
    """Each layer by itself: it alone quantised, and all but it."""
    content = document.content
    metric = content["metric"]["name"] if content["metric"] else ""
    metric = "" if metric == "sqnr" else metric
    blocks: list[Block] = []
    rows = content["layers"]
    clear = _clear(layer["alone"] and layer["alone"]["sqnr_db"] for layer in rows)
    dots = []
    for layer in rows:
        db = finite(layer["alone"] and layer["alone"]["sqnr_db"])
        if db is not None:
            dots.append((layer["name"], Dot(min(db, clear), 0.0, f"{layer['name']}: {db:.1f} dB alone", db_tone(db))))
    dots.sort(key=lambda pair: pair[1].x)
    if dots:
        shown = dots[:_RANKED]
        caption = "SQNR of the outputs with one layer alone in integers, the noisiest first"
        more = f" ({len(shown)} of {len(dots)})" if len(dots) > len(shown) else ""
        blocks.append(ranked(caption + more, caption, shown, Axis(_decibels(clear)), legend=_LEGEND))
    blocks.append(_layers(content, rows, metric, "Layers, the most sensitive first"))
    if content["heads"]:
        blocks.append(_layers(content, content["heads"], metric, "Heads, all of each at once"))
    if content["unranked"]:
        columns = (Column("layer"), Column("why it stays float"))
        blocks.append(Listing("Not ranked", columns, tuple((Cell(n), Cell(w)) for n, w in content["unranked"].items())))
    whole = real(content["quantized"]["sqnr_db"])
    lead = f"What each layer costs on {amount(content['samples'], 'sample')} of {content['data']}"
    lead += "." if whole is None else f"; all quantised: {whole:.1f} dB."
    result = sensitivity_of(document)
    names = worth_leaving(result, _NAMED)
    if names:
        said = f"{sentence(said_of(result))}, behind qtool quantize:"
        blocks.append(Note(said, command=exclude_options(names)))
    elif rows and "without" in result.views:
        blocks.append(Note(f"{sentence(NO_GAIN)}."))
    return Section("alone", "Each layer alone", lead, tuple(blocks), str(content["data"]))


def _layers(content: Content, rows: Sequence[Content], metric: str, caption: str) -> Listing:
    columns = [Column("rank", number=True), Column("layer"), Column("op"), Column("MACs", number=True)]
    titles = {"alone": "alone", "without": "all but it"}
    for view in content["views"]:
        columns += [Column(f"{titles[view]}: {metric}", number=True), Column("drop", number=True)] if metric else []
        columns.append(Column(f"{titles[view]}: SQNR dB", number=True))
    found = []
    for place, one in enumerate(rows, 1):
        cells = [
            count_cell(place),
            Cell(one["name"]),
            Cell(one.get("op") or str(len(one.get("layers", ()))), code=True),
        ]
        cells.append(share_cell(one["macs_share"]))
        for view in content["views"]:
            figures = one[view] or {"value": None, "drop": None, "sqnr_db": None}
            cells += [number_cell(figures["value"]), number_cell(figures["drop"])] if metric else []
            cells.append(db_cell(figures["sqnr_db"]))
        found.append(tuple(cells))
    return Listing(caption, tuple(columns), tuple(found))
