"""Sentences on what is worth knowing of a float model before it is quantised."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from qtool.core.records.results import GRU_STEPS
from qtool.core.text import amount
from qtool.graph import edit
from qtool.graph.edit import Model, Node, Value
from qtool.graph.layers import Layer
from qtool.graph.model_files import model_files
from qtool.graph.subgraphs import subgraphs

_MODERN, _OLD = 13, 9
"""Opsets: what a model is raised to, and what few tools still write."""
_LARGE = 0.2
"""The share of all parameters from which a table is named."""
_NAMED = 3
_FOLDS = {
    "fold_affine": ("batch norm or scale folded into a layer", "batch norms and scales folded into layers"),
    "fold_constants": ("constant computed", "constants computed"),
    "no_ops": ("node that does nothing removed", "nodes that do nothing removed"),
    "channels_last": ("Transpose saved", "Transposes saved"),
    "activations": ("activation function recognised", "activation functions recognised"),
    "fold_pad": ("Pad moved into a layer", "Pads moved into layers"),
    "sub_pixel": ("ConvTranspose made Conv", "ConvTransposes made Conv"),
    "einsum_products": ("Einsum made MatMul", "Einsums made MatMul"),
    "stacked_products": (
        "product with a stack of matrices taken apart",
        "products with stacks of matrices taken apart",
    ),
    "matmul_add": ("MatMul and Add made Gemm", "MatMuls and Adds made Gemm"),
    "constant_branches": ("If decided", "Ifs decided"),
    "vanishing_weights": ("weight of denormal numbers made zero", "weights of denormal numbers made zero"),
    "merge_equal": ("equal node merged", "equal nodes merged"),
    "fold_gates": ("gate folded", "gates folded"),
    "gru_steps": (GRU_STEPS, GRU_STEPS),
}
"""Pass of the preparation -> what its count counts, one of it and several."""
_HALF = ("FLOAT16", "BFLOAT16", "DOUBLE")


def unusual(model: Model, path: Path, prepared: Model | None = None) -> tuple[str, ...]:
    """Return what is unusual about a model as it came.

    `path`: of its file. `prepared`: the same prepared for quantisation, in which an If may be decided; None where it
    cannot be.
    """
    before = (*_of_the_file(model, path), *_of_the_signature(model), *_of_types(model))
    return (*before, *_of_bodies(model, prepared or model), *_of_weights(model))


def prepared_in_words(changes: dict[str, int]) -> str:
    """Return what preparation did to a model in a sentence; "" where it did nothing that is told."""
    parts = [amount(count, *_FOLDS[step]) for step, count in changes.items() if step in _FOLDS]
    return f"preparation: {', '.join(parts)}" if parts else ""


def _of_the_file(model: Model, path: Path) -> Iterator[str]:
    version = model.graph.opset_imports.get("", model.graph.opset_imports.get("ai.onnx", 0))
    if 0 < version < _MODERN:
        old = ", which few tools still write" if version < _OLD else ""
        yield f"opset {version}{old}: it is raised to {_MODERN}, where integers are"
    files = model_files(path)[1:]
    if files:
        named = ", ".join(file.name for file in files[:_NAMED])
        yield f"its weights lie in {amount(len(files), 'other file')} ({named})"
    foreign = Counter(
        f"{node.domain}.{node.op_type}"
        for node in model.graph.all_nodes()
        if node.domain not in ("", "ai.onnx") and node.op_identifier() not in model.functions
    )
    if foreign:
        named = ", ".join(f"{name} ({count})" for name, count in foreign.most_common(_NAMED))
        more = f" and {len(foreign) - _NAMED} more" if len(foreign) > _NAMED else ""
        yield f"{amount(foreign.total(), 'node')} of another domain than ONNX's: {named}{more}"
    if model.functions:
        yield f"{amount(len(model.functions), 'local function')}, which are inlined"
    unnamed = sum(not node.name for node in model.graph)
    if unnamed:
        yield f"{amount(unnamed, 'node')} without a name: they are called by their outputs, or numbered"


def _of_the_signature(model: Model) -> Iterator[str]:
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    constants = len(model.graph.inputs) - len(inputs)
    if constants:
        yield (
            f"{amount(constants, 'constant')} that {'is' if constants == 1 else 'are'} an input as well: onnxruntime "
            "folds nothing into them, and qtool makes them constant"
        )
    for value in (*inputs, *model.graph.outputs):
        which = "input" if value in inputs else "output"
        if not edit.is_tensor(value):
            yield f"{which} {value.name!r} is no tensor ({value.type or 'a map'})"
        elif value.shape is None:
            yield f"{which} {value.name!r} has no stated number of dimensions"
    unread = [str(value.name) for value in inputs if not value.uses() and not value.is_graph_output()]
    if unread:
        yield f"nothing reads input {', '.join(map(repr, unread[:_NAMED]))}"


def _of_types(model: Model) -> Iterator[str]:
    values = [v for node in model.graph.all_nodes() for v in node.outputs]
    kinds = Counter(v.dtype.name for v in (*_constants(model), *model.graph.inputs, *values) if v.dtype is not None)
    for kind in _HALF:
        if kinds[kind]:
            what = "it is made float32 first" if kind == "FLOAT16" else "what computes in it stays as it is"
            yield f"{amount(kinds[kind], 'tensor')} of {kind.lower()}: {what}"


def _of_bodies(model: Model, prepared: Model) -> Iterator[str]:
    """How many layers stand in the bodies of If, Loop and Scan, but for a Scan that preparation made of a GRU."""
    own = {node.name for node in model.graph}
    for node in prepared.graph.all_nodes():
        bodies = subgraphs(node)
        if bodies and node.graph is prepared.graph and (node.op_type != "Scan" or node.name in own):
            inner = sum(Layer.of(one) is not None and one.op_type != "Gather" for b in bodies for one in b.all_nodes())
            holds = f"{amount(inner, 'layer')} inside" if inner else "no layer inside"
            yield f"{node.op_type} {_called(node)!r} with {amount(len(bodies), 'body', 'bodies')}: {holds}"


def _of_weights(model: Model) -> Iterator[str]:
    constants = [value for value in _constants(model) if value.const_value is not None]
    total = sum(value.const_value.size for value in constants if value.const_value is not None)
    readers = {value: [n for n in edit.consumers(value) if _weighs(n, value)] for value in constants}
    shared = [value for value, nodes in readers.items() if len(nodes) > 1]
    if shared:
        most = max(shared, key=lambda value: len(readers[value]))
        yield (
            f"{amount(len(shared), 'weight')} that several layers read ({most.name!r}: {len(readers[most])}), "
            "which is stored once"
        )
    for value, nodes in readers.items():
        size = value.const_value.size if value.const_value is not None else 0
        if size > _LARGE * total and any(edit.is_main_op(node, "Gather") for node in nodes):
            yield (
                f"a table, {value.name!r}, is {100 * size / total:.0f} % of all parameters: stored in 8 bits, it makes "
                "the file smaller and nothing faster"
            )
    # a table may hold -Inf, for masks
    layers = [v for v, nodes in readers.items() if any(not edit.is_main_op(node, "Gather") for node in nodes)]
    bad = [str(v.name) for v in layers if _is_real(v) and not np.isfinite(_array(v)).all()]
    if bad:
        yield f"{amount(len(bad), 'weight')} with NaN or Inf ({', '.join(map(repr, bad[:_NAMED]))}): repair the model"


def _weighs(node: Node, value: Value) -> bool:
    layer = Layer.of(node)
    return layer is not None and value in layer.weights


def _constants(model: Model) -> Iterator[Value]:
    for graph in model.graphs():
        yield from graph.initializers.values()


def _is_real(value: Value) -> bool:
    return value.dtype is not None and value.dtype.name in ("FLOAT", "FLOAT16")


def _array(value: Value) -> np.ndarray:
    return edit.constant(value).astype(np.float32, copy=False)


def _called(node: Node) -> str:
    return node.name or str(node.outputs[0].name)
