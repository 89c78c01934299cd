"""A calibration file inspected, as text."""

from qtool.core.records.calibration_inspection import CalibratedTensor, CalibrationInspection, ChosenRange
from qtool.core.records.recipe import text_of
from qtool.core.text import amount, line
from qtool.report.text import ABSENT, aligned, file_size

_SHOWN = 12
"""Tensors in a table, unless all are wanted."""
_LEFT = {"ConvTranspose": "transposed", "GRU": "recurrent"}
"""Operator -> the field of a recipe that says that it is not rewritten."""


def calibration_inspection_text(result: CalibrationInspection, *, every: bool = False) -> str:
    """Return what a calibration file holds, what is odd about it, and the range that each calibrator would choose.

    `every`: of all tensors, instead of those in which calibrators differ most.
    """
    counted = f"{amount(result.samples, 'sample')}, {amount(len(result.tensors), 'tensor')}"
    part = "" if result.shard is None else f", shard {result.shard}{'' if result.complete else ', unfinished'}"
    head = f"{result.file}: {counted}, {file_size(result.bytes)}{part}; for the model with SHA-256 {result.model[:12]}"
    facts = [
        ("made by", ", ".join(f"{name} {version}" for name, version in result.versions.items()) or "it does not say")
    ]
    facts += [("of the graph", _recipe(result)), ("examples", _examples(result))]
    facts += [("warning", text) for text in result.warnings]
    odd = [tensor for tensor in result.tensors if tensor.notes]
    parts = [line(head), *(line(f"  {name:<12}  {text}") for name, text in facts)]
    shown = odd if every else odd[:_SHOWN]
    parts += [line(f"  {tensor.name}: {'; '.join(tensor.notes)}") for tensor in shown]
    parts += (
        [f"  {amount(len(odd) - len(shown), 'more tensor')} with something odd; all with -v"]
        if len(odd) > len(shown)
        else []
    )
    return "\n".join([*parts, *_table(result, every=every)])


def _recipe(result: CalibrationInspection) -> str:
    recipe = result.recipe
    fixed = [f"fixed {text_of(name, numbers)}" for name, numbers in (recipe.fixed or {}).items()]
    left = [f"each {what} as it is" for what, kept in _LEFT.items() if getattr(recipe, kept)]
    steps = [*recipe.steps, *fixed, *left]
    return ", ".join(steps) or "as it is prepared for every model"


def _examples(result: CalibrationInspection) -> str:
    shapes = ", ".join(f"{name} {list(shape)}" for name, shape in result.example_inputs.items())
    return f"{amount(result.examples, 'batch', 'batches')}{f', the first {shapes}' if shapes else ''}"


def _table(result: CalibrationInspection, *, every: bool) -> list[str]:
    """Of each tensor the whole range, and by calibrator the share of it that is kept, and that of clipped values."""
    tensors = [tensor for tensor in result.tensors if tensor.ranges]
    if not tensors:
        return []
    ranked = tensors if every else sorted(tensors, key=_disagreement)[:_SHOWN]
    names = [chosen.calibrator.replace("percentile ", "p") for chosen in tensors[0].ranges]
    rows = [[t.name, f"{t.minimum:.4g}", f"{t.maximum:.4g}", *map(_chosen, t.ranges)] for t in ranked]
    which = (
        "" if len(ranked) == len(tensors) else f" of the {len(ranked)} tensors in which they differ most (all with -v)"
    )
    title = (
        f"ranges by calibrator, {result.grid}{which}: % of the whole that is kept / % of the values that are clipped"
    )
    return ["", title, aligned(["tensor", "min", "max", *names], rows)]


def _disagreement(tensor: CalibratedTensor) -> float:
    return min((chosen.kept for chosen in tensor.ranges), default=1.0)


def _chosen(chosen: ChosenRange) -> str:
    kept, clipped = chosen.kept, chosen.clipped
    return f"{100 * kept:.0f} / {100 * clipped:.2g}" if clipped else f"{100 * kept:.0f} / {ABSENT}"
