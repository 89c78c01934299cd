"""Random small graphs of the operators of the tables, over images and over tokens, and random exclusions of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from qtool.core.records.options import Scheme
from qtool.targets.tables import TARGETS
from tests.support.patterns import Array, Net

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    """A model to be, what it hands out, and data for it."""

    net: Net
    outputs: tuple[str, ...]
    data: dict[str, Array]


class _Grower:
    """Adds nodes to a net at random; `values` are the tensors that may be read, with their shapes but for the batch."""

    def __init__(self, net: Net, rng: np.random.Generator) -> None:
        self.net, self.rng = net, rng
        self.values: dict[str, Shape] = {"x": net.shape}

    def pick(self, shape: Shape | None = None) -> str:
        """A value, of this shape if one is given, rather one of the last ones."""
        return str(self.rng.choice([v for v, s in self.values.items() if shape in (None, s)][-5:]))

    def ints(self, *values: int) -> str:
        return self.net.const(values, dtype=np.int64)

    def grow(self, steps: dict[str, Callable[["_Grower"], None]], count: int) -> None:
        for name in self.rng.choice(list(steps), count):
            steps[name](self)

    def outputs(self) -> tuple[str, ...]:
        """What nobody reads."""
        read = {name for node in self.net.nodes for name in node.input}
        return tuple(name for name in self.values if name not in read and name != "x")


def _unary(op: str, **attributes: Any) -> Callable[[_Grower], None]:
    def step(g: _Grower) -> None:
        x = g.pick()
        g.values[g.net(op, x, **attributes)] = g.values[x]

    return step


def _conv(g: _Grower) -> None:
    x = g.pick()
    channels, *sizes = g.values[x]
    after = int(g.rng.choice([4, 8]))
    kernel = (3, 3) if min(sizes) > 2 else (1, 1)
    y = g.net.conv(x, channels, after, kernel=kernel, bias=bool(g.rng.integers(2)))
    g.values[y] = (after, *sizes)


def _conv_transpose(g: _Grower) -> None:
    x = g.pick()
    channels, h, w = g.values[x]
    if h * w > 100:
        return
    y = g.net("ConvTranspose", x, g.net.weight(channels, 4, 2, 2, inputs=channels), strides=[2, 2])
    g.values[y] = (4, 2 * h, 2 * w)


def _pool(op: str) -> Callable[[_Grower], None]:
    def step(g: _Grower) -> None:
        x = g.pick()
        channels, h, w = g.values[x]
        if min(h, w) > 3:
            g.values[g.net(op, x, kernel_shape=[2, 2], strides=[2, 2])] = (channels, h // 2, w // 2)

    return step


def _gate(g: _Grower) -> None:
    x = g.pick()
    pooled = g.net("GlobalAveragePool", x)
    gate = g.net(str(g.rng.choice(["Sigmoid", "HardSigmoid"])), pooled)
    g.values[pooled] = (g.values[x][0], 1, 1)
    g.values[g.net("Mul", x, gate)] = g.values[x]


def _binary(op: str) -> Callable[[_Grower], None]:
    def step(g: _Grower) -> None:
        x = g.pick()
        g.values[g.net(op, x, g.pick(g.values[x]))] = g.values[x]

    return step


def _with_constant(op: str) -> Callable[[_Grower], None]:
    def step(g: _Grower) -> None:
        x = g.pick()
        shape = (g.values[x][0],) + (1,) * (len(g.values[x]) - 1)
        g.values[g.net(op, x, g.net.const(g.rng.uniform(0.5, 1.5, shape)))] = g.values[x]

    return step


def _concat(g: _Grower) -> None:
    x = g.pick()
    y = g.pick(g.values[x])
    size, *rest = g.values[x]
    if size <= 8:
        g.values[g.net("Concat", x, y, axis=1)] = (2 * size, *rest)


def _resize(mode: str) -> Callable[[_Grower], None]:
    def step(g: _Grower) -> None:
        x = g.pick()
        channels, h, w = g.values[x]
        if h * w <= 64:
            scales = g.net.const([1, 1, 2, 2])
            g.values[g.net("Resize", x, "", scales, mode=mode)] = (channels, 2 * h, 2 * w)

    return step


def _transpose(g: _Grower) -> None:
    x = g.pick()
    *first, a, b = g.values[x]
    n = len(g.values[x])
    g.values[g.net("Transpose", x, perm=[*range(n - 1), n, n - 1])] = (*first, b, a)


def _reshape(g: _Grower) -> None:
    x = g.pick()
    *first, a, b = g.values[x]
    if a % 2 == 0:
        g.values[g.net("Reshape", x, g.ints(0, *first, a // 2, 2 * b))] = (*first, a // 2, 2 * b)


def _flat(g: _Grower) -> None:
    """Unsqueeze, or back."""
    x = g.pick()
    there = g.net("Unsqueeze", x, g.ints(2))
    g.values[g.net("Squeeze", there, g.ints(2))] = g.values[x]


def _slice(g: _Grower) -> None:
    x = g.pick()
    size, *rest = g.values[x]
    if size >= 4:
        g.values[g.net("Slice", x, g.ints(0), g.ints(size // 2), g.ints(1))] = (size // 2, *rest)


def _split(g: _Grower) -> None:
    x = g.pick()
    size, *rest = g.values[x]
    if size >= 4 and size % 2 == 0:
        a, b = g.net("Split", x, outputs=2, axis=1)
        g.values[a] = g.values[b] = (size // 2, *rest)


def _gather(g: _Grower) -> None:
    x = g.pick()
    *first, size = g.values[x]
    if size > 1:
        g.values[g.net("Gather", x, g.ints(0, size - 1), axis=len(g.values[x]))] = (*first, 2)


def _tile(g: _Grower) -> None:
    x = g.pick()
    *first, size = g.values[x]
    if size <= 8:
        repeats = g.ints(1, *(1 for _ in first), 2)
        g.values[g.net("Tile", x, repeats)] = (*first, 2 * size)


def _expand(g: _Grower) -> None:
    x = g.pick()
    largest = g.net("ReduceMax", x, axes=[3])
    channels, h, _ = g.values[x]
    g.values[largest] = (channels, h, 1)
    g.values[g.net("Expand", largest, g.ints(1, channels, h, 4))] = (channels, h, 4)


def _depth_to_space(g: _Grower) -> None:
    x = g.pick()
    channels, h, w = g.values[x]
    if channels % 4 == 0 and h * w <= 64:
        g.values[g.net("DepthToSpace", x, blocksize=2)] = (channels // 4, 2 * h, 2 * w)


def _where(g: _Grower) -> None:
    x = g.pick()
    mask = g.net("Greater", x, g.net.const(0.0))
    g.values[g.net("Where", mask, x, g.pick(g.values[x]))] = g.values[x]


_ANYWHERE: dict[str, Callable[[_Grower], None]] = {
    "Relu": _unary("Relu"),
    "Sigmoid": _unary("Sigmoid"),
    "LeakyRelu": _unary("LeakyRelu", alpha=0.1),
    "HardSigmoid": _unary("HardSigmoid"),
    "Tanh": _unary("Tanh"),
    "Softmax": _unary("Softmax", axis=1),
    "Add": _binary("Add"),
    "Mul": _binary("Mul"),
    "Add a constant": _with_constant("Add"),
    "Mul by a constant": _with_constant("Mul"),
    "Concat": _concat,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Squeeze": _flat,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "Tile": _tile,
    "Where": _where,
}
_IMAGES = _ANYWHERE | {
    "Conv": _conv,
    "another Conv": _conv,
    "a third Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _pool("MaxPool"),
    "AveragePool": _pool("AveragePool"),
    "GlobalAveragePool": _gate,
    "nearest": _resize("nearest"),
    "linear": _resize("linear"),
    "Expand": _expand,
    "DepthToSpace": _depth_to_space,
}


def image_graph(seed: int, size: int = 8) -> Graph:
    """A convolution or nothing, `size` random nodes, and a convolution behind each end, a Gemm, or nothing."""
    rng = np.random.default_rng(seed)
    net = Net(3, 8, 8)
    g = _Grower(net, rng)
    if rng.integers(3):
        g.values = {net.conv("x", 3, 8): (8, 8, 8)}
    g.grow(_IMAGES, size)
    ends = [net.conv("x", 3, 4)]
    for value in g.outputs():
        channels, h, w = g.values[value]
        kind = rng.integers(6)
        if kind < 3:
            ends.append(net.conv(value, channels, 4, kernel=(1, 1)))
        elif kind < 5:
            ends.append(net.gemm(net("Flatten", value), channels * h * w, 5))
        else:
            ends.append(value)
    return Graph(net, tuple(ends), net.samples(4))


def _matmul(g: _Grower) -> None:
    """A product with a new weight, with one that another layer reads too, or with a bias behind it."""
    x = g.pick()
    tokens, size = g.values[x]
    # two equal layers become one in onnxruntime
    taken = {n.input[1] for n in g.net.nodes if n.op_type == "MatMul" and n.input[0] == x}
    shared = [n for n, a in g.net.constants.items() if n.startswith("shared") and a.shape[0] == size and n not in taken]
    if shared and g.rng.integers(2):
        weight = str(g.rng.choice(shared))
    else:
        after = int(g.rng.choice([8, 16]))
        weight = g.net.weight(size, after, inputs=size, name=f"shared{len(g.net.constants)}")
    y = g.net("MatMul", x, weight)
    after = g.net.constants[weight].shape[1]
    if g.rng.integers(2):
        y = g.net("Add", y, g.net.bias(after))
    g.values[y] = (tokens, after)


def _attention(g: _Grower) -> None:
    """A product of two activations, twice."""
    x = g.pick()
    tokens, size = g.values[x]
    scores = g.net("MatMul", x, g.net("Transpose", g.pick(g.values[x]), perm=[0, 2, 1]))
    scores = g.net("Softmax", g.net("Mul", scores, g.net.const(size**-0.5)), axis=-1)
    g.values[g.net("MatMul", scores, x)] = (tokens, size)


def _normalisation(g: _Grower) -> None:
    """A layer normalisation with two large channels, whose result may have other readers."""
    x = g.pick()
    size = g.values[x][-1]
    scale = np.where(np.arange(size) % 7 == 3, 20.0, 1.0)
    g.values[g.net("LayerNormalization", x, g.net.const(scale), g.net.bias(size), axis=-1)] = g.values[x]


def _outliers(g: _Grower) -> None:
    """Channels that differ by more than 8 bits hold, with no normalisation to take them back; one is dead."""
    x = g.pick()
    size = g.values[x][-1]
    scale = np.where(np.arange(size) % 5 == 2, 50.0, 1.0)
    scale[0] = 0.0
    g.values[g.net("Mul", x, g.net.const(scale))] = g.values[x]


def _convolution_of_tokens(g: _Grower) -> None:
    """A convolution whose channels are the tokens."""
    x = g.pick()
    tokens, size = g.values[x]
    g.values[g.net.conv(x, tokens, 6, kernel=(3,))] = (6, size)


def _recurrence(g: _Grower) -> None:
    x = g.pick()
    tokens, size = g.values[x]
    turned = g.net("Transpose", x, perm=[1, 0, 2])
    weights = [g.net.weight(1, 32, n, inputs=n) for n in (size, 8)]
    made = g.net("LSTM", turned, *weights, outputs=1, hidden_size=8)[0]
    g.values[g.net("Transpose", g.net("Squeeze", made, g.ints(1)), perm=[1, 0, 2])] = (tokens, 8)


_TOKENS = _ANYWHERE | {
    "MatMul": _matmul,
    "another MatMul": _matmul,
    "a third MatMul": _matmul,
    "attention": _attention,
    "LayerNormalization": _normalisation,
    "outliers": _outliers,
    "Conv": _convolution_of_tokens,
    "LSTM": _recurrence,
}


def token_graph(seed: int, size: int = 8) -> Graph:
    """Rows of a table that is stored in 8 bits, or vectors; `size` random nodes, and a layer behind each end."""
    rng = np.random.default_rng(seed)
    net = Net(9, 16)
    g = _Grower(net, rng)
    if rng.integers(2):
        g.values = {net("Gather", net.weight(4096, 16, inputs=1), net("Cast", "x", to=7)): (9, 16)}
        net.shape = (9,)
    else:
        g.values = {net("LayerNormalization", "x", net.const(np.ones(16)), net.bias(16), axis=-1): (9, 16)}
    g.grow(_TOKENS, size)
    ends = [
        net("Add", net("MatMul", value, net.weight(g.values[value][1], 4, inputs=4)), net.bias(4))
        for value in g.outputs()
    ]
    data = net.samples(6)
    if net.shape == (9,):
        data = {"x": np.abs(np.round(data["x"] * 1000.0)).clip(0, 4095).astype(np.float32)}
    return Graph(net, tuple(ends), data)


def exclusion(graph: Graph, seed: int) -> tuple[Scheme, frozenset[str]]:
    """A scheme that leaves nodes in float, by name, by operator, or by the operators of the others; their names."""
    rng = np.random.default_rng(seed)
    nodes, kind = graph.net.nodes, rng.integers(3)
    if kind == 0:
        names = {str(n) for n in rng.choice([n.name for n in nodes], min(int(rng.integers(1, 4)), len(nodes)), False)}
        return Scheme(exclude=tuple(sorted(names))), frozenset(names)
    ops = sorted({n.op_type for n in nodes})
    if kind == 1:
        op = str(rng.choice(ops))
        return Scheme(exclude_ops=(op,)), frozenset(n.name for n in nodes if n.op_type == op)
    known = [op for op in ops if op in TARGETS["x86"].rules and TARGETS["x86"].rules[op].kind != "bridge"]
    kept = {op for op in ("Conv", "MatMul") if op in known} | {str(op) for op in rng.choice(known, len(known) // 2)}
    return Scheme(include_ops=tuple(sorted(kept))), frozenset(n.name for n in nodes if n.op_type not in kept)
