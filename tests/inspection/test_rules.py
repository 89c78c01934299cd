"""Each rule on a model that is written for it: what onnxruntime runs, and what the finding says of it."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from qtool import diff, inspect_model
from qtool.core.errors import ModelError, UsageError
from qtool.inspection.findings import RULES
from qtool.report.inspect import inspection_text
from tests.inspection.written import RNG, Net
from tests.support.places import REPOSITORY
from tests.support.since import has


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


def float_only(net):
    weight = net.constant(RNG.normal(size=(4, 4, 2, 2)).astype(np.float32))
    return [net.add("ConvTranspose", net.add("Tanh", net.fake(net.conv(net.fake("x")))), weight)]


def few_bits(net, level):
    """A product of 8 numbers with weights of 4 bits in blocks of 16."""
    stored = net.constant(RNG.integers(0, 255, (4, 1, 8)).astype(np.uint8))
    scales = net.constant(np.full(4, 0.01, np.float32))
    sizes = {"K": 8, "N": 4, "bits": 4, "block_size": 16}
    return [net.add("MatMulNBits", "x", stored, scales, domain="com.microsoft", accuracy_level=level, **sizes)]


def half_scales(net):
    """A float16 model, as exporters make it of a quantised one."""
    net.opset = 21
    made = net.fake(net.conv(net.fake(net.add("Cast", "x", to=TensorProto.FLOAT16))))
    for scale in net.constants:
        if scale.data_type == TensorProto.FLOAT:
            scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale).astype(np.float16), scale.name))
    return [net.add("Cast", made, to=TensorProto.FLOAT)]


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
    "float-only": float_only,
    "accuracy-level": lambda net: few_bits(net, 0),
    "half-scales": half_scales,
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
    "no-zero-point", "wrong-axis", "bias-scale", "batch-norm", "no-kernel", "half-scales",
}  # fmt: skip
"""Those for which the only layer is planned, and runs in float."""


def inspected(path: Path, build: Callable[[Net], list[str]]):
    # the same weights whatever ran before
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state
    net = Net()
    return inspect_model(net.write(path / "model.onnx", *build(net)))


OTHERWISE = {"wrong-axis": "lie along axis 0", "bias-scale": "the scale of its bias is off"}
"""What earlier versions of onnxruntime run in integers all the same, and what is said of the wrong result then."""


@pytest.mark.parametrize("rule", BUILDS)
def test_a_rule_finds_what_it_is_about(rule, tmp_path):
    if rule == "scale-shape" and not has(rule):
        with pytest.raises(ModelError, match=r"without them it loads: .*Scale and Zero-point must be a scalar"):
            inspected(tmp_path, BUILDS[rule])
        return
    found = inspected(tmp_path, BUILDS[rule])
    if rule in OTHERWISE and not has(rule):
        (wrong,) = [finding for finding in found.findings if finding.rule == "wrong-result"]
        assert OTHERWISE[rule] in wrong.cause.lower()
        assert [(layer.planned, layer.integer) for layer in found.layers] == [(True, True)]
        return
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


def miscounted_weight(net):
    weight = net.add(
        "DequantizeLinear", net.constant(np.ones((4, 4, 1, 1), np.int8)), *net.grid([0.1] * 3, [0] * 3, "int8"), axis=0
    )
    return [net.fake(net.add("Conv", net.fake("x"), weight))]


def miscounted_input(net):
    return [net.add("Relu", net.fake("x", [0.1] * 3, [128] * 3))]


@pytest.mark.parametrize(
    ("build", "cause"),
    [
        (
            miscounted_weight,
            r"DequantizeLinear '\S+' has 3 scales along axis 0, which is 4 long \(onnxruntime: .*",
        ),
        (miscounted_input, r"QuantizeLinear '\S+' has 3 scales along axis 1, which is 4 long \(onnxruntime: .*"),
        (
            does_not_run,
            r"The input of layer '\S+' has 4 scales, and its kernel takes one .*",
        ),
    ],
)
def test_a_model_that_cannot_run_says_so_in_short_and_once(build, cause, tmp_path):
    """Where it does not run without optimisations either, too; with data or without."""
    net = Net()
    path = net.write(tmp_path / "model.onnx", *build(net))
    for data in (None, {"x": RNG.normal(size=(1, 4, 8, 8)).astype(np.float32)}):
        found = inspect_model(path, data=data)
        assert found.verdict.startswith("DOES NOT RUN: onnxruntime loads it, and fails: ")
        (one,) = [one for one in found.findings if one.rule == "does-not-run"]
        assert re.fullmatch(cause, one.cause) and "::" not in one.cause and len(one.cause) < 300
        assert found.not_measured == ("what takes a run: the model does not run",)
        assert one.remedy == found.next


def test_a_model_that_made_up_inputs_do_not_fit_is_not_said_to_fail(tmp_path):
    """Its input may be of any length, and only one of them is right."""
    net = Net()
    net.inputs[0].type.tensor_type.shape.dim[2].dim_param = "height"
    shaped = net.add("Reshape", net.fake("x"), net.constant(np.array([1, 4, 337 * 8], np.int64)))
    found = inspect_model(net.write(tmp_path / "model.onnx", net.fake(shaped)))
    assert "DOES NOT RUN" not in found.verdict
    assert any("made-up inputs do not fit" in text for text in found.not_measured)


def test_a_model_that_only_the_optimisations_break_is_told_apart(tmp_path):
    """Of opset 10, where onnxruntime quantises a float bias with a Round that is there since 11."""
    net = Net(opset=10)
    bias = net.constant(np.zeros(4, np.float32))
    path = net.write(tmp_path / "model.onnx", net.fake(net.conv(net.fake("x"), bias=bias)))
    for look in (lambda: inspect_model(path), lambda: diff(path, path)):
        with pytest.raises(ModelError, match=r"model.onnx: onnxruntime's optimisations fail on it, .* Round"):
            look()


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
    assert set(RULES) - set(BUILDS) == {"slower-in-integers", "unexplained", "layout", "seams", "accuracy", "trained"}


@pytest.mark.parametrize(("level", "integer"), [(0, False), (4, True)])
def test_weights_of_four_bits_compute_in_integers_at_one_level_alone(level, integer, tmp_path):
    """What the file says of the level is what the kernel computes: its noise is that of 8-bit inputs."""
    net = Net((2, 8), opset=21)
    path = net.write(tmp_path / "model.onnx", *few_bits(net, level))
    found = inspect_model(path)
    (layer,) = found.layers
    assert (layer.planned, layer.integer, layer.weight.dtype, layer.weight.block) == (False, integer, "uint4", 16)
    assert layer.weight.zero_point == (8, 8, 8, 8)
    assert "weights of 4 bits in 1 layer" in found.verdict
    text = inspection_text(found)
    assert ("MatMulNBits (8-bit blocks)" in text, "MatMulNBits (float)" in text) == (integer, not integer)
    assert "uint4 weight" in text and text.startswith(f"{path}: uint4, weight-only; ")
    x = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    stored, scale = (numpy_helper.to_array(one) for one in net.constants)
    weights = np.stack([stored & 15, stored >> 4], -1).reshape(4, 16)[:, :8].astype(np.float32) - 8
    exact = x @ (weights * scale[:, None]).T
    y = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    noise = float(np.square(y - exact).sum() / np.square(exact).sum())
    assert (1e-7 < noise < 1e-2) if integer else noise < 1e-10


def test_zero_points_of_four_bits_are_read_from_their_bytes(tmp_path):
    net = Net((2, 8), opset=21)
    outputs = few_bits(net, 4)
    net.nodes[-1].input.append(net.constant(np.array([[3], [7], [12], [0]], np.uint8)))
    (layer,) = inspect_model(net.write(tmp_path / "model.onnx", *outputs)).layers
    assert layer.weight.zero_point == (3, 7, 12, 0)


def test_a_model_of_foreign_operators_says_whose_they_are(tmp_path):
    net = Net()
    read = net.add("Quant", "x", *net.grid(0.05, 0.0, "float32"), domain="qonnx.custom_op.general")
    path = net.write(tmp_path / "model.onnx", net.conv(read))
    with pytest.raises(
        ModelError, match=r"onnxruntime does not run it: its operators \(Quant and others\) are QONNX's"
    ):
        inspect_model(path)


def test_a_seam_at_the_end_of_a_body_is_none_between_kernels(tmp_path):
    inner = Net()
    (made,) = whole(inner)
    kept = helper.make_graph(inner.nodes, "then", [], [helper.make_tensor_value_info(made, TensorProto.FLOAT, None)])
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["same"], name="same")], "else", [],
        [helper.make_tensor_value_info("same", TensorProto.FLOAT, None)],
    )  # fmt: skip
    net = Net()
    net.constants = inner.constants
    net.inputs.append(helper.make_tensor_value_info("yes", TensorProto.BOOL, []))
    path = net.write(tmp_path / "model.onnx", net.add("If", "yes", then_branch=kept, else_branch=other))
    found = inspect_model(path)
    assert [(layer.kernel, layer.inside) for layer in found.layers] == [("QLinearConv", "If_t0")]
    assert not any(one.rule == "seams" for one in found.findings)


@pytest.mark.parametrize(("dtype", "zero", "integer"), [("uint8", 128, True), ("int8", -1, False)])
def test_int8_that_two_nodes_read_is_to_blame_and_not_a_transpose_in_front(dtype, zero, integer, tmp_path):
    """As TFLite models are by tf2onnx: pictures channels last, int8, a residual branch."""
    net = Net((1, 8, 8, 4))
    grid = (0.05, zero, dtype)
    first = net.fake(net.conv(net.add("Transpose", net.fake("x", *grid), perm=[0, 3, 1, 2])), *grid)
    second = net.fake(net.conv(first), *grid)
    found = inspect_model(net.write(tmp_path / "model.onnx", net.fake(net.add("Add", first, second), *grid)))
    assert [layer.integer for layer in found.layers] == [integer] * 2
    assert ["two" if "int8" in layer.cause else "" for layer in found.layers] == ["" if integer else "two"] * 2
    assert {one.rule for one in found.findings} == (set() if integer else {"no-integers", "signed-activations"})


def test_a_model_without_layers_says_so(tmp_path):
    found = inspected(tmp_path, lambda net: [net.fake(net.add("Add", net.fake("x"), net.fake("x")))])
    assert found.verdict == "nothing in it multiplies and accumulates"


def test_a_table_fits_a_terminal_whatever_layers_are_called(tmp_path):
    net = Net()
    value = net.fake("x")
    for part in "ab":
        value = net.fake(net.conv(value))
        next(
            node for node in net.nodes if node.op_type == "Conv" and len(node.name) < 20
        ).name = f"/model/encoder/layers.{part}/self_attention/projection/out/Conv"
    found = inspect_model(net.write(tmp_path / "model.onnx", value))
    table = inspection_text(found).split("\n\n")[2].splitlines()
    assert max(map(len, table)) <= 100 and "…" in table[1] and table[-1] == "with -v: whole names and all columns"
    wide = inspection_text(found, every=True)
    assert "layers.b/self_attention/projection/out/Conv" in wide and "int8 0.01, 0" in wide


def test_what_is_no_layer_stays_float_for_its_wide_type_too(tmp_path):
    def build(net):
        net.opset = 21
        return [net.fake(net.add("GlobalAveragePool", net.fake("x", 0.001, 0, "int16")), 0.001, 0, "int16")]

    found = inspected(tmp_path, build)
    (one,) = [one for one in found.findings if one.rule == "wide-type"]
    assert "GlobalAveragePool reads or makes int16" in one.cause
    assert "unexplained" not in {one.rule for one in found.findings}


@pytest.mark.parametrize("stored", [129, 130])
def test_sums_half_way_between_two_steps_are_rounded_and_not_computed_wrongly(stored, tmp_path):
    """1 + erf as onnxruntime's quantiser leaves it: the sum of two grids lies on every half step of the third.

    Its kernel rounds every other of them to another side than ONNX does.
    """
    net = Net((1, 8))
    one = net.add("DequantizeLinear", net.constant(np.array(255, np.uint8)), *net.grid(1 / 255, 0))
    path = net.write(tmp_path / "model.onnx", net.fake(net.add("Add", net.fake("x", 2 / 255, 128), one), 2 / 255, 0))
    np.savez(tmp_path / "data.npz", x=np.full((2, 8), (stored - 128) * 2 / 255, np.float32))
    found = inspect_model(path, data=tmp_path / "data.npz")
    assert [node.op for node in found.nodes if node.integer] == ["QLinearAdd"]
    assert found.findings == ()


def test_a_branch_that_is_not_taken_has_no_time_and_an_if_is_no_float_island(tmp_path):
    bodies = {}
    net = Net()
    for name in ("then", "else"):
        inner = Net()
        bodies[name] = inner.add("Identity", *whole(inner), name=name)
        taken = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
        for node in inner.nodes:
            renamed = {text: f"{name}/{text}" for text in (*node.input, *node.output) if text not in ("x", name)}
            node.input[:] = [renamed.get(text, text) for text in node.input]
            node.output[:] = [renamed.get(text, text) for text in node.output]
            node.name = f"{name}/{node.name}"
        for constant in inner.constants:
            constant.name = f"{name}/{constant.name}"
        bodies[name] = helper.make_graph(inner.nodes, name, [], taken)
        net.constants += inner.constants
    net.inputs.append(helper.make_tensor_value_info("yes", TensorProto.BOOL, []))
    chosen = net.add("If", "yes", then_branch=bodies["then"], else_branch=bodies["else"])
    np.savez(tmp_path / "data.npz", x=np.ones((2, 1, 4, 8, 8), np.float32), yes=np.array([True, True]))
    path = net.write(tmp_path / "model.onnx", chosen)
    found = inspect_model(path, data=tmp_path / "data.npz", latency=True)
    assert {layer.name.split("/")[0]: layer.ms is not None for layer in found.layers} == {"then": True, "else": False}
    assert "the time of 1 layer in bodies, to which no run came" in found.not_measured
    assert "float island" not in found.verdict and found.findings == ()


def test_activations_that_are_wider_than_weights_are_said_on_top(tmp_path):
    def build(net):
        net.opset = 21
        return [net.fake(net.conv(net.fake("x", 0.001, 0, "int16")), 0.001, 0, "int16")]

    wide, usual = (inspection_text(inspected(tmp_path, one)).splitlines()[0] for one in (build, whole))
    assert ": int8 with int16 activations, QDQ; opset 21" in wide
    assert ": int8, QDQ; opset 13" in usual
