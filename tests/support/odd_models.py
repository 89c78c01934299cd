"""Valid models whose inputs or outputs are not just finite tensors of numbers, each with data: one a kind.

onnxruntime runs all of them; so must every command.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Data = Mapping[str, np.ndarray] | Sequence[Mapping[str, np.ndarray]]
FLOAT = TensorProto.FLOAT
_RNG = np.random.default_rng(23)
X = _RNG.normal(size=(12, 8)).astype(np.float32)
TOKENS = _RNG.normal(size=(12, 5, 8)).astype(np.float32)
_W, _V = (_RNG.normal(size=shape).astype(np.float32) * 0.4 for shape in ((8, 16), (16, 4)))
_BOOLEANS = _RNG.random((12, 4)) < 0.7
_BOOLEANS[:, 0] = True
_CAUSAL = np.triu(np.full((5, 5), -np.inf, np.float32), 1)


@dataclass(frozen=True)
class OddModel:
    """A model: nodes after a small network `x` -> `r` [N, 16] -> `l` [N, 4], and its inputs, outputs and data.

    trunk: whether that network is there. outputs: by name, their value infos.
    """

    nodes: list[onnx.NodeProto]
    outputs: list[onnx.ValueInfoProto]
    data: Data = field(default_factory=lambda: {"x": X})
    inputs: list[onnx.ValueInfoProto] = field(default_factory=lambda: [value("x", ["N", 8])])
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    trunk: bool = True
    opset: int = 18

    def save(self, path: Path) -> Path:
        """Write the model, and return its path."""
        trunk = [node("Gemm", ["x", "w"], ["g"], name="first"), node("Relu", ["g"], ["r"])]
        trunk.append(node("Gemm", ["r", "v"], ["l"], name="second"))
        constants = {"w": _W, "v": _V, **self.constants}
        graph = helper.make_graph(
            [*(trunk if self.trunk else ()), *self.nodes],
            "odd",
            self.inputs,
            self.outputs,
            [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("ai.onnx.ml", 3)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
        return path


def node(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    """Return a node; those that ONNX-ML has are of its domain."""
    domain = "ai.onnx.ml" if op in ("ZipMap", "LabelEncoder", "DictVectorizer") else ""
    return helper.make_node(op, inputs, outputs, domain=domain, **attributes)


def value(name: str, shape: list[Any] | None, kind: int = FLOAT) -> onnx.ValueInfoProto:
    """Return a tensor's value info; without a shape, it has none."""
    return helper.make_tensor_value_info(name, kind, shape)


def _of(name: str, kind: onnx.TypeProto) -> onnx.ValueInfoProto:
    return helper.make_value_info(name, kind)


def _untyped(name: str) -> onnx.ValueInfoProto:
    return onnx.ValueInfoProto(name=name)


def _cast(kind: int, name: str = "y") -> OddModel:
    return OddModel([node("Cast", ["l"], [name], to=kind)], [value(name, ["N", 4], kind)])


def _zipmap(opset: int = 18, **labels: list[Any]) -> OddModel:
    key = TensorProto.STRING if "classlabels_strings" in labels else TensorProto.INT64
    kind = helper.make_sequence_type_proto(helper.make_map_type_proto(key, helper.make_tensor_type_proto(FLOAT, [])))
    nodes = [node("Softmax", ["l"], ["p"], axis=1), node("ArgMax", ["p"], ["label"], axis=1, keepdims=0)]
    outputs = [value("label", ["N"], TensorProto.INT64), _of("prob", kind)]
    return OddModel([*nodes, node("ZipMap", ["p"], ["prob"], **labels)], outputs, opset=opset)


def _optional(*inputs: str, **attributes: Any) -> OddModel:
    tensor = helper.make_tensor_type_proto(FLOAT, None)
    split = [node("SplitToSequence", ["l"], ["s"], axis=1)] if "s" in inputs else []
    kind = helper.make_sequence_type_proto(tensor) if "s" in inputs else tensor
    outputs = [value("l", ["N", 4]), _of("o", helper.make_optional_type_proto(kind))]
    return OddModel([*split, node("Optional", list(inputs), ["o"], **attributes)], outputs)


def _masked(fill: float, name: str = "y", data: Data | None = None) -> OddModel:
    inputs = [value("x", ["N", 8]), value("m", ["N", 4], TensorProto.BOOL)]
    nodes = [node("Where", ["m", "l", "fill"], [name])]
    constants = {"fill": np.array(fill, np.float32)}
    return OddModel(nodes, [value(name, ["N", 4])], data or {"x": X, "m": _BOOLEANS}, inputs, constants)


