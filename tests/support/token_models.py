"""Small models over tokens [N, T, C]: a transformer block as exporters write it, and recurrent layers."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.patterns import Net

WIDTH, HEADS, VOCABULARY = 32, 4, 4096


def layer_norm(net: Net, x: str, scale: np.ndarray) -> str:
    """Written out, as before opset 17."""
    centred = net("Sub", x, net("ReduceMean", x, axes=[-1]))
    square = net("Pow", centred, net.const(2.0))
    deviation = net("Sqrt", net("Add", net("ReduceMean", square, axes=[-1]), net.const(1e-5)))
    return net("Add", net("Mul", net("Div", centred, deviation), net.const(scale)), net.bias(len(scale)))


def dense(net: Net, x: str, before: int, after: int, name: str) -> str:
    """MatMul and Add."""
    return net("Add", net("MatMul", x, net.weight(before, after, inputs=before), name=name), net.bias(after))


def block(net: Net, x: str, mask: str, outlier: float, width: int, heads: int, prefix: str = "") -> str:
    """Attention and a feed-forward part, normalised behind each residual (as BERT); two channels are larger."""
    outliers, even = np.ones(width), np.ones(width)
    outliers[[3, 17]] = outlier
    x = layer_norm(net, x, outliers)
    size = width // heads
    split = net.const([0, 0, heads, size], dtype=np.int64)

    def head(name: str, perm: list[int]) -> str:
        return net("Transpose", net("Reshape", dense(net, x, width, width, prefix + name), split), perm=perm)

    q, k, v = head("query", [0, 2, 1, 3]), head("key", [0, 2, 3, 1]), head("value", [0, 2, 1, 3])
    scores = net("Mul", net("MatMul", q, k, name=f"{prefix}scores"), net.const(1.0 / size**0.5))
    weights = net("Softmax", net("Add", scores, mask), axis=-1)
    context = net("MatMul", weights, v, name=f"{prefix}context")
    joined = net("Reshape", net("Transpose", context, perm=[0, 2, 1, 3]), net.const([0, 0, width], dtype=np.int64))
    x = layer_norm(net, net("Add", dense(net, joined, width, width, f"{prefix}attended"), x), even)
    wide = dense(net, x, width, 4 * width, f"{prefix}widen")
    half = net("Mul", wide, net.const(0.5))
    gelu = net("Mul", half, net("Add", net("Erf", net("Div", wide, net.const(2.0**0.5))), net.const(1.0)))
    return layer_norm(net, net("Add", dense(net, gelu, 4 * width, width, f"{prefix}narrow"), x), even)


def encoder(
    outlier: float = 40.0,
    masked: float = -10000.0,
    *,
    layers: int = 1,
    width: int = WIDTH,
    heads: int = HEADS,
    vocabulary: int = VOCABULARY,
) -> onnx.ModelProto:
    """ids and mask, int64 [N, T] -> logits [N, 2]: an embedding, blocks with a padding mask, a mean, a head."""
    net = Net()
    table = net.weight(vocabulary, width, inputs=4, name="table")
    real = net("Cast", "mask", to=TensorProto.FLOAT)
    spread = net("Unsqueeze", real, net.const([1, 2], dtype=np.int64))
    padding = net("Mul", net("Sub", net.const(1.0), spread), net.const(masked))
    y = net("Gather", table, "ids", name="embedding")
    for layer in range(layers):
        y = block(net, y, padding, outlier, width, heads, "" if layers == 1 else f"layer{layer}_")
    kept = net("Mul", y, net("Unsqueeze", real, net.const([2], dtype=np.int64)))
    total = net("ReduceSum", kept, net.const([1], dtype=np.int64), keepdims=0)
    count = net("ReduceSum", real, net.const([1], dtype=np.int64), keepdims=1)
    logits = net.gemm(net("Div", total, count), width, 2)
    shape = ["N", "T"]
    graph = helper.make_graph(
        net.nodes,
        "encoder",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("ids", "mask")],
        [helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(array, name) for name, array in net.constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def decoder(*, layers: int, width: int, heads: int, vocabulary: int) -> onnx.ModelProto:
    """ids, int64 [N, T] -> logits [N, T, vocabulary]: an embedding, blocks that see what came before, a head."""
    net = Net()
    table = net.weight(vocabulary, width, inputs=4, name="table")
    length = net("Gather", net("Shape", "ids"), net.const(1, dtype=np.int64))
    places = net("Range", net.const(0, dtype=np.int64), length, net.const(1, dtype=np.int64))
    later = net("Less", net("Unsqueeze", places, net.const([1], dtype=np.int64)), places)
    mask = net("Mul", net("Cast", later, to=TensorProto.FLOAT), net.const(-40.0))
    y = net("Gather", table, "ids", name="embedding")
    for layer in range(layers):
        y = block(net, y, mask, 4.0, width, heads, f"layer{layer}_")
    logits = net("MatMul", y, net.weight(width, vocabulary, inputs=width), name="head")
    graph = helper.make_graph(
        net.nodes,
        "decoder",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "T"])],
        [helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["N", "T", vocabulary])],
        [numpy_helper.from_array(array, name) for name, array in net.constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def sentences(
    count: int, *, padded: bool = False, longest: int = 12, vocabulary: int = VOCABULARY
) -> list[dict[str, np.ndarray]]:
    """Batches of one, of a third of `longest` tokens to all of them."""
    rng = np.random.default_rng(11)
    result = []
    for _ in range(count):
        length = int(rng.integers(longest // 3, longest + 1))
        ids = rng.integers(0, vocabulary, (1, length))
        mask = np.ones((1, length), np.int64)
        if padded:
            ids, mask = (np.pad(a, ((0, 0), (0, longest - length))) for a in (ids, mask))
        result.append({"ids": ids, "mask": mask})
    return result


def recurrent(op: str, *, inputs: int = 16, hidden: int = 24, directions: int = 1) -> Net:
    """An LSTM, GRU or RNN over [T, N, inputs]; the output is called `y_out`."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    net = Net(5, inputs, batch="T")
    w = net.weight(directions, gates * hidden, inputs, inputs=inputs)
    r = net.weight(directions, gates * hidden, hidden, inputs=hidden)
    b = net.const(net.rng.normal(size=(directions, 2 * gates * hidden)) * 0.1)
    direction = "bidirectional" if directions == 2 else "forward"
    states = net(op, "x", w, r, b, outputs=2, name="recurrent", hidden_size=hidden, direction=direction)
    net("Identity", states[0], name="y")
    return net
