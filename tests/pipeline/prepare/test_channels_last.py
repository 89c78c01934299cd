"""channels_last: which Transposes go, what is folded then, and that everything computes the same."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from qtool.graph import model_io
from tests.support.patterns import Net
from tests.support.runs import operators, prepared, run, sqnr, steps_apart

TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
Build = Callable[[Net], str | tuple[str, ...]]


def ints(net: Net, *values: int) -> str:
    return net.const(values, dtype=np.int64)


def last(net: Net, x: str) -> str:
    return net("Transpose", x, perm=TO_LAST)


def first(net: Net, x: str) -> str:
    return net("Transpose", x, perm=TO_FIRST)


def affine(net: Net, x: str, channels: int = 8, shape: tuple[int, ...] = (1, 1, 1, -1)) -> str:
    factor, shift = net.rng.uniform(-1.5, 1.5, channels), net.rng.normal(size=channels)
    return net("Add", net("Mul", x, net.const(factor.reshape(shape))), net.const(shift.reshape(shape)))


def conv(net: Net, x: str, before: int = 8, after: int = 8) -> str:
    """Channels last in and out, as TensorFlow's exporter writes it."""
    return last(net, net.conv(first(net, x), before, after))


def between(middle: Callable[[Net, str], str], channels: int = 8) -> Build:
    """Convolutions with something channels last between them, of which `channels` come."""
    return lambda n: net_end(n, conv(n, middle(n, conv(n, "x", 3)), channels))


def net_end(net: Net, x: str) -> str:
    return net("ReduceMean", x, axes=[1, 2], keepdims=0)


def gate(net: Net, x: str) -> str:
    return net("Mul", x, net("Sigmoid", conv(net, net("ReduceMean", x, axes=[1, 2], keepdims=1))))


def resized(net: Net, x: str, **attributes: object) -> str:
    return net("Resize", x, "", net.const([1, 2, 2, 1]), mode="nearest", **attributes)


def chosen(net: Net, x: str) -> str:
    slopes = net.const(net.rng.normal(size=8))
    return net("Where", net("Greater", x, net.const(0.2)), x, net("PRelu", x, slopes))


def padded_by_the_batch(net: Net, x: str) -> str:
    batch = net("Slice", net("Shape", x), ints(net, 0), ints(net, 1))
    return net("Pad", x, net("Mul", batch, ints(net, 0, 1, *[0] * 6)))


def normalized(net: Net, x: str) -> str:
    """A layer normalisation of the channels, as it is written out."""
    centred = net("Sub", x, net("ReduceMean", x, axes=[-1]))
    variance = net("ReduceMean", net("Mul", centred, centred), axes=[-1])
    return net("Div", centred, net("Sqrt", net("Add", variance, net.const(1e-3))))


