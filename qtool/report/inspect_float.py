"""A float model inspected, as text."""

import re
import shlex
from collections import Counter
from collections.abc import Sequence

from qtool.core.records.inspection import ANY_PRESET, ANY_VALUE, Inspection, Port, Prospect
from qtool.core.records.results import Asked
from qtool.core.records.verification import percent
from qtool.core.text import amount, line, rounded
from qtool.report.commands import data_text
from qtool.report.text import ABSENT, aligned, file_size, fitted

_SUGGESTED = re.compile(r"(\w+)='(.*?)': (.*)", re.DOTALL)
_LAYERS, _OPERATORS, _NAMED = 10, 8, 3
"""Rows of tables, and names in a line, unless all are wanted."""
_NOTHING = Asked()
_BIG = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def float_text(result: Inspection, asked: Asked = _NOTHING, *, every: bool = False) -> str:
    """Return what a float model is: the verdict, the file, what to give with it, what targets make of it, its time.

    `asked`: what it was called with, for the next command. `every`: with all layers, instead of those that take most.
    """
    facts = [("file", _file(result)), ("work", _work(result))]
    facts += [("input", _port(port)) for port in result.inputs] + [("output", _port(port)) for port in result.outputs]
    facts += [("give", as_options(text)) for text in result.suggestions]
    facts += [("note", text) for text in result.unusual]
    facts += [("unknown", text) for text in result.not_measured]
    parts = [line(f"{result.model}: {result.verdict}"), *(line(f"  {name:<10}  {text}") for name, text in facts)]
    parts += _targets(result) + _floats(result, every=every) + _operators(result, every=every)
    parts += _layers(result, every=every)
    return "\n".join([*parts, "", line(f"next: {_next(result, asked)}")])


def as_options(suggestion: str) -> str:
    """Return a suggestion as a user of the command line gives it: `--state h=hn: why`."""
    found = _SUGGESTED.fullmatch(suggestion)
    return suggestion if found is None else f"{_option(found[1], found[2])}: {found[3]}"


def _option(name: str, value: str) -> str:
    return f"--{name.replace('_', '-')} {shlex.quote(value)}"


def _file(result: Inspection) -> str:
    opsets = ", ".join(f"{domain} {version}" for domain, version in result.opset.items())
    maker = f", made by {result.maker}" if result.maker else ""
    return f"{file_size(result.bytes)}, opset {opsets}{maker}; SHA-256 {result.sha256[:12]}"


def _work(result: Inspection) -> str:
    kinds = ", ".join(f"{_short(number)} {kind}" for kind, number in result.parameters.items())
    work = "multiply-accumulates unknown" if result.macs is None else f"{_short(result.macs)} multiply-accumulates"
    measured = f" on {result.inputs_from}" if result.inputs_from else ""
    return f"{kinds or 'no'} parameters, {work}{measured}"


def _short(number: int) -> str:
    """301 M, 12.5 k."""
    for size, unit in _BIG:
        if number >= size:
            return f"{rounded(number / size)} {unit}"
    return str(number)


def _port(port: Port) -> str:
    shape = "of any shape" if port.shape is None else f"[{', '.join(map(str, port.shape))}]"
    return f"{port.name}  {port.dtype} {shape}"


def _targets(result: Inspection) -> list[str]:
    """Targets on which the same becomes of everything share a row."""
    alike: dict[tuple[object, ...], list[Prospect]] = {}
    for one in result.targets:
        key = (
            one.layers,
            one.integer_layers,
            one.macs_share,
            one.layers_speedup,
            one.speedup,
            tuple(one.floats.items()),
        )
        alike.setdefault(key, []).append(one)
    timed = any(one.speedup is not None for one in result.targets)
    rows = [_target(several, timed=timed) for several in alike.values()]
    speed = "the draft, timed here" if timed else "estimated: these layers"
    work = "of the MACs" if result.macs is not None else "of the known MACs"
    return ["", aligned(["target", "layers in integers", work, speed], rows)] if rows else []


def _target(several: list[Prospect], *, timed: bool) -> list[str]:
    one = several[0]
    share = ABSENT if one.macs_share is None else percent(one.macs_share)
    gain = one.speedup if timed else one.layers_speedup
    speed = ABSENT if gain is None else f"{gain:.2g}x"
    return [", ".join(p.target for p in several), f"{one.integer_layers} of {one.layers}", share, speed]


def _floats(result: Inspection, *, every: bool) -> list[str]:
    """Why what multiplies, and what else a target knows, stays float there: by reason, those of most nodes first."""
    parts = []
    said: set[tuple[tuple[str, str], ...]] = set()
    for one in result.targets:
        rows = tuple(one.floats.items())
        if not rows or rows in said:
            continue
        said.add(rows)
        reasons: dict[str, list[str]] = {}
        for node, why in rows:
            reasons.setdefault(why.partition(":")[0], []).append(node)
        parts += ["", f"in float on {one.target}"]
        for why, nodes in sorted(reasons.items(), key=lambda item: -len(item[1])):
            shown = nodes if every else nodes[:_NAMED]
            more = f" and {len(nodes) - len(shown)} more" if len(nodes) > len(shown) else ""
            parts.append(line(f"  {len(nodes):>4}  {why}: {', '.join(shown)}{more}"))
    return parts


