"""What multiplies without being a layer with weights, against multiplications counted one by one, or by hand."""

import itertools
import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qtool.graph import model_io, products
from qtool.graph.layers import OPERATORS
from qtool.pipeline.verify.macs import macs_of
from qtool.targets.tables import TARGETS

ORT = "com.microsoft"


def node_of(op, *shapes, output=None, domain="", **attributes):
    """A node between graph inputs of these shapes; None leaves an input out."""
    names = ["" if shape is None else f"x{i}" for i, shape in enumerate(shapes)]
    node = helper.make_node(op, names, ["y"], name="layer", domain=domain, **attributes)
    fed = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(names, shapes, strict=True) if n]
    given = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "one", fed, given)
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid(ORT, 1), helper.make_opsetid("ai.onnx.ml", 3)]
    model = model_io.from_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
    shapes_of = {n: s for n, s in zip(names, shapes, strict=True) if n} | ({} if output is None else {"y": output})
    return model, shapes_of


def count(op, *shapes, **options):
    model, shapes_of = node_of(op, *shapes, **options)
    (node,) = model.graph
    assert products.multiplies(node)
    assert {v.name for v in products.counted(node)} <= {*shapes_of, "y"}
    return macs_of(model, shapes_of)["layer"]


@pytest.mark.parametrize(
    ("equation", "shapes", "expected"),
    [
        ("abc,cd->abd", [(2, 3, 4), (4, 5)], 2 * 3 * 4 * 5),
        ("bhid,bhjd->bhij", [(2, 3, 5, 4), (2, 3, 6, 4)], 2 * 3 * 5 * 6 * 4),
        ("...ij,...jk->...ik", [(7, 2, 3), (7, 3, 4)], 7 * 2 * 3 * 4),
        ("ij,jk", [(2, 3), (3, 4)], 2 * 3 * 4),
        (" i j , j -> i ", [(2, 3), (3,)], 6),
        ("ij,ij->ij", [(2, 3), (2, 3)], 0),
        ("ij->ji", [(2, 3)], 0),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)], 2 * 2 * 3 * 4 * 5),
    ],
)
def test_einsum(equation, shapes, expected):
    assert count("Einsum", *shapes, equation=equation) == expected


def test_einsum_against_a_product_that_counts():
    """Each element of the result is a sum of ones, one for each product."""
    one, two = np.ones((2, 3, 4), int), np.ones((5, 4), int)
    result = np.einsum("abc,dc->abd", one, two)
    assert count("Einsum", one.shape, two.shape, equation="abc,dc->abd") == result.sum()


def naive_attention(batch, queries, keys, heads, size, value_size):
    """Scores and weighed sums, product by product."""
    places = itertools.product(range(batch), range(heads), range(queries), range(keys))
    return sum(size + value_size for _ in places)


def test_attention_of_onnxruntime():
    expected = 2 * 5 * 12 * 24 + naive_attention(2, 5, 5, 4, 2, 2)
    assert count("Attention", (2, 5, 12), (12, 24), (24,), domain=ORT, num_heads=4) == expected
    wider = 2 * 5 * 12 * 32 + naive_attention(2, 5, 5, 4, 2, 4)
    sizes = {"num_heads": 4, "qkv_hidden_sizes": [8, 8, 16]}
    assert count("Attention", (2, 5, 12), (12, 32), (32,), domain=ORT, **sizes) == wider
    past = 2 * 5 * 12 * 24 + naive_attention(2, 5, 5 + 3, 4, 2, 2)
    assert count("Attention", (2, 5, 12), (12, 24), (24,), None, (2, 2, 4, 3, 2), domain=ORT, num_heads=4) == past


@pytest.mark.parametrize(
    ("shapes", "keys"),
    [
        ([(2, 5, 8), (2, 7, 8), (2, 7, 8)], 7),
        ([(2, 5, 8), (2, 4, 7, 2), (2, 4, 7, 2)], 7),
        ([(2, 5, 4, 3, 2)], 5),
        ([(2, 5, 8), (2, 7, 4, 2, 2)], 7),
        ([(2, 5, 8), (2, 7, 8), (2, 7, 8), None, None, None, (2, 4, 3, 2), (2, 4, 3, 2)], 10),
    ],
)
def test_attention_of_several_heads(shapes, keys):
    assert count("MultiHeadAttention", *shapes, domain=ORT, num_heads=4) == naive_attention(2, 5, keys, 4, 2, 2)


@pytest.mark.parametrize(
    ("shapes", "heads"),
    [
        ([(2, 4, 5, 2), (2, 4, 7, 2), (2, 4, 7, 3)], {}),
        ([(2, 5, 8), (2, 7, 4), (2, 7, 6)], {"q_num_heads": 4, "kv_num_heads": 2}),
    ],
)
def test_attention_of_onnx(shapes, heads):
    assert count("Attention", *shapes, **heads) == naive_attention(2, 5, 7, 4, 2, 3)


