"""The table of rules: what costs speed, accuracy or trust in a quantised model, and what to do about it.

A rule is a row of `RULES`; docs/inspect.md explains each. Some find what they are about themselves, the others are the
causes of float islands, which `qtool.inspection.causes` tells apart.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from qtool.core.records.inspection import FOR_LATENCY, REQUANTISE, Finding
from qtool.core.text import amount, sentence
from qtool.inspection import finders
from qtool.inspection.islands import Island
from qtool.inspection.look import Found, Look
from qtool.inspection.makers import OWN, THESE, Maker


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the table.

    remedy: what helps whoever the maker is. find: what looks for it; None for a cause of islands.
    """

    name: str
    remedy: str
    find: Callable[[Look], Iterator[Found]] | None = None


def find_all(look: Look) -> tuple[Finding, ...]:
    """Return all findings: what costs trust or accuracy first, then by time; without times in the table's order."""
    found: list[Finding] = []
    for rule in RULES.values():
        for one in _grouped(look, rule.name) if rule.find is None else rule.find(look):
            ms = one.ms if one.ms is not None or not one.numbers else look.executed.time(one.numbers)
            total = look.executed.total
            found.append(
                Finding(
                    rule=rule.name,
                    where=one.where,
                    what=one.what,
                    cause=one.cause,
                    remedy=remedy_of(rule.name, look.maker).replace(THESE, repr(list(one.where))),
                    ms=ms,
                    ms_share=ms / total if ms is not None and total else None,
                )
            )
    return tuple(sorted(found, key=lambda one: (one.rule not in _FIRST, -(one.ms_share or 0.0))))


def remedy_of(rule: str, maker: Maker | None) -> str:
    """Return what to do about what a rule finds: an option of the maker where one is known, and what always works."""
    if maker is not None and rule in maker.meant:
        return ""
    own = "" if maker is None else maker.options.get(rule, "")
    general = RULES[rule].remedy
    if own and maker is OWN:
        return own
    if own and maker is not None:
        other = f"; or {REQUANTISE}" if REQUANTISE in general else ""
        return f"{maker.name}: {own}{other}"
    return general


_FIRST = ("wrong-result", "does-not-run", "bad-scale", "accuracy")
"""Whatever it takes, a model is no good for it."""
_NAME = re.compile(r"'[^']*'")


def _grouped(look: Look, rule: str) -> Iterator[Found]:
    """The islands of one cause together, those of one sentence in one finding."""
    groups: dict[tuple[str, str], list[Island]] = {}
    for island in look.islands:
        if island.cause.rule == rule:
            where = "tail" if island.ends else "head" if island.begins else "inner"
            groups.setdefault((_NAME.sub("", _without_numbers(island.cause.text)), where), []).append(island)
    for (_, where), found in groups.items():
        numbers = [number for island in found for number in (*island.nodes, *island.seams)]
        places = tuple(dict.fromkeys(place for island in found for place in island.places))
        ops = Counter(look.executed.nodes[n].op_type for island in found for n in island.nodes)
        kinds = ", ".join(op for op, _ in ops.most_common(4))
        at = {"tail": " at the end of the network", "head": " at its beginning", "inner": ""}[where]
        yield Found(
            places, f"{amount(len(found), 'float island')}{at}: {kinds}", sentence(found[0].cause.text), tuple(numbers)
        )


def _without_numbers(text: str) -> str:
    return re.sub(r"-?\d[\d.e+-]*", "#", text)


