"""The values of each tensor: its histogram, the range that every calibrator would choose, and its channels."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from qtool.core.numerics.affine import QParams
from qtool.core.records.codec import decoded
from qtool.core.text import amount
from qtool.report.html.blocks import Block, Cell, Column, Figure, Fold, Listing, Section
from qtool.report.html.documents import CALIBRATION, Document, of_kind
from qtool.report.html.figures import count_cell, number_cell
from qtool.report.html.plots import Axis, Dot, histogram, plot, short

Content = Mapping[str, Any]


def values(documents: Sequence[Document]) -> list[Section]:
    """Return the section of each calibration; and that of the channels of weights of each plan."""
    plans = [one.plan for one in documents if one.plan is not None]
    grids = {row["tensor"]: _range(row["params"]) for plan in plans for row in plan["activations"]}
    chosen = {row["tensor"]: row["why"].split(":")[0] for plan in plans for row in plan["activations"]}
    found = [_calibration(one.content, grids, chosen) for one in of_kind(documents, CALIBRATION)]
    return found + [_weights(plan) for plan in plans[:1] if plan["weights"] or plan["dynamic"] or plan["stored"]]


def _range(params: Content) -> tuple[float, float]:
    return decoded(QParams, params).range


def _calibration(content: Content, grids: Mapping[str, tuple[float, float]], chosen: Mapping[str, str]) -> Section:
    tensors = [one for one in content["tensors"] if one["histogram"] and (not grids or one["name"] in grids)]
    entries = tuple(_tensor(one, grids.get(one["name"]), chosen.get(one["name"], "")) for one in tensors)
    lead = (
        f"{amount(content['samples'], 'sample')} of calibration; counts are on a logarithmic axis. Below each "
        "histogram stands the range that each calibrator would choose, and what lies outside of it and is clipped."
    )
    blocks: tuple[Block, ...] = (Fold("Tensors", entries),)
    return Section("values", "Values and ranges", lead, blocks)


def _tensor(one: Content, grid: tuple[float, float] | None, why: str) -> tuple[str, str, tuple[Figure, ...]]:
    ranges = [
        (row["calibrator"], row["low"], row["high"], _clipped(row["clipped"]), row["calibrator"] == why)
        for row in one["ranges"]
    ]
    facts = f"{short(one['minimum'])} to {short(one['maximum'])}, {amount(one['count'], 'value', commas=True)}"
    facts += f", {100 * one['zeros']:.3g} % zeros" if one["zeros"] else ""
    if grid is not None:
        ranges.append(("the grid in the model", *grid, "", True))
        facts += f"; grid {short(grid[0])} to {short(grid[1])}"
    label = f"Histogram of {one['name']}: {facts}"
    figures = [histogram(label, (one["minimum"], one["maximum"]), one["histogram"], ranges)]
    if len(one["magnitudes"]) > 1:
        dots = [Dot(n + 1, size, f"{short(size)}") for n, size in enumerate(one["magnitudes"])]
        words = f"Largest magnitude of each channel of {one['name']}, ascending"
        figures.append(plot("Channels, by their largest magnitude", words, dots, (Axis("channel"), Axis("|x|", 0.0))))
    return one["name"], "; ".join([facts, *one["notes"]]), tuple(figures)


def _clipped(share: float) -> str:
    if share == 0:
        return ""
    return f"; clips {100 * share:.3g} %"


def _weights(plan: Content) -> Section:
    """How far the channels of each weight are apart: what one scale a tensor would cost."""
    rows = []
    for kind in ("weights", "dynamic", "stored"):
        for row in plan[kind]:
            scale = row["params"]["scale"]
            spread = max(scale) / min(scale)
            cells = (
                Cell(row["tensor"]),
                Cell({"weights": "static", "dynamic": "dynamic", "stored": "weight only"}[kind]),
                count_cell(len(scale)),
                number_cell(min(scale), 6),
                number_cell(max(scale), 6),
                Cell(f"{spread:.1f}x", spread, ((min(math.log10(spread) / 2, 1.0), "int"),)),
                count_cell(row["reduced_channels"]),
            )
            rows.append(cells)
    columns = (
        Column("weight"),
        Column("layer is"),
        Column("scales", number=True),
        Column("least scale", number=True),
        Column("largest scale", number=True),
        Column("spread", number=True, about="the largest over the least; the bar is logarithmic, full at 100x"),
        Column("7-bit channels", number=True, about="where products of 8 bits could saturate"),
    )
    lead = (
        "The scale of each channel is its largest weight over 127: the further these are apart, the more one scale for "
        "all of them would cost."
    )
    return Section("weights", "Spread of channels", lead, (Listing("Weights", columns, tuple(rows)),))
