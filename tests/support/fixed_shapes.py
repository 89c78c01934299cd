"""Small transformers as exporters write them for one fixed shape, and the same with a free batch."""

from collections.abc import Callable

import numpy as np

from tests.support.patterns import Net
from tests.support.token_models import dense

WIDTH, HEADS, TOKENS = 16, 2, 6


def attention(net: Net, x: str, prefix: str) -> str:
    """Self-attention of [N, TOKENS, WIDTH], without its residual."""
    size = WIDTH // HEADS
    split = net.const([0, TOKENS, HEADS, size], dtype=np.int64)

    def head(name: str, perm: list[int]) -> str:
        return net("Transpose", net("Reshape", dense(net, x, WIDTH, WIDTH, prefix + name), split), perm=perm)

    q, k, v = head("query", [0, 2, 1, 3]), head("key", [0, 2, 3, 1]), head("value", [0, 2, 1, 3])
    weights = net("Softmax", net("Mul", net("MatMul", q, k), net.const(size**-0.5)), axis=-1)
    joined = net("Transpose", net("MatMul", weights, v), perm=[0, 2, 1, 3])
    whole = net("Reshape", joined, net.const([0, TOKENS, WIDTH], dtype=np.int64))
    return dense(net, whole, WIDTH, WIDTH, f"{prefix}attended")


def feed_forward(net: Net, x: str, prefix: str, activation: str = "Gelu") -> str:
    """Two layers with an activation between, without the residual."""
    return dense(net, net(activation, dense(net, x, WIDTH, 32, f"{prefix}widen")), 32, WIDTH, f"{prefix}narrow")


def normalised(net: Net, x: str) -> str:
    """LayerNormalization over the last axis."""
    return net("LayerNormalization", x, net.const(np.ones(WIDTH)), net.bias(WIDTH), axis=-1)


def vit(net: Net) -> str:
    """A picture [N, 3, 8, 12] -> class scores: patches by a convolution, a block, a mean, a head."""
    weight = net.weight(WIDTH, 3, 4, 4, inputs=48)
    patches = net("Conv", "x", weight, net.bias(WIDTH), strides=[4, 4], kernel_shape=[4, 4], name="patches")
    rows = net("Reshape", patches, net.const([0, WIDTH, TOKENS], dtype=np.int64))
    x = net("Add", net("Transpose", rows, perm=[0, 2, 1]), net.const(net.rng.normal(size=(1, TOKENS, WIDTH)) * 0.2))
    x = net("Add", x, attention(net, normalised(net, x), ""))
    x = net("Add", x, feed_forward(net, normalised(net, x), ""))
    return net.gemm(net("ReduceMean", normalised(net, x), net.const([1], dtype=np.int64), keepdims=0), WIDTH, 5)


def bert(net: Net) -> str:
    """Embedded tokens [N, TOKENS, WIDTH] -> the same: a block that is normalised behind its residuals, and a head."""
    x = normalised(net, net("Add", "x", attention(net, "x", "")))
    x = normalised(net, net("Add", feed_forward(net, x, ""), x))
    return dense(net, x, WIDTH, 4, "head")


def resmlp(net: Net) -> str:
    """Tokens [N, TOKENS, WIDTH] -> the same: layers over tokens and over channels in turns, with affine scales."""

    def affine(x: str) -> str:
        scaled = net("Mul", x, net.const(net.rng.uniform(0.5, 1.5, size=(1, 1, WIDTH))))
        return net("Add", scaled, net.const(net.rng.normal(size=(1, 1, WIDTH)) * 0.1))

    x = "x"
    for block in ("a", "b"):
        turned = net("Transpose", affine(x), perm=[0, 2, 1])
        mixed = net("Transpose", dense(net, turned, TOKENS, TOKENS, f"{block}tokens"), perm=[0, 2, 1])
        x = net("Add", x, net("Mul", mixed, net.const(np.full(WIDTH, 0.7))))
        x = net("Add", x, feed_forward(net, affine(x), block))
    return x


MODELS: dict[str, tuple[Callable[[Net], str], tuple[int, ...]]] = {
    "vit": (vit, (3, 8, 12)),
    "bert": (bert, (TOKENS, WIDTH)),
    "resmlp": (resmlp, (TOKENS, WIDTH)),
}


def transformer(name: str, batch: int | str) -> tuple[Net, str]:
    """One of `MODELS` with that batch dimension, and the name of its output."""
    build, shape = MODELS[name]
    net = Net(*shape, opset=20, batch=batch, ir_version=9)
    return net, build(net)
