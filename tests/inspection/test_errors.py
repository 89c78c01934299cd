"""Errors of tensors that an int8 model holds at another scale."""

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from qtool import inspect_model
from qtool.anatomy.opened import open_model
from qtool.graph import shapes
from qtool.inspection.differences import differences
from qtool.inspection.errors import errors_of
from tests.inspection.written import Net

RNG = np.random.default_rng(3)


def net(scales):
    """x [1, 64, any] -> times a number for each of 64 rows, or for each place -> sum."""
    nodes = [
        helper.make_node("Relu", ["x"], ["positive"], "relu"),
        *scales,
        helper.make_node("ReduceMean", ["scaled"], ["y"], "mean", keepdims=1),
    ]
    made = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64, "length"])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 1])],
            [numpy_helper.from_array(np.linspace(1, 9, 64, dtype=np.float32).reshape(1, 64, 1), "rows")],
        ),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    model = ir.serde.deserialize_model(made)
    shapes.infer(model)
    return model


KEPT = [helper.make_node("Identity", ["positive"], ["scaled"], "scale")]
BY_ROW = [helper.make_node("Mul", ["positive", "rows"], ["scaled"], "scale")]
BY_PLACE = [
    helper.make_node("ReduceMax", ["positive"], ["largest"], "largest", axes=[1], keepdims=1),
    helper.make_node("Mul", ["largest", "largest"], ["square"], "square"),
    helper.make_node("Mul", ["positive", "square"], ["scaled"], "scale"),
]


def test_only_channels_have_a_scale_of_their_own_and_not_places_of_a_length_that_varies():
    """Factors of the places of one sample say nothing of another sample, which may be longer."""
    samples = [{"x": RNG.normal(size=(1, 64, n)) * RNG.uniform(0.5, 4, n)} for n in (40, 57, 33)]
    samples = [{"x": one["x"].astype(np.float32)} for one in samples]
    rows, places = (errors_of(net(KEPT), net(kind), samples) for kind in (BY_ROW, BY_PLACE))
    assert rows.by_tensor["scaled"] > 100
    assert any("the scale of 1 tensor" in text for text in rows.not_measured)
    assert places.by_tensor["scaled"] < 5


def test_a_recurrent_layer_of_which_only_the_last_state_is_read_has_an_error_and_times(tmp_path):
    weights = {
        "w": RNG.normal(size=(1, 24, 4)),
        "r": RNG.normal(size=(1, 24, 8)),
        "fc": RNG.normal(size=(8, 2)),
    }
    paths = []
    for name, read in (("float", "x"), ("int8", "behind")):
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["stored"], "q"),
            helper.make_node("DequantizeLinear", ["stored", "s", "z"], ["behind"], "dq"),
        ] * (name == "int8")
        nodes += [
            helper.make_node("GRU", [read, "w", "r"], ["", "state"], "gru", hidden_size=8),
            helper.make_node("MatMul", ["state", "fc"], ["y"], "fc"),
        ]
        constants = [numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()]
        constants += [
            numpy_helper.from_array(np.float32(0.1), "s"),
            numpy_helper.from_array(np.uint8(128), "z"),
        ] * (name == "int8")
        infos = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [5, 1, 4]), ("y", [1, 1, 2]))
        ]
        graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], constants)
        paths.append(tmp_path / f"{name}.onnx")
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), paths[-1])
    np.savez(tmp_path / "data.npz", x=RNG.normal(size=(3, 5, 1, 4)).astype(np.float32))
    layers = inspect_model(paths[1], paths[0], tmp_path / "data.npz", latency=True).layers
    (gru,) = [layer for layer in layers if layer.op == "GRU"]
    assert gru.output == "state"
    assert gru.ms > 0 and gru.float_ms > 0 and 15 < gru.sqnr_db < 60


ROWS = 8192
"""Of so many some fall on the other side of a border between two roundings, where a sum is taken in another order."""


def products(stored):
    """x -> three times a product and a normalisation: of weights in blocks of 4 bits (level 4), or in float."""
    net = Net((ROWS, 64), opset=17)
    value = "x"
    for number, weights in enumerate(stored):
        if weights.dtype == np.uint8:
            scales = net.constant(np.full(64 * 2, 0.05, np.float32))
            sizes = {"K": 64, "N": 64, "bits": 4, "block_size": 32, "accuracy_level": 4}
            made = net.add(
                "MatMulNBits", value, net.constant(weights), scales, name=f"p{number}", domain="com.microsoft", **sizes
            )
        else:
            made = net.add("MatMul", value, net.constant(weights), name=f"p{number}")
        value = normalized(net, net.add("Add", value, made), f"n{number}")
    return net


def normalized(net, value, name):
    """A normalisation written out, of which onnxruntime makes one node, that sums in another order."""
    inner = net.add("Sub", value, net.add("ReduceMean", value, axes=[-1], keepdims=1))
    power = net.add("ReduceMean", net.add("Pow", inner, net.constant(np.float32(2))), axes=[-1], keepdims=1)
    size = net.add("Sqrt", net.add("Add", power, net.constant(np.float32(1e-5))))
    gain, bias = (net.constant(make(64, np.float32)) for make in (np.ones, np.zeros))
    return net.add("Add", net.add("Mul", net.add("Div", inner, size), gain), bias, name=name)


def test_weights_in_blocks_have_errors_and_their_rounding_of_inputs_is_no_wrong_result(tmp_path):
    """No type is inferred behind an operator of onnxruntime's own; what is in it is float all the same."""
    packed = [RNG.integers(0, 256, (64, 2, 16)).astype(np.uint8) for _ in range(3)]
    exact = []
    for one in packed:
        integers = np.stack([one & 15, one >> 4], -1).reshape(64, 64).astype(np.float32) - 8
        exact.append((integers * 0.05).T + RNG.normal(size=(64, 64)).astype(np.float32) * 0.004)
    paths = [products(stored).write(tmp_path / f"{len(stored[0].shape)}.onnx", "n2") for stored in (exact, packed)]
    samples = {"x": RNG.normal(size=(2, ROWS, 64)).astype(np.float32)}
    found = inspect_model(paths[1], paths[0], samples)
    assert [(layer.kernel, layer.integer) for layer in found.layers] == [("MatMulNBits", True)] * 3
    assert all(20 < layer.alone_db < 60 and layer.sqnr_db > 20 for layer in found.layers)
    assert found.layers[0].sqnr_db > found.layers[2].sqnr_db
    rules = {one.rule: one for one in found.findings}
    assert set(rules) == {"weights-only"} and "LayerNormalization" in rules["weights-only"].what
    opened = open_model(paths[1]).model
    between = differences(opened, [{"x": samples["x"][0]}], {}).whole_db
    assert between > 100, "each computes what the file says, in another order"
