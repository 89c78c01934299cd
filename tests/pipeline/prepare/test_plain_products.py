"""Gemm and MatMul in any form that ONNX has become the one that kernels have, and keep the shape of what they make."""

import pytest

import qtool
from qtool.graph.layers import Layer
from tests.support.patterns import Net
from tests.support.runs import Build, operators, prepared


def gemm(*bias: int, computed: bool = False, **attributes: float) -> Build:
    """Gemm 12 -> 8 with a bias of that shape."""

    def build(net: Net) -> str:
        added = net.const(net.rng.normal(size=bias))
        added = net("Sigmoid", added) if computed else added
        shape = (8, 12) if attributes.get("transB") else (12, 8)
        return net("Gemm", "x", net.weight(*shape, inputs=12), added, **attributes)

    return build


def computed(net: Net, **attributes: float) -> str:
    other = net("MatMul", "x", net.weight(12, 8, inputs=12))
    return net("Gemm", "x", net.weight(12, 8, inputs=12), other, **attributes)


GEMMS: dict[str, tuple[Build, dict[str, int]]] = {
    "alpha": (gemm(8, alpha=2.0), {"Gemm": 1}),
    "alpha, transB": (gemm(8, alpha=-0.3, transB=1), {"Gemm": 1}),
    "alpha, no bias": (lambda n: n.gemm("x", 12, 8, bias=False, alpha=0.5), {"Gemm": 1}),
    "beta": (gemm(8, beta=0.5), {"Gemm": 1}),
    "beta 0": (gemm(8, beta=0.0), {"Gemm": 1}),
    "both": (gemm(8, alpha=2.0, beta=0.5, transB=1), {"Gemm": 1}),
    "bias [1, N]": (gemm(1, 8), {"Gemm": 1}),
    "bias [1, N], both": (gemm(1, 8, alpha=3.0, beta=2.0), {"Gemm": 1}),
    "bias []": (gemm(beta=0.5), {"Gemm": 1}),
    "bias [1]": (gemm(1), {"Gemm": 1}),
    "bias [1, 1]": (gemm(1, 1, beta=3.0), {"Gemm": 1}),
    "bias [M, 1]": (gemm(3, 1, beta=3.0), {"Gemm": 1, "Add": 1}),
    "bias [M, N]": (gemm(3, 8, alpha=2.0), {"Gemm": 1, "Add": 1}),
    "bias computed of constants": (gemm(8, computed=True, beta=2.0), {"Gemm": 1}),
    "bias computed": (computed, {"Gemm": 2, "Add": 1}),
    "bias computed, both": (lambda n: computed(n, alpha=2.0, beta=0.5), {"Gemm": 1, "MatMul": 1, "Add": 1, "Mul": 1}),
}


@pytest.mark.parametrize("name", GEMMS)
def test_a_gemm_becomes_plain(name, tmp_path):
    build, expected = GEMMS[name]
    net = Net(12, batch=3)
    result = prepared(net, net("Tanh", build(net)), tmp_path)
    assert operators(result) == {"Tanh": 1, **expected}
    layers = [Layer(node, found.operator) for node in result.model.graph
              if node.op_type == "Gemm" and (found := Layer.of(node)) is not None]  # fmt: skip
    assert len(layers) == expected["Gemm"]
    for layer in layers:
        assert (layer.alpha, layer.beta) == (1.0, 1.0)
        assert layer.bias is None or list(layer.bias.shape or ()) == [8]


@pytest.mark.parametrize("factor", [1e39, 1e38], ids=["is infinite itself", "makes the weight infinite"])
def test_a_gemm_whose_numbers_would_not_be_finite_stays(factor, tmp_path):
    net = Net(12, batch=3)
    made = net("Gemm", net("Mul", "x", net.const(1e-30)), net.const(net.rng.normal(size=(12, 8)) * 30), alpha=factor)
    source = net.save(tmp_path / "m.onnx", net("Tanh", made))
    with pytest.raises(qtool.QtoolError, match=r"alpha is not 1|Infinity|Inf"):
        qtool.quantize(source, tmp_path / "q.onnx", form="weight-only")


# the shape of x without its batch -> of the weight, operators of the result
MATMULS = {
    "[1, K, N]": ((4, 12), (1, 12, 8), {"MatMul": 1}),
    "[1, 1, K, N]": ((4, 4, 12), (1, 1, 12, 8), {"MatMul": 1}),
    "[1, K, N] under rank 4": ((2, 4, 12), (1, 12, 8), {"MatMul": 1}),
    "[1, K, N] over rank 2": ((12,), (1, 12, 8), {"MatMul": 1, "Unsqueeze": 1}),
    "[1, 1, K, N] over rank 2": ((12,), (1, 1, 12, 8), {"MatMul": 1, "Unsqueeze": 1}),
    "[1, 1, K, N] over rank 3": ((4, 12), (1, 1, 12, 8), {"MatMul": 1, "Unsqueeze": 1}),
}


@pytest.mark.parametrize("name", MATMULS)
@pytest.mark.parametrize("is_output", [False, True])
def test_a_weight_with_dimensions_of_one_is_a_matrix(name, is_output, tmp_path):
    shape, weight, expected = MATMULS[name]
    net = Net(*shape)
    made = net("MatMul", "x", net.weight(*weight, inputs=12))
    result = prepared(net, made if is_output else net("Tanh", made), tmp_path)
    assert operators(result) == {**expected, **({} if is_output else {"Tanh": 1})}
    (layer,) = filter(None, map(Layer.of, result.model.graph))
    assert layer.weight is not None and list(layer.weight.shape or ()) == [12, 8]


def test_a_weight_that_several_read_stays_one(tmp_path):
    net = Net(4, 12)
    weight = net.weight(1, 12, 12, inputs=12)
    result = prepared(net, net("MatMul", net("Tanh", net("MatMul", "x", weight)), weight), tmp_path)
    assert len(result.model.graph.initializers) == 1


def test_weights_of_several_matrices_stay(tmp_path):
    net = Net(4, 12, batch=2)
    result = prepared(net, net("MatMul", "x", net.weight(2, 12, 8, inputs=12)), tmp_path)
    assert "plain_products" not in result.changes
