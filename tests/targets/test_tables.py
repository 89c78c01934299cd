"""The tables and what is derived from them: one place for operators, kernels and the names of targets."""

import ast
import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import qtool
from qtool.core.records.options import Scheme
from qtool.graph import edit, model_io
from qtool.graph.layers import OPERATORS, Operator
from qtool.pipeline.planning.place import place
from qtool.pipeline.prepare import fold_affine
from qtool.pipeline.verify.macs import macs_of
from qtool.targets.conditions import constant_weights
from qtool.targets.kernels import BLOCK_WISE, COMPUTING, INTEGER_KERNELS, QUANTIZED
from qtool.targets.rules import OpRule
from qtool.targets.tables import TARGETS, distinct_targets, find_target, target_of

PACKAGE = Path(qtool.__file__).parent


@functools.cache
def texts(file: Path) -> frozenset[str]:
    """The texts in the code of a file."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return frozenset(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def files_with(word: str, *, whole: bool) -> set[str]:
    """The files of the package where a text is the word, or begins with it."""
    return {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if any(text == word if whole else text.startswith(word) for text in texts(file))
    }


def test_graph_layers_describes_every_operator_with_weights():
    rules = [(op, rule) for target in TARGETS.values() for op, rule in target.rules.items()]
    assert {op for op, rule in rules if rule.kind == "weighted" or rule.stored} <= set(OPERATORS)


def test_a_condition_is_a_function_that_stands_beside_the_tables():
    checks = {rule.check for target in TARGETS.values() for rule in target.rules.values() if rule.check is not None}
    assert {check.__module__ for check in checks} == {"qtool.targets.conditions"}


def test_the_kernels_that_are_derived():
    assert {
        "QLinearConv", "QLinearMatMul", "MatMulIntegerToFloat", "QGemm", "QLinearAdd", "QLinearMul", "QLinearSigmoid",
        "QLinearLeakyRelu", "QLinearSoftmax", "QLinearGlobalAveragePool", "QLinearAveragePool", "QLinearConcat",
        "QLinearWhere",
    } == INTEGER_KERNELS  # fmt: skip
    assert {
        "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulInteger",
    } == COMPUTING - INTEGER_KERNELS  # fmt: skip
    assert {"MatMulNBits", "GatherBlockQuantized"} == BLOCK_WISE
    foreign = {"QuantizeLinear", "DequantizeLinear", "ConvInteger", "QAttention", *BLOCK_WISE}
    assert foreign == QUANTIZED - COMPUTING


def test_no_kernel_is_named_outside_the_tables():
    """But for what reads the models of other makers, who write kernels that no row asks for."""
    for word in ("QLinear", "QGemm"):
        found = {file for file in files_with(word, whole=False) if not file.startswith(("anatomy/", "inspection/"))}
        assert found <= {"targets/tables.py", "targets/kernels.py", "graph/quantizers.py"}


def test_no_target_is_named_outside_the_tables():
    """But for the provider that has the name of its target, and for the machine and the makers that `inspect` knows."""
    named = {file for name in TARGETS for file in files_with(name, whole=True)}
    assert named <= {
        "targets/tables.py",
        "targets/times.py",
        "runtime/providers.py",
        "core/compute.py",
        "inspection/causes.py",
        "inspection/makers.py",
    }


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_places_like_one_of_the_distinct(name):
    same = [target for target in distinct_targets() if target.places_like(find_target(name))]
    assert len(same) == 1


def test_the_distinct_targets_are_two():
    assert [target.name for target in distinct_targets()] == ["x86", "tensorrt"]


def test_a_provider_may_have_a_target_of_its_own():
    found = target_of("tensorrt")
    assert found is find_target("tensorrt") and found.only_symmetric and not found.on_cpu
    assert target_of("cpu") is None and target_of("cuda") is None
    assert not any(find_target(name).only_symmetric for name in ("x86", "x86-avx2", "arm64", "portable"))


def test_an_operator_with_weights_is_two_rows(monkeypatch):
    """DeformConv, with a row of `graph.layers` and one of a target's table: folded, placed and counted."""
    monkeypatch.setitem(OPERATORS, "DeformConv", Operator("convolution", (4,), output=0, input=1, bias=3))
    rules = TARGETS["tensorrt"].rules | {"DeformConv": OpRule("weighted", (), (0,), check=constant_weights)}
    target = replace(TARGETS["tensorrt"], rules=rules)
    model = model_io.from_bytes(_deformed())
    assert fold_affine.apply(model) == 1
    placement = place(model, target, Scheme())
    assert placement.layers == ("deform",) and [site.tensor for site in placement.sites] == ["x"]
    assert [(weight.axis, weight.readers) for weight in placement.weights] == [(0, (("deform", 1),))]
    assert macs_of(model, {"y": (1, 6, 6, 6)}) == {"deform": 6 * 6 * 6 * 2 * 3 * 3}
    (node,) = model.graph
    assert edit.constant(node.inputs[3]).tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def _deformed() -> bytes:
    """A DeformConv of two groups, 4 channels to 6, and a Mul of one factor a channel."""
    constants = {
        "w": np.ones((6, 2, 3, 3), np.float32),
        "b": np.ones(6, np.float32),
        "k": np.arange(1, 7, dtype=np.float32).reshape(1, 6, 1, 1),
    }
    nodes = [
        onnx.helper.make_node("DeformConv", ["x", "w", "offset", "b"], ["d"], name="deform", group=2),
        onnx.helper.make_node("Mul", ["d", "k"], ["y"], name="scaled"),
    ]
    shapes = {"x": [1, 4, 8, 8], "offset": [1, 18, 6, 6], "y": [1, 6, 6, 6]}
    x, offset, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in shapes.items())
    graph = onnx.helper.make_graph(
        nodes, "deformed", [x, offset], [y], [onnx.numpy_helper.from_array(a, n) for n, a in constants.items()]
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)]).SerializeToString()