_BY_QTOOL = f"{REQUANTISE}, which puts Q/DQ where onnxruntime's integer kernels want them"
_ROWS = (
    Rule("wrong-result", f"do not ship it; {REQUANTISE}, which proves it", finders.wrong),
    Rule("does-not-run", _BY_QTOOL, finders.fails),
    Rule("bad-scale", f"calibrate again on data whose values are finite; or {REQUANTISE}", finders.bad_scale),
    Rule("accuracy", f"leave the noisiest in float; or {REQUANTISE}, which chooses ranges by it", finders.accuracy),
    Rule("trained", "compare both with labels: qtool eval", finders.trained),
    Rule("no-integers", _BY_QTOOL, finders.nothing),
    Rule("requantised", f"{REQUANTISE} and leave that layer out there: it is then hidden", finders.requantised),
    Rule("missing-output-q", _BY_QTOOL),
    Rule("missing-input-q", _BY_QTOOL),
    Rule("also-read", _BY_QTOOL),
    Rule("relu-zero-point", f"uint8 activations with zero point 0 behind a Relu: {REQUANTISE}"),
    Rule("signed-activations", f"uint8 activations: {REQUANTISE}"),
    Rule("signed-kernel", f"uint8 activations: {REQUANTISE}", finders.signed_kernel),
    Rule("unequal-ranges", f"one range for what is only moved: {REQUANTISE}"),
    Rule("mixed-types", f"one 8-bit type throughout: {REQUANTISE}"),
    Rule("wide-type", f"8 bits: {REQUANTISE}; 16 and 4 bits and float8 are for other devices"),
    Rule("half-scales", f"float32 scales, of the model in float32: {REQUANTISE}"),
    Rule("vector-scale", f"one scale for each activation: {REQUANTISE}"),
    Rule("scale-shape", f"give scales and zero points the shape [] in the file; or {REQUANTISE}"),
    Rule("no-zero-point", f"write the zero point, 0 as it may be; or {REQUANTISE}"),
    Rule("wrong-axis", f"scales of weights along the output channels: {REQUANTISE}"),
    Rule("bias-scale", f"a bias scale that is the input's times the weight's: {REQUANTISE}"),
    Rule("batch-norm", f"fold batch normalisations before quantising; or {REQUANTISE}, which does"),
    Rule(
        "no-kernel",
        f"no Q/DQ for operators without an integer kernel; or {REQUANTISE}, which puts none there, and rewrites what "
        "it can",
    ),
    Rule("float-only", ""),
    Rule("layout", _BY_QTOOL),
    Rule("not-quantised", _BY_QTOOL),
    Rule("float-weight", _BY_QTOOL),
    Rule("float-constant", _BY_QTOOL),
    Rule("float-tail", _BY_QTOOL),
    Rule("dynamic", f"calibrated ranges are not faster by themselves: {REQUANTISE}, which measures both forms"),
    Rule(
        "accuracy-level",
        f"set accuracy_level to 4: blocks of its input are then rounded to 8 bits; or {REQUANTISE}",
    ),
    Rule("weights-only", f"it saves memory, not time; for speed {REQUANTISE}"),
    Rule("conv-integer", f"calibrated ranges instead of dynamic ones: {REQUANTISE}", finders.conv_integer),
    Rule("slow-pool", f"leave MaxPool without Q/DQ where its neighbours are float; or {REQUANTISE}", finders.slow_pool),
    Rule("slower-in-integers", f"{FOR_LATENCY}: it leaves in float what is slower", finders.slower),
    Rule("one-channel", f"leave layers of one input channel in float; or {REQUANTISE}", finders.one_channel),
    Rule("old-opset", f"export with opset 13 or later; or {REQUANTISE}, which raises it", finders.old_opset),
    Rule("unexplained", f"{REQUANTISE}, which looks at what onnxruntime makes of it, and plans again"),
    Rule("seams", _BY_QTOOL, finders.seams),
    Rule("dropped-pairs", _BY_QTOOL, finders.dropped),
    Rule("reduced-range", f"{REQUANTISE} for its target: all 8 bits where that has VNNI", finders.reduced_range),
    Rule("per-tensor", f"a scale for each output channel: {REQUANTISE}", finders.per_tensor),
    Rule("float-weights-stored", f"store the integers: {REQUANTISE}", finders.fake_weights),
)  # fmt: skip
RULES = {rule.name: rule for rule in _ROWS}
