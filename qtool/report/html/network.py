"""The network as onnxruntime runs it: its map, its kernels, where the time goes, and what is found to cost."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from qtool.core.text import amount, rounded
from qtool.report.html.blocks import Block, Cell, Column, Legend, Listing, NetworkMap, Note, Section, Square
from qtool.report.html.documents import Document, of_kind, verifications
from qtool.report.html.figures import count_cell, db_cell, finite, measured_alone, ms_cell, real, share_cell
from qtool.report.html.plots import strip

Content = Mapping[str, Any]
_MOVING = frozenset(
    [
        "Transpose",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Slice",
        "Concat",
        "Split",
        "Identity",
        "Shape",
        "Gather",
        "Expand",
        "Pad",
        "Tile",
        "Resize",
        "DepthToSpace",
        "SpaceToDepth",
        "ReorderInput",
        "ReorderOutput",
        "Constant",
        "Cast",
    ]
)
"""Operators that move or describe data: they have no integer kernel because nothing is computed."""
_TONES = {
    "int": "integer kernel",
    "float": "float kernel",
    "seam": "Q/DQ: the price of changing",
    "move": "moves data",
}


def network(documents: Sequence[Document]) -> list[Section]:
    """Return the sections on what is executed, and on the time that it takes."""
    found = []
    for one in of_kind(documents, "inspect"):
        found += [replace(section, of=one.of) for section in (_inspected(one.content), *_times(one.content))]
    if found:
        return found
    return [replace(_planned(one.content, proof), of=one.of) for one, proof in verifications(documents)]


def _inspected(content: Content) -> Section:
    nodes = content["nodes"]
    blocks: list[Block] = []
    if nodes:
        blocks.append(
            _map([(_tone(n), _about(n)) for n in nodes], f"The {len(nodes)} nodes that onnxruntime runs, in order")
        )
        measured = [(real(n["ms"]) or 0.0, _tone(n), _about(n)) for n in nodes]
        total = sum(ms for ms, _, _ in measured)
        if total > 0:
            by_tone: dict[str, float] = defaultdict(float)
            for ms, tone, _ in measured:
                by_tone[tone] += ms / total
            shares = [f"{words} {100 * by_tone[tone]:.0f} %" for tone, words in _TONES.items() if by_tone[tone]]
            caption = f"The same by time: {rounded(total)} ms a run; {', '.join(shares)}"
            blocks.append(strip(caption, caption, measured, ()))
        blocks.append(_kernels(Counter((n["op"], _tone(n)) for n in nodes)))
    blocks += _findings(content)
    lead = _lead(content)
    if content["targets"]:
        blocks.append(_targets(content["targets"]))
    blocks += [Note(text) for text in (*content["suggestions"], *content["unusual"])]
    blocks += [Note(f"Not measured: {text}", "muted") for text in content["not_measured"]]
    return Section("network", "What onnxruntime runs", lead, tuple(blocks))


def _lead(content: Content) -> str:
    made = f"{content['form']}; made by {content['maker']}" if content["maker"] else content["form"]
    parts = [made] if made else []
    parts += [f"{sum(content['parameters'].values()):,} parameters"] if content["parameters"] else []
    parts += [f"{content['macs']:,} multiply-accumulates"] if content["macs"] else []
    return "; ".join(parts)


def _tone(node: Content) -> str:
    if node["seam"]:
        return "seam"
    if node["integer"]:
        return "int"
    return "move" if node["op"] in _MOVING else "float"


def _about(node: Content) -> str:
    ms = real(node["ms"])
    return f"{node['op']} {node['name']}" + ("" if ms is None else f": {rounded(ms)} ms")


def _map(nodes: Sequence[tuple[str, str]], label: str) -> NetworkMap:
    counts = Counter(tone for tone, _ in nodes)
    legend = tuple(Legend(f"{words} ({counts[tone]})", tone) for tone, words in _TONES.items() if counts[tone])
    return NetworkMap(label, tuple(Square(tone, title) for tone, title in nodes), legend)


def _kernels(counts: Mapping[tuple[str, str], int]) -> Listing:
    rows = [
        (Cell(op, code=True), Cell(_TONES[tone], tone=tone), count_cell(count))
        for (op, tone), count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    columns = (Column("kernel"), Column("kind"), Column("nodes", number=True))
    return Listing(
        "Kernels of the optimised graph",
        columns,
        tuple(rows),
        folded=amount(len(rows), "kind of kernel", "kinds of kernels"),
    )


def _findings(content: Content) -> list[Block]:
    rows = [
        (
            Cell(_sentences(one["what"], one["cause"])),
            Cell(one["remedy"] or "-"),
            share_cell(one["ms_share"]),
            Cell(", ".join(one["where"][:3]) + (f" and {len(one['where']) - 3} more" if len(one["where"]) > 3 else "")),
            Cell(one["rule"], code=True),
        )
        for one in content["findings"]
    ]
    if not rows:
        return []
    columns = (
        Column("what, and why"),
        Column("what to do"),
        Column("time", number=True, about="share of the time of a run"),
        Column("where"),
        Column("rule"),
    )
    return [Listing("What costs speed, accuracy or trust, the dearest first", columns, tuple(rows))]


def _sentences(*parts: str) -> str:
    """What a record says in parts, as sentences."""
    said = [part.strip().rstrip(".") for part in parts if part.strip()]
    return ". ".join(part[:1].upper() + part[1:] for part in said) or "-"


def _targets(targets: Sequence[Content]) -> Listing:
    rows = [
        (
            Cell(one["target"], code=True),
            Cell(f"{one['integer_layers']} of {one['layers']}", float(one["integer_layers"])),
            share_cell(one["macs_share"]),
            Cell("; ".join(f"{name}: {why}" for name, why in list(one["floats"].items())[:3]) or "-"),
        )
        for one in targets
    ]
    columns = (
        Column("target"),
        Column("integer layers", number=True),
        Column("multiply-accumulates", number=True),
        Column("stays float"),
    )
    return Listing("What quantize would do with it", columns, tuple(rows))


def _times(content: Content) -> list[Section]:
    """A table of layers: planned against executed, with the time of each beside float's."""
    layers = content["layers"]
    if not layers:
        return []
    most = max([real(layer[key]) or 0.0 for layer in layers for key in ("ms", "float_ms")], default=0.0)
    rows = tuple(_layer(layer, most) for layer in layers)
    columns = (
        Column("layer"),
        Column("executed", about="the kernel that onnxruntime runs"),
        Column("time ms", number=True, about="of one run: int8 above, float below"),
        Column("float ms", number=True),
        Column("SQNR dB", number=True, about="of its output, all of the network quantised"),
        Column("alone dB", number=True, about="of its output, its input taken from float"),
        Column("MACs", number=True, about="share of the multiply-accumulates"),
        Column("op"),
        Column("planned", about="what the Q/DQ of the file ask for"),
        Column("why float, and what to do"),
    )
    measured = [layer for layer in layers if real(layer["ms"]) is not None]
    lead = "Each layer as the file plans it and as onnxruntime runs it."
    if measured:
        paired = [layer for layer in measured if real(layer["float_ms"]) is not None]
        total = sum(real(layer["ms"]) or 0.0 for layer in paired or measured)
        lead += " Of two bars the upper one is this model, the lower one float." if paired else ""
        which = f"The {len(paired)} layers found in float too" if 0 < len(paired) < len(measured) else "Layers"
        exact = sum(real(layer["float_ms"]) or 0.0 for layer in paired)
        lead += f" {which} take {rounded(total)} ms" + (f", {rounded(exact)} ms in float." if paired else ".")
    table = Listing("Layers, in the order of the network", *measured_alone(columns, rows))
    return [Section("layers", "Layer by layer", lead, (table,))]


