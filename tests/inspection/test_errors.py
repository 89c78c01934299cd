"""Errors of tensors that an int8 model holds at another scale."""

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from qtool.graph import shapes
from qtool.inspection.errors import errors_of

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
