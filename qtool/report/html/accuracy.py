"""Accuracy beside float: the metrics of each model, its gates, its classes, and the samples that suffer most."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from qtool.core.reading import read_bytes
from qtool.core.records.evaluation import NanFound
from qtool.core.text import amount
from qtool.report.html.blocks import Block, Cell, Column, Gallery, Listing, Note, Section, Shot
from qtool.report.html.documents import Document, evaluations, of_kind
from qtool.report.html.figures import count_cell, db_cell, number_cell, real, share_cell
from qtool.report.text import decibels, file_size, number

Content = Mapping[str, Any]
_PICTURES, _PICTURE_BYTES, _ALL_BYTES = 24, 2 * 2**20, 3 * 2**20
"""The most pictures that a page holds, the most bytes of one, and of all of them."""
_PNG = b"\x89PNG\r\n\x1a\n"


def accuracy(documents: Sequence[Document]) -> list[Section]:
    """Return a section for each evaluation."""
    return [_evaluation(one) for one in evaluations(documents)]


def _evaluation(content: Content) -> Section:
    blocks: list[Block] = [_models(content), *_doubts(content), *_outputs(content)]
    blocks += [
        Note(f"{'PASS' if gate['passed'] else 'FAIL'} {gate['message']}", "good" if gate["passed"] else "bad")
        for gate in content["gates"]
    ]
    for metric in content["metrics"]:
        blocks += _classes(content, metric["name"])
    for model in content["candidates"]:
        blocks += _confusion(model)
    lead = f"{content['data']}: {amount(content['samples'], 'sample')}, {amount(content['threads'], 'thread')}"
    if content["latency"]:
        lead += (
            f"; latency: medians of {amount(content['latency']['runs'], 'interleaved run')}, batch "
            f"{content['latency']['batch']}"
        )
    return Section("accuracy", "Beside float", f"{lead}.", tuple(blocks), content["candidates"][0]["name"])


def _doubts(content: Content) -> list[Block]:
    """What makes the figures of a model no good, or of another kind than they seem."""
    exact = content["float_model"]
    notes = [Note(f"{model['name']}: {nan_words(model)}", "bad") for model in content["candidates"] if model["nan"]]
    if exact["quantized"]:
        notes.append(
            Note(f"{exact['name']} is quantised itself; the others are compared with it, not with float", "warn")
        )
    return [*notes]


def nan_words(model: Content) -> str:
    """Return where a model's outputs hold NaN or Inf unlike float's, in words."""
    return str(NanFound(**model["nan"]))


def _outputs(content: Content) -> list[Block]:
    """The SQNR of each output, where there are several."""
    models = content["candidates"]
    return outputs_of({model["name"]: model["sqnr_db_by_output"] for model in models})


def outputs_of(figures: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """Return a table of the SQNR of each output by model, where a model has several; else nothing."""
    names = list(dict.fromkeys(name for found in figures.values() for name in found))
    if len(names) < 2:
        return []
    columns = (Column("output"), *(Column(f"{model}: SQNR dB", number=True) for model in figures))
    rows = tuple((Cell(name), *(db_cell(found.get(name)) for found in figures.values())) for name in names)
    return [Listing("SQNR of each output", columns, rows, folded=amount(len(names), "output"))]


def _models(content: Content) -> Listing:
    columns = [Column("model")]
    for metric in content["metrics"]:
        title = "drop" if len(content["metrics"]) == 1 else f"{metric['name']} drop"
        columns += [Column(metric["name"], number=True), Column(title, number=True, about="how much worse than float")]
    columns += [Column("SQNR dB", number=True), Column("agreement", number=True, about="same class as float")]
    columns += [Column("size", number=True), Column("latency ms", number=True)]
    columns += [Column("p10 to p90", number=True), Column("speed-up", number=True)]
    models = [content["float_model"], *content["candidates"]]
    largest = max(model["size_bytes"] for model in models) or 1
    slowest = max((model["latency"]["median_ms"] for model in models if model["latency"]), default=1.0)
    rows = []
    for n, model in enumerate(models):
        tone = "int" if n else "float"
        cells = [Cell(model["name"])]
        for metric in content["metrics"]:
            score = model["metrics"][metric["name"]]
            drop, share = real(score["drop"]), real(score["relative_drop"])
            words = "-" if drop is None else number(drop) + ("" if share is None else f" ({100 * share:.2f} %)")
            cells += [number_cell(score["value"]), Cell(words, -1.0 if drop is None else drop)]
        cells += [db_cell(model["sqnr_db"]), number_cell(model["agreement"])]
        size, latency = model["size_bytes"], model["latency"]
        cells.append(Cell(file_size(size), float(size), ((size / largest, tone),)))
        if latency:
            ms, speedup = latency["median_ms"], latency["speedup"]
            low, high = latency["p10_ms"], latency["p90_ms"]
            spread = "-" if low is None or high is None else f"{low:.3f} to {high:.3f}"
            ratio = f"too noisy ({speedup:.2g}x)" if latency["noisy"] else f"{speedup:.2f}x"
            cells += [Cell(f"{ms:.3f}", ms, ((ms / slowest, tone),)), Cell(spread, low or -1.0), Cell(ratio, speedup)]
        else:
            cells += [Cell("-", -1.0)] * 3
        rows.append(tuple(cells))
    return Listing("Models", tuple(columns), tuple(rows))


def _classes(content: Content, metric: str) -> list[Block]:
    """A table of the metric's value of each class, float's first."""
    models = [content["float_model"], *content["candidates"]]
    values = [model["metrics"][metric].get("by_class") or {} for model in models]
    names = list(dict.fromkeys(name for row in values for name in row))
    if not names:
        return []
    columns = (Column("class"), *(Column(model["name"], number=True) for model in models))
    rows = tuple((Cell(name), *(number_cell(row.get(name)) for row in values)) for name in names)
    return [Listing(f"{metric} of each class", columns, rows, folded=amount(len(names), "class", "classes"))]


def _confusion(model: Content) -> list[Block]:
    """The pairs of classes that float and the model say of one sample, where they differ, the most frequent first."""
    found = model.get("confusion")
    if not found:
        return []
    if not found["pairs"]:
        return [Note(f"{model['name']} says float's class every time ({found['counted']:,}).", "good")]
    columns = (
        Column("float says"),
        Column(f"{model['name']} says"),
        Column("times", number=True),
        Column("of all", number=True),
    )
    most = max(row["count"] for row in found["pairs"])
    rows = tuple(
        (
            Cell(str(row["float"])),
            Cell(str(row["model"])),
            replace(count_cell(row["count"]), bars=((row["count"] / most, "bad"),)),
            share_cell(row["count"] / found["counted"]),
        )
        for row in found["pairs"]
    )
    more = f"; {found['left_out']:,} more in other pairs" if found["left_out"] else ""
    return [Listing(f"Classes that {model['name']} confuses: where it says another than float{more}", columns, rows)]


def worst(documents: Sequence[Document]) -> list[Section]:
    """Return the section of the worst samples with their pictures, where there are any."""
    rows = [one["worst"] for one in evaluations(documents) if one.get("worst")]
    rows += [one.content for one in of_kind(documents, "worst")]
    sections = []
    for content in rows:
        shots, left = _shots(content)
        blocks: list[Block] = [Gallery(shots, wide=any(_is_wide(shot) for shot in shots))] if shots else []
        blocks += [Note(f"{left} more are in {content['folder']}", "muted")] if left else []
        blocks.append(_samples(content))
        measured = f" {content['score']}: {content['measure']}." if content.get("score") else f" {content['measure']}."
        lead = f"The samples on which a model differs most from float, with what both say of them.{measured}"
        sections.append(Section("worst", "Worst samples", lead, tuple(blocks)))
    return sections


def _shots(content: Content) -> tuple[tuple[Shot, ...], int]:
    """The pictures that a page has room for, and how many it leaves out."""
    found: list[Shot] = []
    room = _ALL_BYTES
    for one in content["samples"][:_PICTURES]:
        png = _png(Path(content["folder"]) / Path(one["picture"]).name)
        if png is None or len(png) > room:
            continue
        room -= len(png)
        name = f" ({one['source']})" if one["source"] else ""
        scores = ""
        if real(one["score"]) is not None and real(one["float_score"]) is not None:
            measure = content.get("score") or "score"
            scores = f"; {measure} {_short(one['score'])}, float {_short(one['float_score'])}"
        said = "".join(f"; {text}" for text in one.get("said", ()))
        caption = f"{one['rank']}. sample {one['sample']}{name}: SQNR {decibels(real(one['sqnr_db']))} dB{scores}{said}"
        alt = f"What float and {one['model']} say of sample {one['sample']}, side by side{said}"
        found.append(Shot(f"data:image/png;base64,{base64.b64encode(png).decode()}", caption, alt))
    return tuple(found), len(content["samples"]) - len(found)


def _short(score: float) -> str:
    return f"{score:.4g}"


def _png(path: Path) -> bytes | None:
    """A picture; None where it is not there any more, is none, or too large."""
    try:
        content = read_bytes(path, _PICTURE_BYTES)
    except (OSError, ValueError):
        return None
    return content if content.startswith(_PNG) else None


def _is_wide(shot: Shot) -> bool:
    """Whether a picture has several panels: the beginning of a PNG says its size."""
    head = base64.b64decode(shot.uri.partition(",")[2][:32])
    return int.from_bytes(head[16:20]) > 2 * int.from_bytes(head[20:24])


def _samples(content: Content) -> Listing:
    columns = (
        Column("model"),
        Column("rank", number=True),
        Column("sample", number=True),
        Column("file"),
        Column(f"float's {content.get('score') or 'score'}", number=True, about=content["measure"]),
        Column(f"its {content.get('score') or 'score'}", number=True, about=content["measure"]),
        Column("SQNR dB", number=True),
        Column("what they say"),
    )
    rows = tuple(
        (
            Cell(one["model"]),
            count_cell(one["rank"]),
            count_cell(one["sample"]),
            Cell(one["source"] or "-"),
            number_cell(one["float_score"]),
            number_cell(one["score"]),
            db_cell(one["sqnr_db"]),
            Cell("; ".join(one.get("said", ())) or "-"),
        )
        for one in content["samples"]
    )
    return Listing("The worst samples of each model", columns, rows, folded=amount(len(rows), "sample"))