def _operators(result: Inspection, *, every: bool) -> list[str]:
    """The time of one run by operator, as onnxruntime runs the float model."""
    timed = [node for node in result.nodes if node.ms is not None]
    total = sum(node.ms or 0.0 for node in timed)
    if not total:
        return []
    times: dict[str, float] = {}
    counts = Counter(node.op for node in timed)
    for node in timed:
        times[node.op] = times.get(node.op, 0.0) + (node.ms or 0.0)
    rows = [
        [op, str(counts[op]), rounded(ms), f"{100 * ms / total:.1f} %"]
        for op, ms in sorted(times.items(), key=lambda item: -item[1])
    ]
    shown = rows if every else rows[:_OPERATORS]
    parts = [
        "",
        f"float's time, one thread: {_run(result, total)}",
        aligned(["operator", "nodes", "ms", "share"], shown),
    ]
    return parts + [line(f"  {finding.what}: {finding.cause}") for finding in result.findings]


def _run(result: Inspection, total: float) -> str:
    """The time of a run without the profiler, and the sum of what it says."""
    if result.speed is None:
        return f"{rounded(total)} ms"
    median, low, high = result.speed.ms
    return f"{rounded(median)} ms ({rounded(low)} to {rounded(high)}); {rounded(total)} ms by the profiler, of which"


def _layers(result: Inspection, *, every: bool) -> list[str]:
    """The layers with most time, or work: all of them, in the order of the model, where all are wanted."""
    timed = any(layer.ms is not None for layer in result.layers)
    ranked = sorted(result.layers, key=lambda layer: -(layer.ms or 0.0) if timed else -(layer.macs or 0))
    shown = result.layers if every else ranked[:_LAYERS]
    rows = [
        [
            layer.name,
            layer.op,
            layer.output,
            ABSENT if layer.share is None else f"{100 * layer.share:.1f}",
            *([ABSENT if layer.ms is None else rounded(layer.ms)] if timed else []),
            "integer" if layer.planned else f"float: {layer.cause}" if layer.cause else "float",
        ]
        for layer in shown
    ]
    if not rows:
        return []
    header = ["layer", "op", "tensor", "MACs %", *(["ms"] if timed else []), "on this machine's target"]
    left = (0, 1, 2, len(header) - 1)
    if every:
        return ["", aligned(header, rows, left=left)]
    table, narrowed = fitted(header, rows, left=left, names=0, spare=(2,))
    fewer = len(result.layers) - len(rows)
    parts = [amount(fewer, "more layer")] * bool(fewer) + ["whole names and all columns"] * narrowed
    return ["", table, *([f"with -v: {', '.join(parts)}"] if parts else [])]


def _next(result: Inspection, asked: Asked) -> str:
    """The command that comes next, behind words for what it lacks that nobody has given."""
    found = [one for one in map(_SUGGESTED.fullmatch, result.suggestions) if one is not None]
    fixed = any(one[1] == "fix" for one in found)
    integer = any(one.integer_layers for one in result.targets)
    if not result.targets or not (fixed or integer):
        return result.next
    ran = asked.data is not None
    lacks = [] if ran else ["your samples as --data"]
    # an input of which nobody knows whether it has one value need not be fixed
    asks = [one for one in found if (not integer if one[1] == "fix" else not ran)]
    lacks += [_lacking(one[1], one[2]) for one in asks if _is_open(one[2])]
    command = quantize_command(result.model, data_text(asked) if ran else "", result.suggestions, ran=ran)
    return f"with {' and '.join(lacks)}: {command}" if lacks else command


def quantize_command(model: str, data: str, suggestions: Sequence[str], *, ran: bool) -> str:
    """Return the command that quantises a float model, without what nobody can know but its user.

    data: with what stands in front of it, and how it is read. suggestions: that an inspection makes. ran: whether the
    data was run, and so is read as it should be.
    """
    found = [one for one in map(_SUGGESTED.fullmatch, suggestions) if one is not None and not _is_open(one[2])]
    options = [_option(one[1], one[2]) for one in found if not ran or one[1] == "fix"]
    return " ".join(filter(None, ["qtool quantize", shlex.quote(model), data, *options]))


def _is_open(value: str) -> bool:
    """Whether a suggestion leaves to the user what it should be."""
    return value.rpartition("=")[2] in (ANY_PRESET, ANY_VALUE)


def _lacking(name: str, value: str) -> str:
    option, setting, _ = f"--{name.replace('_', '-')}", *value.rpartition("=")[:2]
    return f"its value as {option} {setting}=" if setting else f"what suits your pictures as {option}"
