"""The arithmetic of layers whose weights are in blocks, each by itself, against that of the operators' definition.

A product rounds each block of its input to 8 bits, symmetrically, and sums in integers; where a processor has no such
kernel it computes with the input as it is. Either is computed here in numpy, from the plan's integers and scales, so
that neither onnxruntime nor what the file holds has a part in it. Source: onnxruntime
`contrib_ops/cpu/quantization/matmul_nbits.cc` (accuracy level 4), `core/mlas/lib/qnbitgemm.h` (CompInt8).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from qtool.core.errors import LayerError
from qtool.core.numerics.blocks import blocks_of
from qtool.core.numerics.sqnr import SignalToNoise, loudness
from qtool.core.records.plan import Plan
from qtool.graph import compose, edit
from qtool.graph.bodies import parts, tell_types
from qtool.graph.edit import Array, Model, Node
from qtool.graph.layers import Layer
from qtool.graph.serialized import Serialized, deserialize
from qtool.runtime.bodies import BodyRuns
from qtool.runtime.session import Session

_LEAST_DB = 40.0
"""Another order of sums stays far above, and so does another rounding of ties; a wrong scale, zero point or order of
integers stays far below."""
_INT8 = np.float32(127.0)
_ENOUGH = 2**24
"""Numbers that are compared, after which no further example is run."""
_WHY = "onnxruntime computes something else with its blocks"


def rounded_input(x: Array, size: int) -> Array:
    """Return what the kernel computes with in the place of its input, [..., K]: each block on its own 8-bit grid.

    Its scale is that of the largest number of the block, which becomes 127. Inputs that are rows of blocks hold many
    ties, so that the order of the operations is the kernel's.
    """
    rows = x.reshape(-1, x.shape[-1]).astype(np.float32, copy=False)
    blocks = blocks_of(rows, size)
    most = np.abs(blocks).max(axis=2, keepdims=True)
    inverse = np.divide(_INT8, most, out=np.zeros_like(most), where=most > 0)
    found: Array = (
        (np.rint(blocks * inverse) * (most / _INT8)).reshape(len(rows), -1)[:, : x.shape[-1]].reshape(x.shape)
    )
    return found


def check_blocks(
    prepared: Model,
    quantized: Serialized,
    plan: Plan,
    examples: Sequence[Mapping[str, Array]],
    config: Mapping[str, str],
) -> dict[str, float]:
    """Return the SQNR in dB of each layer in blocks against the definition, on what it reads when the model runs.

    Args:
        prepared: the float graph.
        quantized: the model.
        plan: its plan.
        examples: batches of inputs; none: nothing is compared.
        config: session configuration of the target.

    Raises:
        LayerError: a layer computes something else.
    """
    if not plan.blocks or not examples:
        return {}
    model = deserialize(quantized)
    tell_types(prepared, model)
    before = {str(n.name): n for n in prepared.graph.all_nodes()}
    layers = {name: row for row in plan.blocks for name, _ in row.readers}
    whole = {row.tensor: row.real(edit.constant(prepared.graph.initializers[row.tensor])) for row in plan.blocks}
    figures: dict[str, list[SignalToNoise]] = {name: [SignalToNoise(), SignalToNoise()] for name in layers}
    compared = 0
    for ends, arrays in _runs(model, before, layers, examples, config):
        if compared >= _ENOUGH:
            break
        for name, values in ends.items():
            row = layers[name]
            fed, made = (arrays.get(value) for value in values)
            if fed is None or made is None or not made.size:
                continue
            compared += made.size
            expected = _expected(before[name], whole[row.tensor], row.block, fed)
            for figure, one in zip(figures[name], expected, strict=True):
                figure.add(one, made)
    return _judged(figures)


def _runs(
    model: Model,
    before: Mapping[str, Node],
    layers: Collection[str],
    examples: Sequence[Mapping[str, Array]],
    config: Mapping[str, str],
) -> Iterator[tuple[Mapping[str, tuple[str, str]], Mapping[str, Array]]]:
    """What each layer reads and makes, by the layers' names, and these arrays: of the main graph, and of each body.

    An example is run after another; in each the bodies as often as they run.
    """
    found = {part.body.name: _wanted(part.model, before, layers) for part in parts(model)}
    inside = {body: ends for body, ends in found.items() if ends}
    own = _wanted(model, before, layers)
    known = {str(v.name) for v in (*model.graph.inputs, *model.graph.initializers.values())}
    asked = dict.fromkeys(name for both in own.values() for name in both if name not in known)
    names = {
        body: list(dict.fromkeys(name for both in ends.values() for name in both)) for body, ends in inside.items()
    }
    ran = BodyRuns(model, names, config=config) if names else None
    session = Session(compose.with_outputs(model, list(asked)), config=config) if asked else None
    for example in examples:
        if session is not None:
            yield own, {**example, **session.run(example)}
        for run in () if ran is None else ran.run(example):
            yield inside[run.body], run.found


def _wanted(model: Model, before: Mapping[str, Node], layers: Collection[str]) -> dict[str, tuple[str, str]]:
    """The layers of a graph -> the names of what each reads besides its weight, and of what it makes."""
    nodes = {str(node.name): node for node in model.graph if node.name in layers}
    ends = {name: _ends(node, before[name]) for name, node in nodes.items()}
    return {name: (str(fed.name), str(made.name)) for name, (fed, made) in ends.items()}


def _ends(node: Node, old: Node) -> tuple[edit.Value, edit.Value]:
    """What a node reads besides its weight, and what it makes."""
    layer = Layer.of(old)
    assert layer is not None
    fed = node.inputs[0 if layer.is_product else 1]
    assert fed is not None
    return fed, node.outputs[0]


def _expected(node: Node, real: Array, size: int, fed: Array) -> tuple[Array, Array]:
    """With the input rounded, and as it is; `real`: the weight."""
    layer = Layer.of(node)
    assert layer is not None
    if not layer.is_product:
        rows = real[fed]
        return rows, rows
    matrix = layer.matrix(real)
    bias = np.float32(0.0) if layer.bias is None else edit.constant(layer.bias)
    rounded, exact = ((x @ matrix) + bias for x in (rounded_input(fed, size), fed))
    return rounded, exact


def _judged(figures: Mapping[str, Sequence[SignalToNoise]]) -> dict[str, float]:
    """The better of the two figures of each layer."""
    result, wrong = {}, {}
    for name, both in figures.items():
        found = [figure.db for figure in both if figure.db is not None]
        if not found:
            continue
        result[name] = max(map(loudness, found))
        if result[name] < _LEAST_DB and both[0].signal.total > 0.0:
            wrong[name] = _WHY
    if wrong:
        name = next(iter(wrong))
        raise LayerError(
            f"layer {name!r}: onnxruntime computes something else with weights in blocks than their definition "
            f"({result[name]:.1f} dB between them); please report this model",
            wrong,
        )
    return result