def _strings(*, fed: bool, real: bool) -> OddModel:
    keys = {"keys_int64s": [0, 1, 2, 3], "values_strings": ["a", "b", "c", "long \u00fc"]}
    nodes = [node("ArgMax", ["l"], ["a"], axis=1, keepdims=0), node("LabelEncoder", ["a"], ["label"], **keys)]
    outputs = [value("label", ["N"], TensorProto.STRING), *([value("l", ["N", 4])] if real else [])]
    if not fed:
        return OddModel(nodes, outputs)
    encode = node("LabelEncoder", ["s"], ["e"], keys_strings=["u", "v"], values_floats=[1.0, -2.0])
    nodes = [encode, node("Concat", ["k", "e"], ["x"], axis=1)]
    inputs = [value("k", ["N", 7]), value("s", ["N", 1], TensorProto.STRING)]
    trunk = [node("Gemm", ["x", "w"], ["g"], name="first"), node("Gemm", ["g", "v"], ["l"], name="second")]
    data = {"k": X[:, :7], "s": np.array([["u"], ["v"]] * 6)}
    return OddModel([*nodes, *trunk], [value("l", ["N", 4])], data, inputs, trunk=False)


def _attention(mask: np.ndarray) -> OddModel:
    nodes = [
        node("MatMul", ["x", "q"], ["a"], name="query"),
        node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        node("MatMul", ["a", "t"], ["s"], name="scores"),
        node("Add", ["s", "m"], ["sm"]),
        node("Softmax", ["sm"], ["p"]),
        node("MatMul", ["p", "x"], ["y"], name="context"),
    ]
    data = {"x": TOKENS, "m": np.broadcast_to(mask, (12, 5, 5)).copy()}
    inputs = [value("x", ["N", 5, 8]), value("m", ["N", 5, 5])]
    return OddModel(nodes, [value("y", ["N", 5, 8])], data, inputs, {"q": _W[:, :8]}, trunk=False)


def _empty(*, fed: bool) -> OddModel:
    """A tensor without elements: cut out of another, or a past of length 0."""
    first = [node("MatMul", ["x", "a"], ["h"], name="first")]
    none = node("Concat", ["past", "h"], ["c"], axis=1)
    if not fed:
        none = node("Slice", ["h", "zero", "zero", "axis"], ["e"])
        first.append(none)
        none = node("Concat", ["e", "h"], ["c"], axis=1)
    nodes = [*first, none, node("MatMul", ["c", "b"], ["y"], name="second")]
    outputs = [value("y", [None, None, 4])]
    inputs, data = [value("x", ["N", 5, 8])], {"x": TOKENS}
    if fed:
        inputs, data = [*inputs, value("past", ["N", "P", 16])], {**data, "past": np.zeros((12, 0, 16), np.float32)}
    else:
        nodes.append(node("MatMul", ["e", "b"], ["none"], name="third"))
        outputs.append(value("none", [None, None, 4]))
    constants = {"a": _W, "b": _V, "zero": np.array([0]), "axis": np.array([1])}
    return OddModel(nodes, outputs, data, inputs, constants, trunk=False)


def _fed_maps() -> OddModel:
    kind = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(FLOAT, []))
    nodes = [node("DictVectorizer", ["m"], ["x"], int64_vocabulary=list(range(8)))]
    trunk = [node("Gemm", ["x", "w"], ["g"], name="first"), node("Gemm", ["g", "v"], ["l"], name="second")]
    return OddModel([*nodes, *trunk], [value("l", ["N", 4])], {}, [_of("m", kind)], trunk=False)


def _fed_sequence() -> OddModel:
    fed = helper.make_tensor_sequence_value_info("s", FLOAT, [None, 8])
    nodes = [node("ConcatFromSequence", ["s"], ["x"], axis=0)]
    trunk = [node("Gemm", ["x", "w"], ["g"], name="first"), node("Gemm", ["g", "v"], ["l"], name="second")]
    return OddModel([*nodes, *trunk], [value("l", ["N", 4])], {}, [fed], trunk=False)


def _lengths() -> OddModel:
    """Another length each sample."""
    nodes = [node("MatMul", ["x", "a"], ["h"], name="first"), node("Relu", ["h"], ["r"])]
    nodes += [node("MatMul", ["r", "b"], ["z"], name="second"), node("Squeeze", ["z", "axis"], ["y"])]
    data = [{"x": _RNG.normal(size=(1, t, 8)).astype(np.float32)} for t in (5, 3, 7, 4, 6, 5, 9, 4)]
    constants = {"a": _W, "b": _V[:, :1], "axis": np.array([2])}
    return OddModel(nodes, [value("y", [1, "T"])], data, [value("x", [1, "T", 8])], constants, trunk=False)


