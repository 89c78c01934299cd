"""Float islands: what runs in float between 8-bit data, with the Q/DQ at its shores, whose price it pays too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qtool.anatomy.executed import Executed, is_integer, is_seam
from qtool.anatomy.planned import PlannedLayer
from qtool.graph.edit import Node
from qtool.inspection.causes import Cause, why_float, why_float_node

_FLOATS = frozenset({"float", "float16", "double"})
_TRIFLES = frozenset({"Identity", "Constant", "Shape", "Size", "ReorderInput", "ReorderOutput"})
_HOLDERS = frozenset({"If", "Loop", "Scan"})
"""What they hold computes, and is looked at node by node; they themselves are neither float nor integer."""


_BETWEEN = {
    "dynamic": Cause("dynamic", "the dynamic form quantises products alone; what lies between them stays float"),
    "weight-only": Cause(
        "weights-only", "weights alone are stored in few bits; what lies between products stays float"
    ),
}
"""The forms that leave float by intent what lies between products."""


@dataclass(frozen=True, slots=True)
class Island:
    """nodes, seams: the numbers of the float nodes, and of the Q/DQ beside them. cause: why. places: nodes of the file.

    ends: whether it makes an output of the model. begins: whether it reads an input of the model.
    """

    nodes: tuple[int, ...]
    seams: tuple[int, ...]
    cause: Cause
    places: tuple[str, ...]
    ends: bool
    begins: bool


def find_islands(
    executed: Executed,
    layers: Sequence[PlannedLayer],
    kernels: Mapping[str, int],
    nodes: Mapping[str, Node],
    outputs: frozenset[str],
    inputs: frozenset[str],
    form: str,
) -> tuple[Island, ...]:
    """Return the islands of a model, in the order in which they run.

    kernels: layer -> number of the node that it became. nodes: those of the file, by name. outputs, inputs: the
    model's. form: of the model, in words.
    """
    floats = [n for n, node in enumerate(executed.nodes) if _is_float(executed, n) and not is_seam(node)]
    made = {output: n for n in floats for output in executed.nodes[n].outputs if output}
    leader = {n: n for n in floats}

    def find(number: int) -> int:
        while leader[number] != number:
            leader[number] = leader[leader[number]]
            number = leader[number]
        return number

    for number in floats:
        for tensor in executed.nodes[number].inputs:
            if tensor in made:
                leader[find(number)] = find(made[tensor])
    groups: dict[int, list[int]] = {}
    for number in floats:
        groups.setdefault(find(number), []).append(number)
    shores = _shores(executed, {n: find(n) for n in floats})
    by_kernel = {kernels[layer.name]: layer for layer in layers if layer.name in kernels}
    result = []
    for key, group in groups.items():
        if all(executed.nodes[n].op_type in _TRIFLES for n in group):
            continue
        cause, places = _cause(executed, group, by_kernel, nodes)
        if cause.rule == "not-quantised" or not any(n in by_kernel for n in group):
            cause = _BETWEEN.get(form, cause)
        ends = any(outputs.intersection(executed.nodes[n].outputs) for n in group)
        begins = any(inputs.intersection(executed.nodes[n].inputs) for n in group)
        result.append(Island(tuple(group), tuple(shores.get(key, ())), cause, places, ends, begins))
    return tuple(result)


def _is_float(executed: Executed, number: int) -> bool:
    node = executed.nodes[number]
    return bool(node.makes) and node.makes[0] in _FLOATS and not is_integer(node) and node.op_type not in _HOLDERS


def _shores(executed: Executed, group_of: Mapping[int, int]) -> dict[int, list[int]]:
    """Group -> the numbers of the Q/DQ beside it; one that lies between two is the first one's."""
    reads: dict[str, list[int]] = {}
    for number, group in group_of.items():
        for tensor in executed.nodes[number].inputs:
            reads.setdefault(tensor, []).append(group)
    result: dict[int, list[int]] = {}
    for number, node in enumerate(executed.nodes):
        if not is_seam(node):
            continue
        beside = [group for output in node.outputs for group in reads.get(output, [])]
        maker = executed.maker(node.inputs[0]) if node.inputs else None
        if maker is not None and maker in group_of:
            beside.insert(0, group_of[maker])
        if beside:
            result.setdefault(beside[0], []).append(number)
    return result


def _cause(
    executed: Executed, group: Sequence[int], by_kernel: Mapping[int, PlannedLayer], nodes: Mapping[str, Node]
) -> tuple[Cause, tuple[str, ...]]:
    """Of the dearest node: of a layer where there is one, since what else is float is so for its sake."""
    order = sorted(group, key=lambda n: (n not in by_kernel, -executed.ms[n] if executed.ms else 0.0))
    cause = None
    places = []
    for number in order:
        layer, node = by_kernel.get(number), nodes.get(executed.nodes[number].name)
        if layer is not None:
            cause = cause or why_float(layer)
            places.append(layer.name)
        elif node is not None:
            cause = cause or why_float_node(node)
            places.append(str(node.name))
    if cause is None:
        op = executed.nodes[order[0]].op_type
        moves = op in ("Transpose", *_TRIFLES)
        if op == "Cast":
            return Cause("layout", "the type changes there, for a kernel beside it"), tuple(places)
        cause = Cause("layout", "the channels change place there, for a kernel beside it") if moves else None
        cause = cause or Cause("no-kernel", f"onnxruntime makes a float {op} of it")
    return cause, tuple(dict.fromkeys(places))
