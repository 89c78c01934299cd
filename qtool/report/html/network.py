"""The network as onnxruntime runs it: its map, its kernels, where the time goes, and what is found to cost."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from qtool.core.text import amount, rounded
from qtool.report.html.blocks import Block, Cell, Column, Legend, Listing, NetworkMap, Note, Section, Square
from qtool.report.html.documents import Document, of_kind, verifications
from qtool.report.html.figures import count_cell, db_cell, finite, ms_cell, ratio_cell, real, share_cell
from qtool.report.html.plots import strip
from qtool.report.inspect import planned_words
from qtool.report.inspect_float import as_options

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
            _map(
                [(_tone(n), _about(n)) for n in nodes],
                f"The {amount(len(nodes), 'node')} that onnxruntime runs, in order",
            )
        )
        measured = [(real(n["ms"]) or 0.0, _tone(n), _about(n)) for n in nodes]
        total = sum(ms for ms, _, _ in measured)
        if total > 0:
            by_tone: dict[str, float] = defaultdict(float)
            for ms, tone, _ in measured:
                by_tone[tone] += ms / total
            shares = [f"{words} {100 * by_tone[tone]:.0f} %" for tone, words in _TONES.items() if by_tone[tone]]
            caption = f"The same by time: {rounded(total)} ms a run by the profiler; {', '.join(shares)}"
            blocks.append(strip(caption, caption, measured, ()))
        blocks.append(_kernels(nodes))
    blocks += _findings(content)
    lead = _lead(content)
    if content["targets"]:
        blocks += _targets(content["targets"])
    blocks += _ports(content)
    blocks += [Note(f"Give it {as_options(text)}") for text in content["suggestions"]]
    blocks += [Note(text) for text in content["unusual"]]
    blocks += [Note(f"Not measured: {text}", "muted") for text in content["not_measured"]]
    return Section("network", "What onnxruntime runs", lead, tuple(blocks))


def _lead(content: Content) -> str:
    made = "; ".join(filter(None, [content["form"], content["maker"] and f"made by {content['maker']}"]))
    parts = [made] if made else []
    parts += [amount(sum(content["parameters"].values()), "parameter", commas=True)] if content["parameters"] else []
    parts += [amount(content["macs"], "multiply-accumulate", commas=True)] if content["macs"] else []
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


def _kernels(nodes: Sequence[Content]) -> Listing:
    counts, times = Counter[tuple[str, str]](), defaultdict[tuple[str, str], float](float)
    for node in nodes:
        counts[node["op"], _tone(node)] += 1
        times[node["op"], _tone(node)] += real(node["ms"]) or 0.0
    total = sum(times.values())
    timed = total > 0
    order = sorted(counts, key=lambda kind: (-times[kind], -counts[kind], kind))
    rows = [
        (
            Cell(kind[0], code=True),
            Cell(_TONES[kind[1]], tone=kind[1]),
            count_cell(counts[kind]),
            ms_cell(times[kind] if timed else None),
            share_cell(times[kind] / total if timed else None),
        )
        for kind in order
    ]
    columns = (
        Column("kernel"),
        Column("kind"),
        Column("nodes", number=True),
        Column("time ms", number=True, about="of all of them in one run"),
        Column("of the time", number=True),
    )
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
            Cell(_names(one["where"])),
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


def _targets(targets: Sequence[Content]) -> list[Block]:
    rows = [
        (
            Cell(one["target"], code=True),
            Cell(f"{one['integer_layers']} of {one['layers']}", float(one["integer_layers"])),
            share_cell(one["macs_share"]),
            ratio_cell(one["layers_speedup"]),
            ratio_cell(one["speedup"]),
            Cell(_floats(one["floats"])),
        )
        for one in targets
    ]
    columns = (
        Column("target"),
        Column("integer layers", number=True),
        Column("MACs", number=True, about="share of the multiply-accumulates in integers"),
        Column("these layers, estimated", number=True, about="how many times as fast as in float, by a table of times"),
        Column("a draft, timed here", number=True, about="the whole model with its layers in integers, beside float"),
        Column("stays float"),
    )
    return [Listing("What quantize would do with it", columns, tuple(rows))]


def _floats(floats: Mapping[str, str]) -> str:
    """Nodes that stay float, by the reason."""
    reasons: dict[str, list[str]] = {}
    for name, why in floats.items():
        reasons.setdefault(why.partition(":")[0], []).append(name)
    return "; ".join(f"{_names(names)}: {why}" for why, names in reasons.items()) or "-"


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _ports(content: Content) -> list[Block]:
    """The inputs and outputs of a model."""
    rows = tuple(
        (
            Cell(what),
            Cell(port["name"]),
            Cell(port["dtype"], code=True),
            Cell("any" if port["shape"] is None else f"[{', '.join(map(str, port['shape']))}]"),
        )
        for what, ports in (("input", content["inputs"]), ("output", content["outputs"]))
        for port in ports
    )
    columns = (Column("is"), Column("name"), Column("type"), Column("shape"))
    words = f"{amount(len(content['inputs']), 'input')}, {amount(len(content['outputs']), 'output')}"
    return [Listing("Inputs and outputs", columns, rows, folded=words)] if rows else []


def _times(content: Content) -> list[Section]:
    """A table of layers: planned against executed, with the time of each beside float's."""
    layers = content["layers"]
    if not layers:
        return []
    if content["kind"] == "float":
        return [_float_layers(layers)]
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
    lead += f" Measured on {content['inputs_from']}." if content["inputs_from"] else ""
    if measured:
        paired = [layer for layer in measured if real(layer["float_ms"]) is not None]
        total = sum(real(layer["ms"]) or 0.0 for layer in paired or measured)
        lead += " Of two bars the upper one is this model, the lower one float." if paired else ""
        which = (
            f"The {amount(len(paired), 'layer')} found in float too" if 0 < len(paired) < len(measured) else "Layers"
        )
        exact = sum(real(layer["float_ms"]) or 0.0 for layer in paired)
        lead += f" {which} take {rounded(total)} ms" + (f", {rounded(exact)} ms in float," if paired else "")
        lead += " by onnxruntime's profiler."
    return [Section("layers", "Layer by layer", lead, (Listing("Layers, in the order of the network", columns, rows),))]


