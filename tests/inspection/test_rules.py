"""Each rule on a model that is written for it: what onnxruntime runs, and what the finding says of it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qtool import inspect_model
from qtool.core.errors import ModelError, UsageError
from qtool.inspection.findings import RULES
from tests.inspection.written import RNG, Net
from tests.support.places import REPOSITORY


def whole(net: Net) -> list[str]:
    """As onnxruntime wants it."""
    return [net.fake(net.conv(net.fake("x", 0.02)))]


def missing_output_q(net):
    return [net.fake(net.add("Tanh", net.conv(net.fake("x"))), 1 / 128)]


def missing_input_q(net):
    return [net.fake(net.conv(net.add("Tanh", net.fake(net.conv(net.fake("x"))))))]


def also_read(net):
    made = net.conv(net.fake("x"))
    return [net.fake(made), made]


def relu_zero_point(net):
    return [net.fake(net.add("Relu", net.conv(net.fake("x"))), 0.05, 100)]


def signed_activations(net):
    grid = (0.05, 0, "int8")
    read = net.add("QuantizeLinear", "x", *net.grid(*grid))
    both = [net.add("DequantizeLinear", read, *net.grid(*grid)) for _ in range(2)]
    return [net.fake(net.conv(one), *grid) for one in both]


def signed_kernel(net):
    stored = net.constant(RNG.integers(-90, 90, (4, 4, 3, 3)).astype(np.int8))
    grids = [net.grid(0.05, 0, "int8") for _ in range(3)]
    read = net.add("QuantizeLinear", "x", *grids[0])
    made = net.add("QLinearConv", read, *grids[0], stored, *grids[1], *grids[2])
    return [net.add("DequantizeLinear", made, *grids[2])]


def unequal_ranges(net):
    pooled = net.add("MaxPool", net.fake(net.conv(net.fake("x"))), kernel_shape=[2, 2])
    return [net.fake(net.conv(net.fake(pooled, 0.07)))]


def mixed_types(net):
    made = net.add("QuantizeLinear", net.conv(net.fake("x")), *net.grid(0.05, 0, "int8"))
    return [net.add("DequantizeLinear", made, *net.grid(0.05, 0, "int8")) for _ in range(2)]


def wide_type(net):
    net.opset = 21
    return [net.fake(net.conv(net.fake("x", 0.001, 0, "int16")), 0.001, 0, "int16")]


def vector_scale(net):
    """With a float bias, which onnxruntime quantises itself where the input has one scale."""
    bias = net.constant(RNG.normal(size=4).astype(np.float32))
    return [net.fake(net.conv(net.fake("x", [0.02, 0.03, 0.04, 0.05], [128] * 4), bias=bias))]


def does_not_run(net):
    return [net.fake(net.conv(net.fake("x", [0.02, 0.03, 0.04, 0.05], [128] * 4)))]


def bad_scale(net):
    return [net.fake(net.conv(net.fake("x")), np.inf)]


def scale_shape(net):
    def fake(value):
        grid = [net.constant(np.full(1, number)) for number in (np.float32(0.05), np.uint8(128))]
        return net.add("DequantizeLinear", net.add("QuantizeLinear", value, *grid), *grid)

    return [fake(net.add("Add", fake("x"), fake(net.conv(net.fake("x")))))]


def no_zero_point(net):
    net.opset = 21
    scale = net.constant(np.float32(0.05))
    read = net.add("QuantizeLinear", "x", scale, output_dtype=3)
    made = net.conv(net.add("DequantizeLinear", read, scale))
    return [net.add("DequantizeLinear", net.add("QuantizeLinear", made, scale, output_dtype=3), scale)]


def wrong_axis(net):
    """As many output channels as input channels, so that nobody notices."""
    return [net.fake(net.conv(net.fake("x"), axis=1))]


def wrong_matmul(net):
    del net.inputs[0].type.tensor_type.shape.dim[2:]
    return [net.fake(net.add("MatMul", net.fake("x"), net.weight((4, 4), axis=0)))]


def bias_scale(net):
    return [net.fake(net.conv(net.fake("x"), bias=net.bias(0.05 * 0.01 * 3)))]


def batch_norm(net):
    numbers = [net.constant(RNG.uniform(0.5, 1, 4).astype(np.float32)) for _ in range(4)]
    return [net.fake(net.add("BatchNormalization", net.conv(net.fake("x")), *numbers))]


def no_kernel(net):
    return [net.fake(net.add("ConvTranspose", net.fake("x"), net.weight((4, 4, 3, 3), axis=1)))]


def not_quantised(net):
    floats = net.constant(RNG.normal(size=(4, 4, 3, 3)).astype(np.float32))
    made = net.add("Tanh", net.fake(net.conv(net.fake("x"))))
    return [net.fake(net.add("Tanh", net.add("Conv", made, floats, name="loose")))]


def float_weight(net):
    floats = net.constant(RNG.normal(size=(4, 4, 3, 3)).astype(np.float32))
    return [net.add("Tanh", net.add("Conv", net.fake(net.conv(net.fake("x"))), floats))]


def float_tail(net):
    return [net.conv(net.fake(net.conv(net.fake("x"))))]


def float_constant(net):
    net.inputs[0].type.tensor_type.shape.dim[1].dim_value = 4
    added = net.add("Add", net.fake(net.conv(net.fake("x"))), net.constant(np.ones((1, 4, 1, 1), np.float32)))
    return [net.fake(net.conv(net.fake(added)))]


def weights_only(net):
    return [net.conv("x")]


def requantised(net):
    """A layer that somebody left in float on purpose."""
    floats = net.constant(RNG.normal(size=(4, 4, 3, 3)).astype(np.float32))
    made = net.add("Conv", net.fake(net.conv(net.fake("x"))), floats, name="kept")
    return [net.fake(net.conv(net.fake(made)))]


def conv_integer(net):
    net.nodes.append(_dynamic("x"))
    stored = net.constant(RNG.integers(-90, 90, (4, 4, 3, 3)).astype(np.int8))
    made = net.add("ConvInteger", "x8", stored, "x_zero", net.constant(np.int8(0)))
    return [net.add("Mul", net.add("Cast", made, to=1), "x_scale")]


def _dynamic(name):
    from onnx import helper

    return helper.make_node("DynamicQuantizeLinear", [name], [f"{name}8", f"{name}_scale", f"{name}_zero"], name="dyn")


def slow_pool(net):
    return [net.fake(net.add("MaxPool", net.fake("x"), kernel_shape=[2, 2]))]


def one_channel(net):
    net.inputs[0].type.tensor_type.shape.dim[1].dim_value = 1
    return [net.fake(net.add("Conv", net.fake("x"), net.weight((4, 1, 3, 3))))]


def old_opset(net):
    net.opset = 11
    return [net.fake(net.add("MaxPool", net.fake(net.conv(net.fake("x"))), kernel_shape=[2, 2]))]


def dropped_pairs(net):
    return [net.fake(net.conv(net.fake(net.fake("x", 0.05), 0.07)))]


def reduced_range(net):
    return [net.fake(net.conv(net.fake("x"), most=64))]


def per_tensor(net):
    stored = RNG.integers(-127, 128, (4, 4, 3, 3)).astype(np.int8)
    stored[:3] = stored[:3] // 64
    weight = net.add("DequantizeLinear", net.constant(stored), *net.grid(0.01, 0, "int8"))
    return [net.fake(net.add("Conv", net.fake("x"), weight))]


def float_weights_stored(net):
    floats = net.constant(RNG.uniform(-1, 1, (4, 4, 3, 3)).astype(np.float32))
    return [net.fake(net.add("Conv", net.fake("x"), net.fake(floats, 0.01, 0, "int8")))]


BUILDS: dict[str, Callable[[Net], list[str]]] = {
    "missing-output-q": missing_output_q,
    "missing-input-q": missing_input_q,
    "also-read": also_read,
    "relu-zero-point": relu_zero_point,
    "signed-activations": signed_activations,
    "signed-kernel": signed_kernel,
    "unequal-ranges": unequal_ranges,
    "mixed-types": mixed_types,
    "wide-type": wide_type,
    "vector-scale": vector_scale,
    "does-not-run": does_not_run,
    "bad-scale": bad_scale,
    "scale-shape": scale_shape,
    "no-zero-point": no_zero_point,
    "wrong-result": wrong_axis,
    "wrong-axis": wrong_matmul,
    "bias-scale": bias_scale,
    "batch-norm": batch_norm,
    "no-kernel": no_kernel,
    "no-integers": no_kernel,
    "not-quantised": not_quantised,
    "float-weight": float_weight,
    "float-tail": float_tail,
    "float-constant": float_constant,
    "weights-only": weights_only,
    "requantised": requantised,
    "conv-integer": conv_integer,
    "dynamic": conv_integer,
    "slow-pool": slow_pool,
    "one-channel": one_channel,
    "old-opset": old_opset,
    "dropped-pairs": dropped_pairs,
    "reduced-range": reduced_range,
    "per-tensor": per_tensor,
    "float-weights-stored": float_weights_stored,
}
"""Rule -> a model that it is about."""
FLOATS = {
    "missing-output-q", "also-read", "relu-zero-point", "mixed-types", "wide-type", "vector-scale",
    "no-zero-point", "wrong-axis", "bias-scale", "batch-norm", "no-kernel",
}  # fmt: skip
"""Those for which the only layer is planned, and runs in float."""


def inspected(path: Path, build: Callable[[Net], list[str]]):
    net = Net()
    return inspect_model(net.write(path / "model.onnx", *build(net)))


@pytest.mark.parametrize("rule", BUILDS)
def test_a_rule_finds_what_it_is_about(rule, tmp_path):
    found = inspected(tmp_path, BUILDS[rule])
    assert rule in {finding.rule for finding in found.findings}, found.findings
    if rule in FLOATS:
        (layer,) = found.layers
        assert (layer.planned, layer.integer) == (True, False)
        assert layer.cause and layer.remedy


@pytest.mark.parametrize(("scale", "said"), [(0.0, "0"), (-0.5, "-0.5"), (np.nan, "nan")])
def test_a_scale_that_is_none_is_said_first(scale, said, tmp_path):
    found = inspected(tmp_path, lambda net: [net.fake(net.add("Tanh", net.fake("x", scale)))])
    assert found.verdict.startswith("WRONG: a scale is 0, negative or not finite")
    (finding,) = [one for one in found.findings if one.rule == "bad-scale"]
    assert finding.what.endswith(f"a scale that is {said}") and finding.remedy == found.next


def test_a_model_that_only_the_optimisations_break_is_told_apart(tmp_path):
    """Of opset 10, where onnxruntime quantises a float bias with a Round that is there since 11."""
    net = Net(opset=10)
    bias = net.constant(np.zeros(4, np.float32))
    path = net.write(tmp_path / "model.onnx", net.fake(net.conv(net.fake("x"), bias=bias)))
    with pytest.raises(ModelError, match=r"model.onnx: onnxruntime's optimisations fail on it, .* Round"):
        inspect_model(path)


def test_the_float_model_is_one_that_the_other_is_made_of(tmp_path):
    net, other = Net(), Net((1, 4, 4, 4))
    path = net.write(tmp_path / "model.onnx", *whole(net))
    with pytest.raises(UsageError, match=r"model.onnx is quantised itself; give the float model"):
        inspect_model(path, path)
    weight = other.constant(np.ones((4, 4, 1, 1), np.float32))
    smaller = other.write(tmp_path / "other.onnx", other.add("Conv", "x", weight))
    with pytest.raises(UsageError, match=r"does not run on what \S+model.onnx takes \(\S+other.onnx"):
        inspect_model(path, smaller)


def test_a_model_as_onnxruntime_wants_it_has_no_finding(tmp_path):
    found = inspected(tmp_path, whole)
    assert found.findings == ()
    assert [(layer.kernel, layer.integer, layer.share) for layer in found.layers] == [("QLinearConv", True, 1.0)]
    assert found.verdict == "1 of 1 layer, 100 % of multiply-accumulates in integers"
    assert found.macs == 4 * 8 * 8 * 4 * 9


def test_the_layer_that_onnxruntime_computes_wrongly_is_named(tmp_path):
    found = inspected(tmp_path, wrong_axis)
    (wrong,) = [one for one in found.findings if one.rule == "wrong-result"]
    assert wrong.where == (found.layers[0].name,)
    assert "axis 1" in wrong.cause and found.layers[0].integer
    assert found.verdict.startswith("WRONG")


def wrong_bias(net):
    net.inputs[0].type.tensor_type.shape.dim[0].dim_value = 2
    del net.inputs[0].type.tensor_type.shape.dim[2:]
    return [net.fake(net.add("Gemm", net.fake("x"), net.weight((4, 4)), net.bias(0.05 * 0.01 * 1.5)))]


def test_a_bias_scale_that_is_off_is_the_reason_of_a_wrong_result(tmp_path):
    found = inspected(tmp_path, wrong_bias)
    (wrong,) = [one for one in found.findings if one.rule == "wrong-result"]
    assert "the scale of its bias is off" in wrong.cause.lower()
    assert found.layers[0].integer


def test_the_layer_that_onnxruntime_quantises_itself_is_named(tmp_path):
    found = inspected(tmp_path, requantised)
    (again,) = [one for one in found.findings if one.rule == "requantised"]
    (layer,) = [layer for layer in found.layers if layer.output == "kept"]
    assert again.where == (layer.name,)
    assert not layer.planned and layer.integer and layer.kernel == "QLinearConv"


def test_every_rule_is_explained_and_tried():
    page = (REPOSITORY / "docs" / "inspect.md").read_text(encoding="utf-8")
    assert [rule for rule in RULES if f"| `{rule}` |" not in page] == []
    # found by onnxruntime's clock, or the other way round: what no rule explains
    assert set(RULES) - set(BUILDS) == {"slower-in-integers", "unexplained", "layout", "seams", "accuracy"}
