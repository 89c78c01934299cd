"""Passes that leave onnxruntime's own transformers nothing to do; docs/onnxruntime-transformers.md has the list."""

from collections import Counter

import numpy as np
import pytest

from qtool.core.errors import ModelError
from tests.support.patterns import Net
from tests.support.runs import prepared
from tests.support.since import has


def operators(done) -> Counter:
    return Counter(node.op_type for node in done.model.graph)


def product(net: Net, x: str = "x", before: int = 8, after: int = 8) -> str:
    return net("MatMul", x, net.weight(before, after, inputs=before))


@pytest.mark.parametrize("added", ["computed", "column", "matrix"])
def test_a_product_of_rank_2_is_a_gemm_apart_from_what_is_added(added, tmp_path):
    net = Net(8, batch=3)
    other = {
        "computed": lambda: "x",
        "column": lambda: net.const(np.arange(3.0).reshape(3, 1)),
        "matrix": lambda: net.const(np.arange(24.0).reshape(3, 8)),
    }[added]()
    done = prepared(net, net("Tanh", net("Add", product(net), other)), tmp_path)
    assert operators(done) == {"Gemm": 1, "Add": 1, "Tanh": 1}


@pytest.mark.parametrize(("reader", "bias"), [("Sum", 1), ("Transpose", 1), ("Add", 0), ("Tanh", 0)])
def test_a_gemm_without_bias_in_front_of_a_sum_or_a_transpose_gets_one(reader, bias, tmp_path):
    net = Net(8, batch=8)
    gemm = net.gemm("x", 8, 8, bias=False)
    last = net(reader, gemm, "x") if reader in ("Sum", "Add") else net(reader, gemm)
    done = prepared(net, last, tmp_path)
    (node,) = (node for node in done.model.graph if node.op_type == "Gemm")
    assert done.changes.get("gemm_bias", 0) == bias
    assert len(node.inputs) == 2 + bias
    assert not bias or not node.inputs[2].const_value.numpy().any()


def test_a_gemm_with_other_readers_gets_no_bias(tmp_path):
    net = Net(8, batch=8)
    gemm = net.gemm("x", 8, 8, bias=False)
    assert "gemm_bias" not in prepared(net, (net("Sum", gemm, "x"), net("Tanh", gemm)), tmp_path).changes


def twice(make):
    """Two branches from `make`, behind different operators."""

    def build(net: Net) -> tuple[str, ...]:
        return net("Sigmoid", make(net)), net("Tanh", make(net))

    return build


def shared_weight(net: Net) -> str:
    if "w" not in net.constants:
        net.weight(8, 8, inputs=8, name="w")
    return net("MatMul", "x", "w")


def same_bytes(net: Net) -> str:
    return net("Gemm", "x", net.const(np.arange(32.0).reshape(8, 4) / 64), net.const(np.ones(4)))


def chain(net: Net) -> str:
    return net("Relu", shared_weight(net))


def other_bytes(net: Net) -> str:
    return net("Gemm", "x", net.weight(8, 4, inputs=8))


def other_attribute(net: Net) -> str:
    return net("LeakyRelu", "x", alpha=0.1 * (1 + len(net.nodes)))


def random_numbers(net: Net) -> str:
    return net("Mul", "x", net("RandomNormalLike", "x", seed=1.0, mean=1.0, scale=1e-9))


@pytest.mark.parametrize("make", [shared_weight, same_bytes, chain])
def test_nodes_that_compute_the_same_become_one(make, tmp_path):
    net = Net(8)
    made = operators(prepared(net, twice(make)(net), tmp_path))
    assert made.pop("Sigmoid") == made.pop("Tanh") == 1
    assert set(made.values()) == {1}


@pytest.mark.parametrize("make", [other_bytes, other_attribute, random_numbers])
def test_nodes_that_may_differ_stay_two(make, tmp_path):
    net = Net(8)
    assert "merge_equal" not in prepared(net, twice(make)(net), tmp_path).changes


def test_equal_layers_that_are_outputs_keep_their_names(tmp_path):
    net = Net(8)
    names = (shared_weight(net), shared_weight(net))
    done = prepared(net, names, tmp_path)
    assert tuple(value.name for value in done.model.graph.outputs) == names
    assert operators(done) == {"MatMul": 1, "Identity": 1}


def test_other_equal_outputs_stay_two(tmp_path):
    net = Net(8)
    done = prepared(net, (net("Tanh", "x"), net("Tanh", "x")), tmp_path)
    assert operators(done) == {"Tanh": 2}


def resized(net: Net, *given: str, **attributes: object) -> str:
    return net("Tanh", net("Resize", "x", *given, **attributes))


@pytest.mark.parametrize(
    ("axes", "scales", "sizes", "whole"),
    [
        ((2, 3), (2.0, 3.0), None, (1, 1, 2, 3)),
        ((3, 2), (2.0, 3.0), None, (1, 1, 3, 2)),
        ((-1,), (0.5,), None, (1, 1, 1, 0.5)),
        ((2, 3), None, (12, 5), (1, 1, 1.5, 0.625)),
    ],
)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_a_resize_of_some_axes_is_one_of_all(axes, scales, sizes, whole, mode, tmp_path):
    net = Net(3, 8, 8, opset=18)
    given = ["", net.const(scales)] if sizes is None else ["", "", net.const(sizes, dtype=np.int64)]
    if min(axes) < 0 and not has("negative-axes"):
        with pytest.raises(ModelError, match=r"onnxruntime cannot load it: .*Scale value should be greater than 0"):
            prepared(net, resized(net, *given, axes=axes, mode=mode), tmp_path)
        return
    done = prepared(net, resized(net, *given, axes=axes, mode=mode), tmp_path)
    (node,) = (node for node in done.model.graph if node.op_type == "Resize")
    assert "axes" not in node.attributes
    assert tuple(node.inputs[2].const_value.numpy()) == whole


@pytest.mark.parametrize("kind", ["aspect ratio", "region", "not exact"])
def test_other_resizes_keep_their_axes(kind, tmp_path):
    net = Net(3, 8, 7, opset=18)
    sizes = ["", "", net.const([12, 5], dtype=np.int64)]
    if kind == "aspect ratio":
        made = resized(net, *sizes, axes=[2, 3], mode="linear", keep_aspect_ratio_policy="not_larger")
    elif kind == "region":
        region = net.const([0.0, 0.0, 1.0, 1.0])
        crop = {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"}
        made = resized(net, region, net.const([2.0, 2.0]), axes=[2, 3], **crop)
    else:
        # 7 times the nearest float32 of 31 / 7 is less than 31
        net = Net(3, 8, 7, opset=18)
        made = resized(net, "", "", net.const([31], dtype=np.int64), axes=[3])
    done = prepared(net, made, tmp_path)
    assert "resize_axes" not in done.changes
