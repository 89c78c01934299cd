"""The graph that onnxruntime runs of a model, and which of its nodes stands for which layer of the file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from qtool.anatomy.integers import INTEGER_OPERATORS, NBITS
from qtool.anatomy.planned import PlannedLayer, is_layer
from qtool.core.records.inspection import InspectedNode
from qtool.graph import edit
from qtool.graph.edit import Node, Value
from qtool.graph.optimized import ExecutedNode
from qtool.targets.kernels import COMPUTING, rounds_blocks

EIGHT_BITS = frozenset({"int8", "uint8"})
_SEAMS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_INTEGER = COMPUTING - {"DynamicQuantizeLinear"} | {
    "ConvInteger", "QAttention", "QLinearConcat", "QLinearReduceMean", "QEmbedLayerNormalization",
}  # fmt: skip
_MOVES = frozenset({"Transpose", "Reshape", "ReorderInput", "ReorderOutput", "Cast", "Squeeze", "Unsqueeze", "Flatten"})
# what may be fused with a layer: the tensor behind it is then the kernel's output
_FUSED = frozenset({
    "Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "HardSwish", "Elu", "Gelu", "Erf", "Add", "Sum",
    "Mul", "Div", "Sub", "Cast", "BatchNormalization", "QuantizeLinear", "Transpose", "Reshape", "Squeeze",
    "Unsqueeze", "Softmax", "Identity", "Pow",
})  # fmt: skip
_FAR = 8


def is_integer(node: ExecutedNode) -> bool:
    """Return whether a node of the optimised graph computes on 8-bit data: an integer kernel, or a pass-through."""
    if node.op_type == NBITS:
        return rounds_blocks(node.op_type, node.attributes)
    if node.op_type in _INTEGER:
        return True
    return not is_seam(node) and bool(node.makes) and node.makes[0] in EIGHT_BITS and node.reads[:1] != ("float",)


def is_seam(node: ExecutedNode) -> bool:
    """Return whether a node only changes between float and 8-bit data."""
    if node.op_type == "Cast":
        return bool(EIGHT_BITS.intersection((*node.reads[:1], *node.makes[:1])))
    return node.op_type in _SEAMS


def _made(node: ExecutedNode, reads: Sequence[str]) -> str:
    """What a node makes, where the file does not say it."""
    row = INTEGER_OPERATORS.get(node.op_type)
    if node.op_type == "QuantizeLinear":
        return reads[2] if len(reads) > 2 else "uint8"
    if node.op_type == "DequantizeLinear":
        return "float"
    if row is not None:
        zero = row.y_zero
        if zero is None or zero >= len(reads) or not node.inputs[zero]:
            return "float" if row.y_scale is None or row.counted_as == "Gemm" else "uint8"
        return reads[zero] or "uint8"
    return reads[0] if reads else ""


@dataclass(frozen=True)
class Executed:
    """The optimised graph. ms: of each node; empty where it was not timed."""

    nodes: tuple[ExecutedNode, ...]
    ms: tuple[float, ...] = ()
    _by_name: dict[str, list[int]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _by_output: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for number, node in enumerate(self.nodes):
            self._by_name.setdefault(node.name, []).append(number)
            for output in node.outputs:
                if output:
                    self._by_output[output] = number

    @classmethod
    def of(cls, nodes: Sequence[ExecutedNode], ms: Sequence[float] = ()) -> "Executed":
        """Return the optimised graph with the types of what onnxruntime adds, which it does not always write."""
        known: dict[str, str] = {}
        typed = []
        for node in nodes:
            reads = tuple(type_ or known.get(name, "") for name, type_ in zip(node.inputs, node.reads, strict=True))
            made = _made(node, reads)
            makes = tuple(type_ or made for type_ in node.makes)
            known |= zip(node.outputs, makes, strict=True)
            typed.append(replace(node, reads=reads, makes=makes))
        return cls(tuple(typed), tuple(ms))

    @property
    def total(self) -> float | None:
        """The milliseconds of all nodes; None where it was not timed."""
        return sum(self.ms) if self.ms else None

    def time(self, numbers: Sequence[int]) -> float | None:
        """Return the milliseconds of nodes, by their numbers; None where they were not timed."""
        return sum(self.ms[number] for number in numbers) if self.ms else None

    def maker(self, tensor: str) -> int | None:
        """Return the number of the node that makes a tensor."""
        return self._by_output.get(tensor)

    def readers(self, tensor: str) -> list[int]:
        """Return the numbers of the nodes that read a tensor."""
        return [number for number, node in enumerate(self.nodes) if tensor in node.inputs]

    def kernel_of(self, node: Node) -> int | None:
        """Return the number of the node that a node of the file became; None where it is gone, or nobody can tell.

        Fused nodes are called as one that they stand for, or at least make the tensor that the last of them made.
        """
        named = [n for n in self._by_name.get(str(node.name), []) if self._may_be(n, node)]
        if named:
            return max(named, key=lambda n: (self._same_kind(n, node), is_integer(self.nodes[n])))
        return self._behind(edit.main_output(node), _FAR, node)

    def _behind(self, value: Value, steps: int, node: Node) -> int | None:
        name = str(value.name)
        for tensor in (name, f"{name}_nchwc"):
            made = self._by_output.get(tensor)
            if made is not None:
                made = self._through_moves(made)
                return made if self._may_be(made, node) else None
        for number in self._by_name.get(f"{name}_nchwc", []):
            if self._may_be(number, node):
                return number
        reader = edit.single_consumer(value)
        if not steps or reader is None or not reader.outputs or reader.op_type not in _FUSED:
            return None
        return self._behind(reader.outputs[0], steps - 1, node)

    def _through_moves(self, number: int) -> int:
        while self.nodes[number].op_type in _MOVES or is_seam(self.nodes[number]):
            before = self._by_output.get(self.nodes[number].inputs[0])
            if before is None:
                return number
            number = before
        return number

    def _may_be(self, number: int, node: Node) -> bool:
        found = self.nodes[number]
        if is_seam(found) or (found.op_type in _MOVES and found.op_type != node.op_type):
            return False
        return not is_layer(node) or self._same_kind(number, node) or found.op_type not in _PLAIN

    def _same_kind(self, number: int, node: Node) -> bool:
        op = self.nodes[number].op_type
        return (
            op == node.op_type or op in _INTEGER or any(word in op for word in ("Conv", "MatMul", "Gemm", "Attention"))
        )


_PLAIN = frozenset({
    "Add", "Mul", "Sub", "Div", "Relu", "Clip", "Sigmoid", "Concat", "Slice", "Gather", "Softmax", "Pad", "Split",
})  # fmt: skip


def layer_kernels(executed: Executed, layers: Sequence[PlannedLayer]) -> dict[str, int]:
    """Return layer -> the number of the node that it became; without those that are gone."""
    found = {layer.name: executed.kernel_of(layer.node) for layer in layers}
    return {name: number for name, number in found.items() if number is not None}


def inspected_nodes(executed: Executed, kernels: Mapping[str, int], known: frozenset[str]) -> tuple[InspectedNode, ...]:
    """Return the optimised graph as it is shown. kernels: see `layer_kernels`. known: the names of the file's nodes."""
    origins = {number: name for name, number in kernels.items()}
    return tuple(
        InspectedNode(
            name=node.name or node.label,
            op=node.op_type,
            domain=node.domain,
            integer=is_integer(node),
            seam=is_seam(node),
            origin=origins.get(number, node.name if node.name in known else ""),
            inputs=node.inputs,
            outputs=node.outputs,
            ms=executed.ms[number] if executed.ms else None,
        )
        for number, node in enumerate(executed.nodes)
    )