CONVS = {"Conv": 2, "Transpose": 1, "GlobalAveragePool": 1, "Flatten": 1}
CASES: dict[str, tuple[Build, dict[str, int]]] = {
    "affine": (between(affine), CONVS),
    "affine [C], Relu": (between(lambda n, x: n("Relu", affine(n, x, shape=(-1,)))), {**CONVS, "Relu": 1}),
    "affine [1, C], Clip": (
        between(lambda n, x: n("Clip", affine(n, x, shape=(1, -1)), n.const(0.0), n.const(6.0))), {**CONVS, "Clip": 1}
    ),
    "a constant a place": (
        between(lambda n, x: n("Mul", x, n.const(n.rng.normal(size=(1, 8, 8, 8))))), {**CONVS, "Mul": 1}
    ),
    "casts": (between(lambda n, x: n("Cast", affine(n, n("Cast", x, to=1)), to=1)), CONVS),
    "Pad": (between(lambda n, x: n("Pad", n("Relu", x), ints(n, 0, 1, 2, 0, 0, 0, 1, 0))), {**CONVS, "Relu": 1}),
    "Pad with a number": (
        between(lambda n, x: n("Pad", x, ints(n, 0, 1, 0, 0, 0, 2, 0, 0), n.const(0.5))), {**CONVS, "Pad": 1}
    ),
    "Concat, Split": (
        between(lambda n, x: n("Concat", x, *n("Split", affine(n, x), outputs=2, axis=-1), axis=3), 16),
        {**CONVS, "Concat": 1, "Split": 1, "Mul": 1, "Add": 1},
    ),
    "Slice": (
        between(lambda n, x: n("Slice", x, ints(n, 1, 2), ints(n, 8, 99), ints(n, 1, -1)), 6), {**CONVS, "Slice": 1}
    ),
    "Slice of the first axes": (
        between(lambda n, x: n("Slice", x, ints(n, 0, 1), ints(n, 9, 7))), {**CONVS, "Slice": 1}
    ),
    "Tile": (between(lambda n, x: n("Tile", x, ints(n, 1, 1, 2, 1))), {**CONVS, "Tile": 1}),
    "Gather": (between(lambda n, x: n("Gather", x, ints(n, 3, 1, 0), axis=3), 3), {**CONVS, "Gather": 1}),
    "Resize": (between(resized), {**CONVS, "Resize": 1}),
    "gate": (between(gate), {**CONVS, "Conv": 3, "Sigmoid": 1, "Mul": 1, "GlobalAveragePool": 2}),
    "residual": (
        between(lambda n, x: n("Relu", n("Add", affine(n, conv(n, x)), x))), {**CONVS, "Conv": 3, "Relu": 1, "Add": 1}
    ),
    "PRelu, Where": (between(chosen), {**CONVS, "Where": 1, "Greater": 1, "PRelu": 1}),
    "a shape that is read": (
        between(lambda n, x: n("Expand", n("Mul", n("ReduceMax", x, axes=[1, 2]), n.const(0.5)), n("Shape", x))),
        {**CONVS, "ReduceMax": 1, "Mul": 1, "Expand": 1, "Shape": 1, "Transpose": 3},
    ),
    "read in the middle": (
        lambda n: (x := affine(n, conv(n, "x", 3)), net_end(n, conv(n, x)))[::-1], {**CONVS, "Transpose": 2}
    ),
    "the end is channels first": (
        lambda n: first(n, n("Relu", affine(n, conv(n, "x", 3)))), {"Conv": 1, "Relu": 1, "Transpose": 1}
    ),
    "both layouts are read": (
        lambda n: (y := n("Relu", affine(n, conv(n, "x", 3))), net_end(n, conv(n, y)), first(n, y))[1:],
        {**CONVS, "Relu": 1},
    ),
    "a head": (
        lambda n: n("Reshape", n("Relu", affine(n, conv(n, "x", 3))), ints(n, 0, -1, 8)),
        {"Conv": 1, "Relu": 1, "Transpose": 2, "Reshape": 1},
    ),
    "Flatten of one place": (
        lambda n: n("Flatten", n("ReduceMax", affine(n, conv(n, "x", 3)), axes=[1, 2])),
        {"Conv": 1, "Transpose": 1, "ReduceMax": 1, "Flatten": 1},
    ),
    "Squeeze": (
        lambda n: n("Squeeze", n("ReduceMax", affine(n, conv(n, "x", 3)), axes=[1, 2]), ints(n, 1, 2)),
        {"Conv": 1, "Transpose": 1, "ReduceMax": 1, "Squeeze": 1},
    ),
    "a product at the end": (
        lambda n: n("MatMul", n("Relu", affine(n, conv(n, "x", 3))), n.weight(8, 5, inputs=8)),
        {"Conv": 1, "Relu": 1, "Transpose": 2, "MatMul": 1},
    ),
    "another permutation behind it": (
        lambda n: n("MatMul", n("Transpose", n("Relu", conv(n, "x", 3)), perm=[0, 2, 1, 3]), n.weight(8, 5, inputs=8)),
        {"Conv": 1, "Relu": 1, "Transpose": 2, "MatMul": 1},
    ),
}  # fmt: skip
LEFT: dict[str, tuple[Build, int]] = {
    "a normalisation of channels last": (between(normalized), 3),
    "a computed operand of fewer dimensions": (
        between(lambda n, x: n("Mul", x, n("ReduceMean", x, axes=[0, 1, 2], keepdims=0))), 3
    ),
    "nothing goes": (lambda n: n("Softmax", n("Tanh", last(n, n.conv(first(n, "x"), 3, 8)))), 2),
    "a Reshape between": (between(lambda n, x: n("Reshape", x, ints(n, 0, 4, 16, 8))), 3),
    "computed places": (between(padded_by_the_batch), 3),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_transposes_go(name, tmp_path):
    build, expected = CASES[name]
    net = Net(8, 8, 3)
    result = prepared(net, build(net), tmp_path)
    assert operators(result) == expected
    assert result.changes["channels_last"] >= 1


@pytest.mark.parametrize("name", LEFT)
def test_transposes_stay(name, tmp_path):
    build, count = LEFT[name]
    net = Net(8, 8, 3)
    result = prepared(net, build(net), tmp_path)
    assert operators(result)["Transpose"] == count


@pytest.mark.parametrize(
    ("shape", "perm", "scales", "count"),
    [
        ((4, 5, 3), [0, 3, 1, 2], [1, 1, 2, 2], 0),
        ((4, 5, 3), [0, 2, 1, 3], [1, 1, 2, 2], 2),
        ((2, 4, 5, 3), [0, 4, 1, 2, 3], [1, 1, 2, 2, 2], 2),
    ],
)
def test_interpolation_stays_on_axes_that_onnxruntime_has(shape, perm, scales, count, tmp_path):
    net = Net(*shape)
    larger = net("Resize", net("Transpose", "x", perm=perm), "", net.const(scales), mode="linear")
    last = net("Relu", net("Transpose", larger, perm=np.argsort(perm).tolist()))
    assert operators(prepared(net, last, tmp_path)).get("Transpose", 0) == count


@pytest.mark.parametrize(("shape", "perm"), [((9, 3), [0, 2, 1]), ((4, 5, 6, 3), [0, 4, 1, 2, 3])])
def test_other_ranks(shape, perm, tmp_path):
    net = Net(*shape)
    back = np.argsort(perm).tolist()
    kernel = (3,) * (len(shape) - 1)
    made = net.conv(net("Transpose", "x", perm=perm), 3, 8, kernel=kernel)
    made = net("Relu", affine(net, net("Transpose", made, perm=back), shape=(-1,)))
    made = net.conv(net("Transpose", made, perm=perm), 8, 4, kernel=kernel)
    result = prepared(net, made, tmp_path)
    assert operators(result) == {"Transpose": 1, "Conv": 2, "Relu": 1}


def test_what_a_subgraph_reads_stays_as_it_is(tmp_path):
    net = Net(8, 8, 3, batch=1)
    made = affine(net, conv(net, "x", 3))
    branches = {}
    for name, op in (("then_branch", "Relu"), ("else_branch", "Neg")):
        node = onnx.helper.make_node(op, [made], [name], f"{name}_node")
        branches[name] = onnx.helper.make_graph([node], name, [], [onnx.helper.make_empty_tensor_value_info(name)])
    large = net("Greater", net("ReduceMax", "x", keepdims=0), net.const(0.0))
    result = prepared(net, (net("If", large, **branches), net_end(net, conv(net, made))), tmp_path)
    assert operators(result)["Transpose"] == 2
    assert "Mul" not in operators(result)


def test_layers_and_additions_become_integer(tmp_path):
    """A residual network channels last: nothing but integer layers, sums and a mean is left on the optimised graph."""
    net = Net(8, 8, 3)
    x = net("Relu", affine(net, conv(net, "x", 3)))
    x = net("Relu", net("Add", affine(net, conv(net, x)), x))
    made = run(net, (net.gemm(net_end(net, conv(net, x)), 8, 5),), tmp_path)
    kernels = {op: n for op, n in made.kernels.items() if op.startswith("QLinear") or op in ("Relu", "Mul", "Add")}
    assert kernels == {"QLinearConv": 3, "QLinearAdd": 1, "QLinearGlobalAveragePool": 1}
    assert steps_apart(made) < 1.5
    assert sqnr(made) > 20


def random_net(seed: int) -> tuple[Net, tuple[str, ...]]:
    """Operators of all kinds in both layouts, joined at random; several are read twice, and some are outputs."""
    rng = np.random.default_rng(seed)
    net = Net(6, 6, 4, batch="N" if seed % 2 else 2, opset=int(rng.choice([13, 17, 19])))
    net.rng = rng
    # name, whether channels last
    pool = [("x", True)]
    for _ in range(int(rng.integers(8, 22))):
        x, is_last = pool[int(rng.integers(max(0, len(pool) - 4), len(pool)))]
        beside = [v for v, layout in pool if layout == is_last]
        shape = (1, 1, 1, 4) if is_last else (1, 4, 1, 1)
        spatial, channel = ([1, 2], 3) if is_last else ([2, 3], 1)
        kind = int(rng.integers(12))
        if kind < 3:
            pool.append((first(net, x) if is_last else last(net, x), not is_last))
            continue
        if kind == 3:
            made = conv(net, x, 4, 4) if is_last else net.conv(x, 4, 4)
        elif kind < 6:
            made = net(str(rng.choice(["Mul", "Add", "Sub"])), x, net.const(rng.normal(size=shape)))
        elif kind == 6:
            made = net(str(rng.choice(["Relu", "Sigmoid", "Tanh"])), x)
        elif kind == 7:
            made = net("Add", x, str(rng.choice(beside)))
        elif kind == 8:
            axes = {"axes": spatial} if net.opset < 18 else {}
            mean = net("ReduceMean", x, *([] if axes else [ints(net, *spatial)]), **axes)
            made = net("Mul", x, net("Sigmoid", mean))
        elif kind == 9:
            both = net("Concat", x, str(rng.choice(beside)), axis=channel)
            made = net("Slice", both, ints(net, 2), ints(net, 6), ints(net, channel - 4))
        elif kind == 10:
            pads = [0] * 8
            pads[spatial[0]] = 1
            padded = net("Pad", x, ints(net, *pads), net.const(0.25))
            made = net("Slice", padded, ints(net, 0), ints(net, 6), ints(net, spatial[0]))
        else:
            made = net("Softmax", x, axis=int(rng.choice([-1, 1])))
        pool.append((made, is_last))
    outputs = [pool[-1][0], *(v for v, _ in pool[1:-1] if rng.random() < 0.12)]
    return net, tuple(dict.fromkeys(outputs))


@pytest.mark.parametrize("seed", range(8))
def test_random_layouts(seed, tmp_path):
    """The reference evaluator agrees, and there are never more Transposes than before."""
    net, outputs = random_net(seed)
    result = prepared(net, outputs, tmp_path)
    before = sum(node.op_type == "Transpose" for node in net.nodes)
    assert operators(result).get("Transpose", 0) <= before
    fed = net.samples(2)
    wanted = ReferenceEvaluator(net.model(*outputs)).run(None, fed)
    found = ReferenceEvaluator(onnx.load_from_string(model_io.to_bytes(result.model))).run(None, fed)
    for a, b in zip(wanted, found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)
