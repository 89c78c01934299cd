"""prepare: the float graph in the form that quantisation starts from; it computes what the model computes."""

from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from qtool.core.errors import AlreadyQuantizedError, ModelError
from qtool.core.records.recipe import Recipe
from qtool.graph import edit, opset, widen
from qtool.graph.edit import Model, Node
from qtool.graph.model_io import LoadedModel
from qtool.pipeline.prepare import (
    constant_branches,
    fold_affine,
    fold_constants,
    fold_pad,
    hard_swish,
    known_shapes,
    matmul_add,
    pointwise_head,
    residual_sum,
    simplify,
    spatial_mean,
)
from qtool.runtime.session import Session
from qtool.targets.kernels import QUANTIZED

# what these leave behind is inferred anew, and may be folded then
_MORE_TO_FOLD = {"known_shapes", "constant_branches"}


@dataclass(frozen=True, slots=True)
class Prepared:
    """The prepared graph, what to call the model, the file it came from with its digest, and what was done to it.

    path: of the file, which other processes are sent. changes: how often each pass did something. recipe: the steps of
    `qtool.pipeline.recovery` that came after. widened: of a float16 model, the same in float32 as it was before all
    passes.
    """

    model: Model
    name: str
    path: Path
    digest: str
    changes: dict[str, int]
    recipe: Recipe = field(default_factory=Recipe)
    widened: Model | None = None


def prepare(loaded: LoadedModel) -> Prepared:
    """Fold and rewrite a float model into the form that quantisation starts from, and return it.

    Batch norms and constants are folded, identities are removed, an opset below 13 is raised to it, and float16 becomes
    float32. The input is not changed.

    Raises:
        ModelError: the opset cannot be raised, or onnxruntime cannot compute with the model's bfloat16.
        AlreadyQuantizedError: the model holds quantised operators.
    """
    name = str(loaded.path)
    _refuse_quantized(loaded.model, name)
    raised = opset.raise_opset(loaded.model, name)
    changes = {"opset": opset.opset_of(raised)} if raised is not loaded.model else {}
    overridable = {v.name for v in loaded.model.graph.inputs if v.is_initializer()}
    if overridable:
        changes["inputs made constant"] = len(overridable)
    model = edit.clone(raised)
    _tidy(model)
    widened = _in_float32(model, loaded, changes)
    while _apply(model, changes, simplify, known_shapes, fold_constants, constant_branches) & _MORE_TO_FOLD:
        _tidy(model)
    _apply(model, changes, fold_affine, fold_pad, matmul_add, spatial_mean, pointwise_head, hard_swish, residual_sum)
    _tidy(model)
    return Prepared(model, name, loaded.path, loaded.digest, changes, widened=widened)


def _in_float32(model: Model, loaded: LoadedModel, changes: dict[str, int]) -> Model | None:
    """In place; a copy where something was float16."""
    brain = widen.name_of_type(model, "bfloat16")
    if brain is not None:
        _refuse_bfloat16(model, loaded, brain)
    if widen.name_of_type(model, "float16") is None:
        return None
    changes["widened"] = widen.float16_to_float32(model)
    _tidy(model)
    return edit.clone(model)


def _refuse_bfloat16(model: Model, loaded: LoadedModel, tensor: str) -> None:
    """Only weights that are cast before use, and outputs that are cast to it, are known to run on the CPU."""
    try:
        if not any(spec.dtype.name == "bfloat16" for spec in edit.input_specs(model)):
            Session(loaded.path)
            return
    except ModelError:
        pass
    raise ModelError(
        f"{loaded.path}: tensor {tensor!r} is bfloat16, with which onnxruntime does not compute on the CPU; "
        "export the model in float32 or float16"
    )


def _tidy(model: Model) -> None:
    opset.tidy(model)
    opset.infer_shapes(model)


def _apply(model: Model, changes: dict[str, int], *steps: ModuleType) -> set[str]:
    """Returns the names of the steps that did something; how often is added to `changes`."""
    done = set()
    for step in steps:
        count, name = step.apply(model), step.__name__.rsplit(".", 1)[-1]
        if count:
            changes[name] = changes.get(name, 0) + count
            done.add(name)
    return done


def _refuse_quantized(model: Model, name: str) -> None:
    inside = (node for function in model.functions.values() for node in function.all_nodes())
    for node in (*model.graph.all_nodes(), *inside):
        if node.op_type in QUANTIZED:
            raise AlreadyQuantizedError(
                f"{name}: already quantised (node {node.name or _output(node)!r} is a {node.op_type}); "
                "give the float model"
            )


def _output(node: Node) -> str:
    return node.outputs[0].name or "" if node.outputs else ""