@pytest.mark.parametrize(
    ("op", "shapes", "output", "attributes", "expected"),
    [
        ("FusedConv", [(1, 3, 6, 6), (8, 3, 3, 3)], (1, 8, 4, 4), {}, 8 * 4 * 4 * 27),
        ("FusedConv", [(1, 4, 6, 6), (8, 2, 3, 3)], (1, 8, 4, 4), {"group": 2}, 8 * 4 * 4 * 18),
        ("FusedMatMul", [(2, 3, 4), (4, 5)], (2, 3, 5), {}, 2 * 3 * 5 * 4),
        ("FusedMatMul", [(2, 3, 4), (2, 5, 4)], (2, 3, 5), {"transB": 1}, 2 * 3 * 5 * 4),
        ("FusedMatMul", [(2, 4, 3), (4, 5)], (2, 3, 5), {"transA": 1}, 2 * 3 * 5 * 4),
        ("FusedGemm", [(3, 4), (4, 5)], (3, 5), {}, 3 * 5 * 4),
        ("GemmFastGelu", [(3, 4), (4, 5)], (3, 5), {}, 3 * 5 * 4),
    ],
)
def test_what_onnxruntime_fuses(op, shapes, output, attributes, expected):
    assert count(op, *shapes, output=output, domain=ORT, **attributes) == expected


def test_linear_models():
    ones = [1.0] * 12
    assert count("LinearRegressor", (7, 4), domain="ai.onnx.ml", coefficients=ones, targets=3) == 7 * 12


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("past", [0, 7])
def test_grouped_queries(packed, past):
    heads = {"num_heads": 4, "kv_num_heads": 2}
    before = [(2, 2, past, 3)] * 2 if past else []
    inputs = [(2, 5, 24), None, None] if packed else [(2, 5, 12), (2, 5, 6), (2, 5, 6)]
    # of 2 samples and 4 heads, 5 queries meet 5 keys and those before them, in 3 channels, twice
    assert count("GroupQueryAttention", *inputs, *before, domain=ORT, **heads) == 2 * 4 * 5 * (5 + past) * 3 * 2


@pytest.mark.parametrize("op", ["MoE", "SparseAttention", "PackedAttention"])
def test_what_no_shape_tells_is_unknown(op):
    assert count(op, (2, 3, 4), (4, 4), domain=ORT) is None


def test_a_missing_shape_is_unknown():
    model, shapes = node_of("Einsum", (2, 3), (3, 4), equation="ij,jk->ik")
    assert macs_of(model, {name: shape for name, shape in shapes.items() if name != "x1"}) == {"layer": None}


@pytest.mark.parametrize("op", ["Add", "Softmax", "LayerNormalization", "Gather", "Resize"])
def test_what_does_not_multiply_and_accumulate(op):
    model, _ = node_of(op, (2, 3), (2, 3))
    (node,) = model.graph
    assert not products.multiplies(node)


def test_every_layer_of_a_target_is_counted():
    weighted = {op for target in TARGETS.values() for op, rule in target.rules.items() if rule.kind == "weighted"}
    for op in weighted:
        model, _ = node_of(op, (1, 2, 3), (1, 3, 3))
        (node,) = model.graph
        assert products.multiplies(node), op
    assert weighted <= set(OPERATORS)


def test_nodes_in_bodies_are_unknown():
    inner = helper.make_node("MatMul", ["s", "w"], ["t"], name="inner")
    tensor, real = helper.make_tensor_value_info, TensorProto.FLOAT
    body = helper.make_graph(
        [inner, helper.make_node("Identity", ["go"], ["on"])], "body",
        [tensor("i", TensorProto.INT64, []), tensor("go", TensorProto.BOOL, []), tensor("s", real, [2, 3])],
        [tensor("on", TensorProto.BOOL, []), tensor("t", real, [2, 3])],
    )  # fmt: skip
    loop = helper.make_node("Loop", ["trips", "", "x"], ["y"], name="loop", body=body)
    weight = onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")
    trips = onnx.numpy_helper.from_array(np.array(3), "trips")
    outer = helper.make_node("MatMul", ["y", "w"], ["z"], name="outer")
    graph = helper.make_graph(
        [loop, outer], "g", [tensor("x", real, [2, 3])], [tensor("z", real, [2, 3])],
        [weight, trips],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found = macs_of(model_io.from_bytes(model.SerializeToString()), {"z": (2, 3), "y": (2, 3)})
    assert found == {"inner": None, "outer": math.prod((2, 3, 3))}
