"""prepare: the float graph in the form that quantisation starts from; it computes what the model computes."""

from dataclasses import dataclass, field

from qtool.core.errors import AlreadyQuantizedError
from qtool.core.preparation import Preparation
from qtool.graph import edit, opset
from qtool.graph.edit import Model, Node
from qtool.graph.model_io import LoadedModel
from qtool.stages.prepare import (
    fold_affine,
    fold_constants,
    fold_pad,
    hard_swish,
    matmul_add,
    pointwise_head,
    simplify,
    spatial_mean,
)

_QUANTIZED = {
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "MatMulNBits",
    "QLinearConv", "QLinearMatMul", "QGemm", "QAttention", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM",
    "MatMulIntegerToFloat", "QLinearAdd", "QLinearMul",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Prepared:
    """The prepared graph, what to call the model, the digest of the file it came from, and what was done to it.

    changes: how often each pass did something. preparation: the steps of `qtool.recovery` that came after `prepare`.
    """

    model: Model
    name: str
    digest: str
    changes: dict[str, int]
    preparation: Preparation = field(default_factory=Preparation)


def prepare(loaded: LoadedModel) -> Prepared:
    """Fold batch norms and constants, remove identities, raise the opset to 13 where lower; the input is not changed.

    Raises:
        ModelError: the opset cannot be raised.
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
    opset.tidy(model)
    opset.infer_shapes(model)
    for step in (
        simplify, fold_constants, fold_affine, fold_pad, matmul_add, spatial_mean, pointwise_head, hard_swish,
    ):  # fmt: skip
        count = step.apply(model)
        if count:
            changes[step.__name__.rsplit(".", 1)[-1]] = count
    opset.tidy(model)
    opset.infer_shapes(model)
    return Prepared(model, name, loaded.digest, changes)


def _refuse_quantized(model: Model, name: str) -> None:
    for node in model.graph.all_nodes():
        if node.op_type in _QUANTIZED:
            raise AlreadyQuantizedError(
                f"{name}: already quantised (node {node.name or _output(node)!r} is a {node.op_type}); "
                "give the float model"
            )


def _output(node: Node) -> str:
    return node.outputs[0].name or "" if node.outputs else ""