def _float_layers(layers: Sequence[Content]) -> Section:
    """What becomes of each layer of a float model on this machine's target."""
    most = max((real(layer["ms"]) or 0.0 for layer in layers), default=0.0)
    rows = []
    for layer in layers:
        ms, tone = finite(layer["ms"]), "int" if layer["planned"] else "float"
        bars = ((ms / most, tone),) if ms is not None and most else ()
        cells = (Cell(layer["name"] or layer["output"]), Cell("integer" if layer["planned"] else "float", tone=tone))
        what = (Cell(layer["op"], code=True), Cell(layer["output"]), Cell(_sentences(layer["cause"], layer["remedy"])))
        rows.append((*cells, replace(ms_cell(ms), bars=bars), share_cell(layer["share"]), *what))
    columns = (
        Column("layer"),
        Column("becomes", about="on this machine's target"),
        Column("time ms", number=True, about="of one run of the float model"),
        Column("MACs", number=True, about="share of the multiply-accumulates"),
        Column("op"),
        Column("tensor"),
        Column("why float, and what to do"),
    )
    lead = "What quantize makes of each layer on this machine's target."
    table = Listing("Layers, in the order of the network", columns, tuple(rows))
    return Section("layers", "Layer by layer", lead, (table,))


def _layer(layer: Content, most: float) -> tuple[Cell, ...]:
    ms, exact = finite(layer["ms"]), finite(layer["float_ms"])
    bars = tuple(
        (value / most, tone)
        for value, tone in ((ms, "int" if layer["integer"] else "float"), (exact, "move"))
        if value is not None and most
    )
    kernel = layer["kernel"] or "folded away"
    types = ("" if grid is None else str(grid["dtype"]) for grid in (layer["input"], layer["weight"]))
    words = planned_words(layer["planned"], *types)
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
        Cell(words, tone="float" if words == "float" else "int"),
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
    blocks: list[Block] = (
        [_map(squares, f"The {amount(len(order), 'node')} that the plan speaks of, in order")] if order else []
    )
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
