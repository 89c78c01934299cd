"""Constants that the float model computes are computed in the written model too, where that takes fewer bytes.

Preparation folds them, since a layer needs its weight. What a plan makes of the weight is stored as integers, or as the
QuantizeLinear of what the float model computes or keeps anyhow. onnxruntime folds them again when it loads the model.
"""

from collections.abc import Collection, Mapping, Sequence

from qtool.core.numerics.weights import WeightMemo
from qtool.core.records.placement import Reader
from qtool.core.records.plan import Plan
from qtool.graph import compose, contrib, edit, shapes
from qtool.graph.edit import Graph, Model, Value
from qtool.graph.serialized import Serialized, consume
from qtool.pipeline.rewrite.shared import share_tables
from qtool.pipeline.rewrite.static import rewrite, shift_biases
from qtool.pipeline.rewrite.wider import widen

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def rewritten(model: Model, plan: Plan, memo: WeightMemo | None = None) -> tuple[Serialized, Model]:
    """Return the model to be written, and the float one that it is without Q/DQ; see `rewrite` and `shift_biases`.

    `memo`: as `rewrite` takes it.

    What onnxruntime's own operators in it compute is written beside them.

    Raises:
        ModelError: the plan names what the graph does not hold.
    """
    result, shifted = rewrite(model, plan, memo), shift_biases(model, plan)
    widen(result, plan)
    widen(shifted, plan)
    readers = unfold(result)
    unfold(shifted, readers)
    share_tables(result)
    lighten(result)
    contrib.define(result)
    return consume(result), shifted


def lighten(model: Model) -> None:
    """Remove from the file what nothing is computed with, in place.

    That is, of nodes, documentation and metadata (exporters leave a stack trace in each), and shapes that are inferred
    again. What says something of the whole model stays.
    """
    for node in model.graph.all_nodes():
        node.doc_string = None
        node.metadata_props.clear()
        for value in node.outputs:
            value.doc_string = None
            value.metadata_props.clear()
    shapes.drop_inferable(model)


def unfold(model: Model, only: Mapping[str, Collection[Reader]] | None = None) -> dict[str, set[Reader]]:
    """Let the constants that remember what makes them be made by it again, in place; return who reads which.

    Those are done that take more bytes than what makes them. Readers that the float graph does not hold, the
    QuantizeLinear of weights, are served and not returned. `only`: the readers to be served of each, by its name; the
    others keep the constant. None for all.
    """
    served: dict[str, set[Reader]] = {}
    kept: list[Value] = []
    while True:
        constants = [
            (value, origin)
            for name, value in model.graph.initializers.items()
            if (only is None or name in only) and (origin := edit.origin_of(value)) is not None
            if value.uses() and not value.is_graph_output()
        ]
        constants = constants if only is not None else _saving(model, constants)
        if not constants:
            break
        # those that the float graph reads too come first, so that their nodes have the same names there
        value, origin = next(filter(_read_as_float, reversed(constants)), constants[-1])
        name, made = str(value.name), _make(model, origin.clone())
        for node, index in list(value.uses()):
            reader = (str(node.name), index)
            if only is None or reader in only[name]:
                node.replace_input_with(index, made)
                if node.op_type not in _QUANTIZERS:
                    served.setdefault(name, set()).add(reader)
        del model.graph.initializers[name]
        if value.uses():
            kept.append(value)
    names = edit.Names(model.graph)
    for value in kept:
        value.name = names.fresh(str(value.name))
        model.graph.register_initializer(value)
    return served


def _saving(model: Model, constants: Sequence[tuple[Value, Graph]]) -> list[tuple[Value, Graph]]:
    """Those that take more bytes than what makes them, all together that need the same of what the file lacks."""
    together: dict[frozenset[str], list[tuple[Value, Graph]]] = {}
    saved: dict[frozenset[str], int] = {}
    for value, origin in constants:
        nodes, lacking = compose.needed(model, origin)
        key = frozenset(lacking)
        assert value.const_value is not None
        saved[key] = saved.get(key, -sum(lacking.values())) + value.const_value.nbytes - nodes
        together.setdefault(key, []).append((value, origin))
    worth = {value for key, found in together.items() if saved[key] > 0 for value, _ in found}
    return [(value, origin) for value, origin in constants if value in worth]


def _read_as_float(constant: tuple[Value, Graph]) -> bool:
    return any(node.op_type not in _QUANTIZERS for node in edit.consumers(constant[0]))


def _make(model: Model, origin: Graph) -> Value:
    """Move the nodes of `origin` to the front of the model; returns its output."""
    names = edit.Names(model.graph)
    result = origin.outputs[0]
    origin.outputs.clear()
    for name, value in list(origin.initializers.items()):
        same = model.graph.initializers.get(name)
        del origin.initializers[name]
        if same is not None and same.const_value is value.const_value:
            edit.replace_uses(value, same)
            continue
        value.name = names.fresh(name)
        model.graph.register_initializer(value)
    nodes = list(origin)
    origin.remove(nodes)
    for node in nodes:
        alike = node.name == node.outputs[0].name
        for output in node.outputs:
            output.name = names.fresh(str(output.name))
        node.name = node.outputs[0].name if alike else names.fresh(str(node.name))
    model.graph.insert_before(model.graph[0], nodes)
    return result
