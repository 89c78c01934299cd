"""prepare: the float graph in the form that quantisation starts from; it computes what the model computes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from qtool.core.errors import AlreadyQuantizedError, ModelError, QtoolError
from qtool.core.records.recipe import Recipe
from qtool.graph import compose, edit, opset, shapes, widen
from qtool.graph.body_parts import parts_of
from qtool.graph.edit import Model, Node
from qtool.graph.model_io import LoadedModel
from qtool.graph.names import make_unique
from qtool.graph.origins import Origin, heirs, mark_origins, take_calls
from qtool.pipeline.prepare import (
    activations,
    channels_last,
    constant_branches,
    einsum_products,
    fold_affine,
    fold_constants,
    fold_forward,
    fold_gates,
    fold_pad,
    gemm_bias,
    gru_steps,
    known_shapes,
    matmul_add,
    merge_equal,
    no_ops,
    plain_products,
    pointwise_head,
    residual_sum,
    resize_axes,
    spatial_mean,
    stacked_products,
    sub_pixel,
    unfuse,
    vanishing_weights,
)
from qtool.pipeline.prepare.fixed_inputs import Fixed, fix_inputs
from qtool.runtime.session import Session
from qtool.targets.kernels import QUANTIZED

# what these leave behind is inferred anew, and may be folded then
_MORE_TO_FOLD = {"known_shapes", "constant_branches", "no_ops"}


@dataclass(frozen=True, slots=True)
class Prepared:
    """The prepared graph, what to call the model, the file it came from with its digest, and what was done to it.

    path: of the file, which other processes are sent. changes: how often each pass did something. recipe: the steps of
    `qtool.pipeline.recovery` that came after. widened: of a float16 model, the same in float32 as it was before all
    passes. folded: node of the model as it came that is not there any more, by name or operator -> the nodes that it
    has become a part of.
    """

    model: Model
    name: str
    path: Path
    digest: str
    changes: dict[str, int]
    recipe: Recipe = field(default_factory=Recipe)
    widened: Model | None = None
    folded: Mapping[Origin, tuple[str, ...]] = field(default_factory=dict)


def prepare(
    loaded: LoadedModel, fixed: Fixed | None = None, *, transposed: bool = False, recurrent: bool = False
) -> Prepared:
    """Fold and rewrite a float model into the form that quantisation starts from, and return it.

    `fixed`: input -> the value that it always has, element by element; one number stands for all. The input stays in
    the signature, and is not read. `transposed`: leave each ConvTranspose as it is; `recurrent`: each GRU.

    Batch norms and constants are folded, identities are removed, an opset below 13 is raised to it, and float16 becomes
    float32. The input is not changed.

    Raises:
        ModelError: the opset cannot be raised, onnxruntime cannot load the model, or not compute with its bfloat16.
        UsageError: there is no such input to fix, or it cannot have that value.
        AlreadyQuantizedError: the model holds quantised operators.
    """
    try:
        return _prepared(loaded, fixed or {}, transposed=transposed, recurrent=recurrent)
    except QtoolError:
        raise
    except Exception:
        # attributes and types that contradict each other pass ONNX's checker; onnxruntime says what is wrong with them
        Session(loaded.path)
        raise


def _prepared(loaded: LoadedModel, fixed: Fixed, *, transposed: bool, recurrent: bool) -> Prepared:
    name = str(loaded.path)
    _refuse_quantized(loaded.model, name)
    raised = opset.raise_opset(loaded.model, name)
    changes = {"opset": opset.opset_of(raised)} if raised is not loaded.model else {}
    overridable = {v.name for v in loaded.model.graph.inputs if v.is_initializer()}
    if overridable:
        changes["inputs made constant"] = len(overridable)
    model = edit.clone(raised)
    fix_inputs(model, fixed, name)
    origins = mark_origins(model)
    make_unique(model)
    declared = shapes.forget(model)
    _tidy(model, name)
    take_calls(model, origins)
    _ask_onnxruntime(model)
    widened = _in_float32(model, loaded, changes, declared)
    unfused = [_apply(part, changes, unfuse) for part in parts_of(model)]
    if any(unfused):
        _tidy(model)
        _ask_onnxruntime(model)
    for part in parts_of(model):
        while _apply(part, changes, no_ops, known_shapes, fold_constants, constant_branches) & _MORE_TO_FOLD:
            _tidy(part)
        if _apply(part, changes, channels_last, einsum_products, stacked_products):
            _tidy(part)
        _apply(part, changes, plain_products, fold_affine)
        if not transposed:
            _apply(part, changes, sub_pixel)
        if not recurrent:
            _apply(part, changes, gru_steps)
        _apply(part, changes, fold_pad, matmul_add, spatial_mean, pointwise_head)
        _apply(part, changes, activations, fold_forward, fold_gates, residual_sum, gemm_bias, resize_axes, merge_equal)
        _apply(part, changes, vanishing_weights)
    _tidy(model)
    shapes.declare(model, declared)
    computed = sum(edit.origin_of(value) is not None for value in model.graph.initializers.values())
    if computed:
        changes["computed from less"] = computed
    recipe = Recipe(fixed=dict(fixed) if fixed else None, transposed=transposed or None, recurrent=recurrent or None)
    return Prepared(model, name, loaded.path, loaded.digest, changes, recipe, widened, heirs(model, origins))


def _in_float32(
    model: Model, loaded: LoadedModel, changes: dict[str, int], declared: Mapping[str, edit.Shape]
) -> Model | None:
    """In place; a copy where something was float16."""
    brain = widen.name_of_type(model, "bfloat16")
    if brain is not None:
        _refuse_bfloat16(model, loaded, brain)
    if widen.name_of_type(model, "float16") is None:
        return None
    changes["widened"] = widen.float16_to_float32(model)
    _tidy(model)
    found = edit.clone(model)
    shapes.declare(found, declared)
    return found


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


def _tidy(model: Model, name: str = "the model") -> None:
    opset.tidy(model, name)
    shapes.infer(model)


def _ask_onnxruntime(model: Model) -> None:
    """In place: what ONNX's inference cannot know where an operator is not ONNX's."""
    wanted = shapes.unknown(model)
    if not wanted:
        return
    try:
        session = Session(compose.with_outputs(model, wanted), optimize=False)
    except ModelError:
        return
    shapes.tell(model, session.output_specs)
    shapes.infer(model)


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
                "give the float model; qtool inspect tells what onnxruntime runs of this one"
            )


def _output(node: Node) -> str:
    return node.outputs[0].name or "" if node.outputs else ""
