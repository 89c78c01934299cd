"""Valid and unusual models: each is quantised, keeps its interface, and onnxruntime finds it close to the float one."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import qtool
from qtool.core.errors import ModelError
from qtool.core.numerics.sqnr import signal_to_noise
from tests.support.patterns import Net

INT64, BOOL, FLOAT = TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT
SHAPE = (3, 8, 8)


def tensor(name, shape=None, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


class Odd(Net):
    """Parts that `Net.model` cannot infer shapes of are said outright."""

    def __init__(self, **options):
        super().__init__(*SHAPE, **options)
        self.more_inputs: list[onnx.ValueInfoProto] = []
        self.functions: list[onnx.FunctionProto] = []

    def write(self, path: Path, outputs: dict[str, list[int | str]]) -> Path:
        graph = helper.make_graph(
            self.nodes,
            "g",
            [tensor("x", ["N", *self.shape]), *self.more_inputs],
            [tensor(name, shape) for name, shape in outputs.items()],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(f.domain, 1) for f in self.functions)]
        onnx.save(helper.make_model(graph, functions=self.functions, opset_imports=opsets, ir_version=8), path)
        return path


def _names_of_outputs(net):
    """The same tensor under three names, one of them also read on; and an input handed through."""
    made = net.conv("x", 3, 8)
    same = ["N", 8, 8, 8]
    outputs = {made: same, net("Identity", made): same, net("Identity", made): same}
    last = net.conv(net("Identity", made), 8, 4)
    return outputs | {last: ["N", 4, 8, 8], net("Identity", "x"): ["N", *SHAPE]}


def _branches(net):
    """If: one branch hands an outer tensor through, the other holds a convolution of it."""
    outer = net.conv("x", 3, 8)
    weight = net.weight(8, 8, 3, 3, inputs=72)
    then = [helper.make_node("Identity", [outer], ["t"], name="then_identity")]
    other = [
        helper.make_node("Conv", [outer, weight], ["c"], name="else_conv", pads=[1] * 4),
        helper.make_node("Identity", ["c"], ["e"], name="else_identity"),
    ]
    chosen = net(
        "If",
        net("Greater", net("ReduceMean", outer, keepdims=0), net.const(0.0)),
        then_branch=helper.make_graph(then, "then", [], [tensor("t")]),
        else_branch=helper.make_graph(other, "else", [], [tensor("e")]),
    )
    return {net.conv(chosen, 8, 4): ["N", 4, 8, 8]}


def _loop(net):
    """A convolution that runs three times in a body of its own."""
    weight = net.weight(3, 3, 3, 3, inputs=27)
    net.const(3, "trips", np.int64)
    net.const(True, "go", np.bool_)
    nodes = [
        helper.make_node("Conv", ["state", weight], ["state_out"], name="inner", pads=[1] * 4),
        helper.make_node("Identity", ["go_on"], ["go_out"], name="inner_identity"),
    ]
    fed = [tensor("i", [], INT64), tensor("go_on", [], BOOL), tensor("state")]
    body = helper.make_graph(nodes, "body", fed, [tensor("go_out", [], BOOL), tensor("state_out")])
    return {net.conv(net("Loop", "trips", "go", net.conv("x", 3, 3), body=body), 3, 4): ["N", 4, 8, 8]}


def _function(net):
    """A block that is defined once and called twice."""
    nodes = [helper.make_node("Conv", ["a", "w"], ["c"]), helper.make_node("Relu", ["c"], ["b"])]
    net.functions = [helper.make_function("own", "Block", ["a", "w"], ["b"], nodes, [helper.make_opsetid("", 17)])]
    first, second = net.weight(8, 3, 3, 3, inputs=27), net.weight(4, 8, 3, 3, inputs=72)
    hidden = net("Block", "x", first, domain="own")
    return {net("Block", hidden, second, domain="own"): ["N", 4, 4, 4]}


def _sequence(net):
    """A list of tensors between layers."""
    hidden = net.conv("x", 3, 8)
    return {net("ConcatFromSequence", net("SequenceConstruct", hidden, hidden), axis=1): ["N", 16, 8, 8]}


def _scalar_input(net):
    """A second input without any axis."""
    net.more_inputs = [tensor("k", [])]
    return {net.conv(net("Mul", net.conv("x", 3, 8), "k"), 8, 4): ["N", 4, 8, 8]}


def _vector_weight(net):
    """A MatMul with a vector stays float between integer layers."""
    flat = net("Flatten", net.conv("x", 3, 4))
    dot = net("MatMul", net("Relu", net.gemm(flat, 256, 16)), net.weight(16, inputs=16))
    column = net("Unsqueeze", dot, net.const([1], dtype=np.int64))
    return {net.gemm(column, 1, 3): ["N", 3]}


def _empty_output(net):
    """An output without elements."""
    made = net.conv("x", 3, 8)
    ends = [net.const([number], dtype=np.int64) for number in (0, 0, 1)]
    return {made: ["N", 8, 8, 8], net("Slice", made, *ends): ["N", 0, 8, 8]}


def _constant_output(net):
    """An output that depends on no input."""
    return {net.conv("x", 3, 8): ["N", 8, 8, 8], net("Identity", net.const(np.ones(3))): [3]}


def _shared_parameters(net):
    """One weight and one bias for two layers with different inputs, and the weight is read as a number too."""
    weight, bias = net.weight(3, 3, 3, 3, inputs=27), net.bias(3)
    hidden = net("Conv", "x", weight, bias, pads=[1] * 4)
    mean = net("ReduceMean", weight, keepdims=0)
    return {net("Conv", hidden, weight, bias, pads=[1] * 4): ["N", 3, 8, 8], net("Add", mean, mean): []}


def _names_that_clash(net):
    """Names that the tool itself would give."""
    net.const(1.5, "x_scale")
    hidden = net("Mul", net.conv("x", 3, 8, name="größe/层 1"), "x_scale", name="x_quantized")
    return {net.conv(hidden, 8, 4, name="x_dequantized"): ["N", 4, 8, 8]}


def _large_transposed_weight(net):
    """A weight of over 64 MiB that is transposed before use, as exporters leave it."""
    rows = 90_000
    weight = net.const(np.tile(net.rng.normal(size=(rows // 100, 192)).astype(np.float32) / 14, (100, 1)))
    return {net("MatMul", net("Flatten", "x"), net("Transpose", weight)): ["N", rows]}


BUILDERS = (
    _names_of_outputs,
    _branches,
    _loop,
    _function,
    _sequence,
    _scalar_input,
    _vector_weight,
    _empty_output,
    _constant_output,
    _shared_parameters,
    _names_that_clash,
    _large_transposed_weight,
)


@pytest.mark.parametrize(
    "build",
    [pytest.param(one, marks=pytest.mark.long if one is _large_transposed_weight else []) for one in BUILDERS],
    ids=[one.__name__.strip("_") for one in BUILDERS],
)
def test_an_odd_model(build, tmp_path):
    net = Odd()
    outputs = build(net)
    model = net.write(tmp_path / "m.onnx", outputs)
    rng = np.random.default_rng(8)
    extra = {value.name: np.asarray(1.5, np.float32) for value in net.more_inputs}
    data = [{"x": rng.normal(size=(1, *SHAPE)).astype(np.float32), **extra} for _ in range(6)]
    result = qtool.quantize(model, tmp_path / "q.onnx", data=data, calibrator="max")
    assert result.verification.integer_layers >= 1
    exact, ours = (ort.InferenceSession(tmp_path / name) for name in ("m.onnx", "q.onnx"))
    for session in (exact, ours):
        assert [value.name for value in session.get_outputs()] == list(outputs)
        assert [value.name for value in session.get_inputs()] == ["x", *extra]
    for float_array, array in zip(exact.run(None, data[0]), ours.run(None, data[0]), strict=True):
        assert array.shape == float_array.shape
        assert array.size == 0 or signal_to_noise(float_array, array) > 25.0


def test_external_data_in_attributes_and_initializers(tmp_path):
    """Weights beside the model, those of Constant nodes too; the int8 model holds its own."""
    net = Odd()
    weight = net.rng.normal(size=(4, 8, 3, 3)).astype(np.float32) / 9
    hidden = net.conv("x", 3, 8)
    constant = net("Constant", value=numpy_helper.from_array(weight, "w"))
    outputs = {net("Conv", hidden, constant): ["N", 4, 6, 6]}
    model = onnx.load(net.write(tmp_path / "plain.onnx", outputs))
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0, convert_attribute=True)
    data = net.samples()
    for name, source in (("a.onnx", tmp_path / "plain.onnx"), ("b.onnx", path)):
        result = qtool.quantize(source, tmp_path / name, data=data, calibrator="max")
        assert result.verification.integer_share == 1.0
    assert result.float_size == path.stat().st_size + (path.parent / "w.bin").stat().st_size
    sessions = [ort.InferenceSession(tmp_path / name) for name in ("a.onnx", "b.onnx")]
    np.testing.assert_array_equal(*(session.run(None, data)[0] for session in sessions))


def test_an_input_that_is_no_tensor_is_refused(tmp_path):
    net = Odd()
    net.more_inputs = [helper.make_tensor_sequence_value_info("s", FLOAT, ["N", *SHAPE])]
    taken = net("SequenceAt", "s", net.const(0, dtype=np.int64))
    model = net.write(tmp_path / "m.onnx", {net.conv(net("Add", taken, "x"), 3, 4): ["N", 4, 8, 8]})
    with pytest.raises(ModelError, match=r"'s' is .*only tensors can be fed"):
        qtool.calibrate(model, net.samples())
