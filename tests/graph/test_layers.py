"""What `graph.layers` says of each operator, against what onnxruntime computes with it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import qtool
from qtool.graph import edit, model_io
from qtool.graph.layers import OPERATORS, Layer, per_channel
from qtool.runtime.session import Session

PACKAGE = Path(qtool.__file__).parent


@dataclass(frozen=True)
class Case:
    """A layer whose channels stand on axis `channels` of its input and of its output; no place of it is padded."""

    op: str
    x: tuple[int, ...]
    weight: tuple[int, ...]
    sizes: tuple[int, int]
    attributes: dict[str, Any] = field(default_factory=dict)
    channels: int = 1

    def model(self) -> bytes:
        node = onnx.helper.make_node(self.op, ["x", "w"], ["y"], name="layer", **self.attributes)
        fed = [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
            for name, shape in (("x", self.x), ("w", self.weight))
        ]
        given = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)]
        graph = onnx.helper.make_graph([node], "one", fed, given)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
        return model.SerializeToString()

    def layer(self) -> Layer:
        (node,) = model_io.from_bytes(self.model()).graph
        layer = Layer.of(node)
        assert layer is not None
        return layer

    def run(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        y = Session(self.model(), optimize=False).run({"x": x, "w": weight})["y"]
        return np.moveaxis(y, self.channels, 0) if y.ndim else y

    def numbers(self) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(3)
        x, w = (rng.normal(size=shape).astype(np.float32) for shape in (self.x, self.weight))
        return x, w


# sizes are (C, M)
CASES = {
    "conv": Case("Conv", (2, 3, 6, 7), (4, 3, 2, 3), (3, 4)),
    "conv, strides": Case("Conv", (2, 3, 7, 7), (4, 3, 3, 3), (3, 4), {"strides": [2, 2]}),
    "conv, groups": Case("Conv", (1, 6, 5, 5), (4, 3, 2, 2), (6, 4), {"group": 2}),
    "conv, depthwise": Case("Conv", (1, 3, 5, 5), (6, 1, 2, 2), (3, 6), {"group": 3}),
    "conv, one axis": Case("Conv", (1, 3, 9), (5, 3, 4), (3, 5)),
    "conv, three axes": Case("Conv", (1, 2, 3, 4, 3), (5, 2, 2, 2, 1), (2, 5)),
    "conv transpose": Case("ConvTranspose", (2, 3, 4, 5), (3, 4, 2, 3), (3, 4)),
    "conv transpose, groups": Case("ConvTranspose", (1, 6, 4, 4), (6, 2, 2, 2), (6, 4), {"group": 2}),
    "gemm": Case("Gemm", (5, 3), (3, 4), (3, 4)),
    "gemm, transposed": Case("Gemm", (5, 3), (4, 3), (3, 4), {"transB": 1}),
    "matmul": Case("MatMul", (2, 5, 3), (3, 4), (3, 4), channels=-1),
}


@pytest.mark.parametrize("name", CASES)
def test_the_sizes(name):
    case = CASES[name]
    layer = case.layer()
    assert (layer.input_size(case.weight), layer.output_size(case.weight)) == case.sizes
    assert case.weight[layer.output_axis] * (layer.groups if layer.output_axis else 1) == case.sizes[1]


@pytest.mark.parametrize("name", CASES)
def test_a_factor_on_output_channels_is_one_on_the_output(name):
    case = CASES[name]
    x, weight = case.numbers()
    factor = np.arange(1, case.sizes[1] + 1, dtype=np.float32)
    scaled = weight.copy()
    view = case.layer().output_channels(scaled)
    assert np.shares_memory(view, scaled)
    view *= per_channel(factor, view)
    wanted = case.run(x, weight)
    wanted = wanted * factor.reshape(-1, *[1] * (wanted.ndim - 1))
    np.testing.assert_allclose(case.run(x, scaled), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_factor_on_input_channels_is_one_on_the_input(name):
    case = CASES[name]
    x, weight = case.numbers()
    factor = np.arange(1, case.sizes[0] + 1, dtype=np.float32)
    scaled = weight.copy()
    view = case.layer().input_channels(scaled)
    assert np.shares_memory(view, scaled)
    view *= per_channel(factor, view)
    shape = [1] * x.ndim
    shape[case.channels] = -1
    np.testing.assert_allclose(case.run(x, scaled), case.run(x * factor.reshape(shape), weight), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_product_of_ones_counts_the_products(name):
    """An element is then how many products were added up in it, and all together how many there were."""
    case = CASES[name]
    ones = case.run(np.ones(case.x, np.float32), np.ones(case.weight, np.float32))
    layer = case.layer()
    assert layer.sum_length(case.weight) == ones.max()
    output = np.moveaxis(ones, 0, case.channels).shape
    assert layer.macs({"x": case.x, "w": case.weight, "y": output}) == ones.sum()


@pytest.mark.parametrize("name", CASES)
def test_it_counts_by_the_shapes_that_it_asks_for(name):
    case = CASES[name]
    layer = case.layer()
    y = np.moveaxis(case.run(*case.numbers()), 0, case.channels)
    shapes = {"x": case.x, "w": case.weight, "y": y.shape}
    asked = {str(value.name): shapes[str(value.name)] for value in layer.counted}
    assert layer.macs(asked) == layer.macs(shapes)
    for missing in asked:
        assert layer.macs({name: shape for name, shape in asked.items() if name != missing}) is None


@pytest.mark.parametrize(("x", "weight"), [((2, 3, 4), (2, 4, 5)), ((3, 4), (4,)), ((4,), (4, 3)), ((4,), (4,))])
def test_a_matmul_of_any_ranks_counts_the_products(x, weight):
    case = Case("MatMul", x, weight, (4, 5), channels=0)
    ones = case.run(np.ones(x, np.float32), np.ones(weight, np.float32))
    layer = case.layer()
    assert layer.sum_length(weight) == 4
    assert layer.macs({"x": x, "w": weight, "y": ones.shape}) == ones.sum()


@pytest.mark.parametrize("name", ["gemm", "gemm, transposed", "matmul"])
def test_the_matrix_is_what_the_input_is_multiplied_with(name):
    case = CASES[name]
    x, weight = case.numbers()
    layer = case.layer()
    matrix = layer.matrix(weight)
    np.testing.assert_allclose(np.moveaxis(x @ matrix, case.channels, 0), case.run(x, weight), rtol=1e-5, atol=1e-6)
    assert layer.matrix(matrix).shape == weight.shape and (layer.matrix(matrix) == weight).all()


@pytest.mark.parametrize("transposed", [0, 1])
def test_channels_that_were_flattened(transposed):
    """Channel c of [N, 3, 2, 2] is what rows 4 c to 4 c + 3 of the Gemm behind the Flatten read."""
    shape = (5, 12) if transposed else (12, 5)
    case = Case("Gemm", (2, 12), shape, (12, 5), {"transB": transposed})
    x, weight = case.numbers()
    factor = np.array([1.0, 2.0, 3.0], np.float32)
    scaled = weight.copy()
    view = case.layer().input_channels(scaled, 3)
    assert view.shape == (1, 3, 5, 4) and np.shares_memory(view, scaled)
    view *= per_channel(factor, view)
    by_channel = (x.reshape(2, 3, 4) * factor[:, None]).reshape(2, 12)
    np.testing.assert_allclose(case.run(x, scaled), case.run(by_channel, weight), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_the_axes_of_recurrent_weights(op, gates):
    """W is [directions, gates * hidden, input], R [directions, gates * hidden, hidden]."""
    node = edit.new_node(op, [None, None, None], ["y", "h"], name="layer", attributes={"hidden_size": 5})
    layer = Layer.of(node)
    assert layer is not None and not layer.is_linear and layer.bias is None
    assert layer.operator.weights == (1, 2)
    assert (layer.output_size((2, gates * 5, 3)), layer.input_size((2, gates * 5, 3))) == (gates * 5, 3)
    assert layer.output_channels(np.zeros((2, gates * 5, 3))).shape == (1, gates * 5, 3, 2)


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("outputs", [["y", "h"], ["", "h"]])
def test_a_recurrence_multiplies_input_and_state_in_every_step(op, gates, outputs):
    """x is [7 steps, 2 samples, 3]; two directions of 5 hidden units; whether all states are asked for or the last."""
    node = edit.new_node(op, [None] * 3, outputs, name="layer", attributes={"hidden_size": 5})
    for index, name in enumerate("xwr"):
        node.replace_input_with(index, edit.Value(name=name))
    layer = Layer.of(node)
    assert layer is not None
    shapes = {"x": (7, 2, 3), "w": (2, gates * 5, 3), "r": (2, gates * 5, 5)}
    assert layer.macs(shapes) == 7 * 2 * 2 * gates * 5 * (3 + 5)


def test_a_table_is_read_by_rows():
    layer = Layer.of(edit.new_node("Gather", [None, None], "y", name="layer"))
    assert layer is not None and (layer.operator.weights, layer.output_axis) == ((0,), 0)
    assert not layer.is_linear


def test_what_has_no_weights_is_no_layer():
    assert Layer.of(edit.new_node("Relu", [None], "y", name="n")) is None
    assert Layer.of(edit.new_node("Conv", [None, None], "y", name="n", domain="com.example")) is None


def test_every_operator_has_the_inputs_that_onnx_names():
    """A weight or bias that the table names is an input of that name in ONNX's schema."""
    known = {"W", "R", "B", "C", "data"}
    for op, operator in OPERATORS.items():
        inputs = [found.name for found in onnx.defs.get_schema(op).inputs]
        wanted = [*operator.weights, *([] if operator.bias is None else [operator.bias])]
        assert {inputs[index] for index in wanted} <= known, op


@pytest.mark.parametrize(
    ("word", "others"),
    [
        ('"transB"', {"pipeline/prepare/pointwise_head.py"}),
        ('"transA"', {"anatomy/planned.py"}),
        ('"group"', {"inspection/finders.py"}),
    ],
)
def test_nothing_else_asks_how_a_weight_lies(word, others):
    """Those that make such a node must write it, torch's functions compute by it, and others' kernels have no row."""
    found = {str(file.relative_to(PACKAGE)) for file in PACKAGE.rglob("*.py") if word in file.read_text()}
    computes = "finetuning/functions/layers.py"
    assert found == {"graph/layers.py", computes, *others}
