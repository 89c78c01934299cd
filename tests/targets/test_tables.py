"""The tables and what is derived from them: one place for operators, kernels and the names of targets."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import qtool
from qtool.graph.layers import OPERATORS
from qtool.targets.kernels import COMPUTING, INTEGER_KERNELS, QUANTIZED
from qtool.targets.tables import TARGETS, distinct_targets, find_target, target_of

PACKAGE = Path(qtool.__file__).parent


def texts(file: Path) -> Iterator[str]:
    """The texts in the code of a file."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


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
    foreign = {"QuantizeLinear", "DequantizeLinear", "ConvInteger", "MatMulNBits", "QAttention"}
    assert foreign == QUANTIZED - COMPUTING


def test_no_kernel_is_named_outside_the_tables():
    for word in ("QLinear", "QGemm"):
        assert files_with(word, whole=False) <= {"targets/tables.py", "targets/kernels.py"}


def test_no_target_is_named_outside_the_tables():
    named = {file for name in TARGETS for file in files_with(name, whole=True)}
    assert named <= {"targets/tables.py", "runtime/providers.py", "core/records/options.py"}


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