def _chosen() -> OddModel:
    """As many values as are above a threshold."""
    nodes = [node("Greater", ["l", "zero"], ["above"]), node("Compress", ["l", "flat"], ["y"])]
    nodes.insert(1, node("Reshape", ["above", "all"], ["flat"]))
    constants = {"zero": np.array(0, np.float32), "all": np.array([-1])}
    return OddModel(nodes, [value("y", [None]), value("l", ["N", 4])], constants=constants)


def _missing_values() -> OddModel:
    """NaN is fed where a value is missing."""
    nodes = [node("IsNaN", ["raw"], ["m"]), node("Where", ["m", "zero", "raw"], ["x"])]
    trunk = [node("Gemm", ["x", "w"], ["g"], name="first"), node("Gemm", ["g", "v"], ["l"], name="second")]
    data = {"raw": np.where(_RNG.random(X.shape) < 0.2, np.nan, X).astype(np.float32)}
    constants = {"zero": np.array(0, np.float32)}
    return OddModel([*nodes, *trunk], [value("l", ["N", 4])], data, [value("raw", ["N", 8])], constants, trunk=False)


def _scaled(factor: float, name: str = "y") -> OddModel:
    return OddModel(
        [node("Mul", ["l", "k"], [name])], [value(name, ["N", 4])], constants={"k": np.array(factor, np.float32)}
    )


MODELS: dict[str, Callable[[], OddModel]] = {
    "a sequence": lambda: OddModel(
        [node("SplitToSequence", ["l"], ["s"], axis=1)], [helper.make_tensor_sequence_value_info("s", FLOAT, None)]
    ),
    "an empty sequence": lambda: OddModel(
        [node("SequenceEmpty", [], ["s"])],
        [value("l", ["N", 4]), helper.make_tensor_sequence_value_info("s", FLOAT, None)],
    ),
    "an optional tensor": lambda: _optional("l"),
    "an optional sequence": lambda: _optional("s"),
    "an optional that is absent": lambda: _optional(type=helper.make_tensor_type_proto(FLOAT, None)),
    "maps": lambda: _zipmap(classlabels_int64s=[0, 1, 2, 3]),
    "maps of strings": lambda: _zipmap(classlabels_strings=["a", "b", "c", "d"]),
    "maps of an old opset": lambda: _zipmap(12, classlabels_int64s=[3, 2, 1, 0]),
    "strings fed": lambda: _strings(fed=True, real=True),
    "strings beside scores": lambda: _strings(fed=False, real=True),
    "strings alone": lambda: _strings(fed=False, real=False),
    "truth values": lambda: _cast(TensorProto.BOOL),
    "whole numbers": lambda: _cast(TensorProto.INT32),
    "float16": lambda: _cast(TensorProto.FLOAT16),
    "bfloat16": lambda: _cast(TensorProto.BFLOAT16),
    "float64": lambda: _cast(TensorProto.DOUBLE),
    "NaN by design": lambda: _masked(np.nan),
    "banned logits": lambda: _masked(-np.inf, "logits"),
    "everything is NaN": lambda: _masked(np.nan, data={"x": X, "m": np.zeros((12, 4), bool)}),
    "a mask of -Inf fed": lambda: _attention(_CAUSAL),
    "NaN for missing values fed": _missing_values,
    "logarithms of what is negative": lambda: OddModel([node("Log", ["l"], ["y"])], [value("y", ["N", 4])]),
    "an empty slice": lambda: _empty(fed=False),
    "an empty past": lambda: _empty(fed=True),
    "an output without shape": lambda: OddModel([node("Relu", ["l"], ["y"])], [value("y", None)]),
    "an output without type": lambda: OddModel([node("Relu", ["l"], ["y"])], [_untyped("y")]),
    "an input without shape": lambda: OddModel([], [value("l", None)], inputs=[value("x", None)]),
    "dimensions of -1": lambda: OddModel([], [value("l", [-1, 4])], inputs=[value("x", [-1, 8])]),
    "another length each sample": _lengths,
    "a length that the values decide": _chosen,
    "an output that is constant": lambda: _scaled(0.0),
    "tiny outputs": lambda: _scaled(1e-30),
    "one sample": lambda: OddModel([], [value("l", ["N", 4])], {"x": X[:1]}),
    "a constant input": lambda: OddModel([], [value("l", ["N", 4])], {"x": np.full((6, 8), 0.25, np.float32)}),
}

UNFED: dict[str, Callable[[], OddModel]] = {"maps": _fed_maps, "a sequence": _fed_sequence}
"""Inputs that are no tensors, which no data is read for: they can be quantised where that needs none."""
