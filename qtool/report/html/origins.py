"""The plan, and what made the documents: versions, the machine, options, digests."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from qtool.core.numerics.affine import QParams
from qtool.core.records.codec import decoded
from qtool.core.text import amount
from qtool.report.html.blocks import Block, Cell, Column, Listing, Note, Section
from qtool.report.html.documents import Document
from qtool.report.html.figures import count_cell, number_cell
from qtool.report.html.plots import short

Content = Mapping[str, Any]
_READERS = 3


def plans(documents: Sequence[Document]) -> list[Section]:
    """Return a section for each plan: every tensor that is quantised, and every layer that is not."""
    return [replace(_plan(one.plan), of=one.of) for one in documents if one.plan is not None]


def origins(documents: Sequence[Document]) -> Section:
    """Return the section of what made the documents: versions, the machine, the options, and digests."""
    rows = []
    for one in documents:
        versions = ", ".join(f"{name} {version}" for name, version in one.content.get("versions", {}).items())
        schema = f"{one.content['schema']} {one.content['schema_version']}"
        digest = one.digest or one.content.get("sha256") or "-"
        rows.append((Cell(one.name), Cell(schema, code=True), Cell(versions), Cell(str(digest), code=True)))
    columns = (Column("document"), Column("form"), Column("versions"), Column("SHA-256 of the model"))
    blocks: list[Block] = [Listing("Documents", columns, tuple(rows))]
    for one in documents:
        blocks += _call(one.content.get("call"))
    machines = dict.fromkeys(_machine(one.content["machine"]) for one in documents if one.content.get("machine"))
    blocks += [Note(f"Machine: {words}", "muted") for words in machines]
    return Section("made", "What made this page", "", tuple(blocks))


def _machine(machine: Content) -> str:
    """Whatever a document says of the machine, in its order."""
    parts = [", ".join(map(str, value)) if isinstance(value, list) else str(value) for value in machine.values()]
    return "; ".join(f"{key.replace('_', ' ')} {text}" for key, text in zip(machine, parts, strict=True) if text)


def _call(call: Content | None) -> list[Block]:
    """The options of the command that wrote a document, and the files that it read."""
    if not call:
        return []
    named = f"qtool {call['command']}"
    blocks: list[Block] = []
    if call["options"]:
        columns = (Column("option"), Column("value"))
        rows = tuple(
            (Cell(name, code=True), Cell("yes" if words == ["True"] else " ".join(words)))
            for name, words in call["options"].items()
        )
        blocks.append(Listing(f"What {named} was given; all else is the default", columns, rows))
    if call["read"]:
        titles = (Column("option"), Column("file"), Column("bytes", number=True), Column("SHA-256"))
        read = [
            (
                Cell(one["option"], code=True),
                Cell(one["path"]),
                Cell("-", -1.0) if one["bytes"] is None else count_cell(one["bytes"]),
                Cell(one["sha256"] or one["why"] or "-", code=True),
            )
            for one in call["read"]
        ]
        blocks.append(Listing(f"What {named} read", titles, tuple(read), folded=amount(len(read), "file")))
    return blocks


def _plan(plan: Content) -> Section:
    grids = [
        *(_grid("activation", row, _why(row)) for row in plan["activations"]),
        *(_grid("constant", row, "") for row in plan["constants"]),
        *(_grid("weight", row, "integers of its own" if row.get("integers") else "") for row in plan["weights"]),
        *(_grid("dynamic weight", row, "") for row in plan["dynamic"]),
        *(_grid("stored weight", row, "the input of the layer stays float") for row in plan["stored"]),
    ]
    columns = (
        Column("tensor"),
        Column("range"),
        Column("scale", number=True, about="of several the largest"),
        Column("zero point", number=True),
        Column("type"),
        Column("scales", number=True),
        Column("kind"),
        Column("read by"),
        Column("why"),
    )
    blocks: list[Block] = [Listing("Every grid", columns, tuple(grids))] if grids else []
    if plan["skipped"]:
        rows = tuple((Cell(name), Cell(why)) for name, why in plan["skipped"].items())
        blocks.append(
            Listing("What stays float", (Column("node"), Column("why")), rows, folded=amount(len(rows), "node"))
        )
    steps = plan["preparation"]["steps"]
    lead = f"Target {plan['target']}, {plan['scheme']} activations, {plan['granularity']} weights"
    lead += f", calibrator {plan['calibrator']}" if plan["calibrator"] else ""
    lead += f"; prepared with {', '.join(steps)}" if steps else ""
    lead += f"; {amount(len(plan['biases']), 'bias', 'biases')}, {len(plan['shifts'])} corrected."
    return Section("plan", "The plan", lead, tuple(blocks))


def _why(row: Content) -> str:
    return str(row["why"])


def _grid(kind: str, row: Content, why: str) -> tuple[Cell, ...]:
    params = row["params"]
    scale, zero = params["scale"], params["zero_point"]
    if len(scale) == 1:
        low, high = decoded(QParams, params).range
        ends = f"{short(low)} to {short(high)}"
    else:
        ends = f"±{short(127 * max(scale))} at most"
    names = [reader[0] for reader in row["readers"]]
    more = f" and {len(names) - _READERS} more" if len(names) > _READERS else ""
    return (
        Cell(row["tensor"]),
        Cell(ends),
        number_cell(max(scale), 6),
        count_cell(zero[0]) if len(set(zero)) == 1 else Cell("several"),
        Cell(params["dtype"], code=True),
        count_cell(len(scale)),
        Cell(kind),
        Cell(", ".join(names[:_READERS]) + more or "-"),
        Cell(why or "-"),
    )