def _layer(layer: Content, most: float) -> tuple[Cell, ...]:
    ms, exact = finite(layer["ms"]), finite(layer["float_ms"])
    bars = tuple(
        (value / most, tone)
        for value, tone in ((ms, "int" if layer["integer"] else "float"), (exact, "move"))
        if value is not None and most
    )
    kernel = layer["kernel"] or "folded away"
    tone = "int" if layer["integer"] else "float"
    return (
        Cell(layer["name"] or layer["output"]),
        Cell(kernel, tone=tone, code=True),
        replace(ms_cell(ms), bars=bars),
        ms_cell(exact),
        db_cell(layer["sqnr_db"]),
        db_cell(layer["alone_db"]),
        share_cell(layer["share"]),
        Cell(layer["op"], code=True),
        Cell("int8" if layer["planned"] else "float", tone="int" if layer["planned"] else "float"),
        Cell(_sentences(layer["cause"], layer["remedy"])),
    )


def _planned(content: Content, proof: Content) -> Section:
    """What the census found, where there is no inspection: the layers and their kernels."""
    plan, floats = content["plan"], {**proof["float_layers"], **dict.fromkeys(proof["fallbacks"], "runs in float")}
    nodes = dict.fromkeys([*plan["integer"], *plan["layers"], *floats])
    order = _ordered(nodes, plan)
    squares = []
    for name in order:
        if name in floats:
            squares.append(("float", f"{name}: {floats[name]}"))
        elif name in plan["integer"]:
            squares.append(("int", f"{name}: {' or '.join(plan['integer'][name])}"))
        else:
            dynamic = any(reader[0] == name for row in plan["dynamic"] for reader in row["readers"])
            squares.append(("int", f"{name}: dynamic") if dynamic else ("float", f"{name}: float"))
    blocks: list[Block] = [_map(squares, f"The {len(order)} nodes that the plan speaks of, in order")] if order else []
    if proof["kernels"]:
        columns = (Column("kernel"), Column("nodes", number=True))
        rows = [(Cell(op, code=True), count_cell(count)) for op, count in proof["kernels"].items()]
        blocks.append(
            Listing(
                "Kernels of the optimised graph",
                columns,
                tuple(rows),
                folded=amount(len(rows), "kind of kernel", "kinds of kernels"),
            )
        )
    if floats:
        columns = (Column("layer"), Column("why it is float"))
        blocks.append(Listing("Layers in float", columns, tuple((Cell(n), Cell(why)) for n, why in floats.items())))
    lead = f"{proof['integer_layers']} of {amount(proof['layers'], 'layer')} run in integer kernels."
    return Section("network", "What onnxruntime runs", lead, tuple(blocks))


def _ordered(nodes: Iterable[str], plan: Content) -> list[str]:
    """Nodes in graph order as far as a plan tells it: both of its lists are in that order."""
    first, second = list(plan["integer"]), [name for name in plan["layers"] if name not in plan["integer"]]
    places = {name: n for n, name in enumerate(plan["layers"])}
    result = list(first)
    for name in second:
        behind = [n for n, other in enumerate(result) if other in places and places[other] > places[name]]
        result.insert(behind[0] if behind else len(result), name)
    return result + [name for name in nodes if name not in result]
