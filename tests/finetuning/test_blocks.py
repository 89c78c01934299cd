"""Where a graph is divided into blocks: at single tensors, else at as few as there can be; nothing is lost between."""

import importlib.util

import numpy as np
import pytest

from qtool.finetuning.blocks import LearnedBlock, divide
from qtool.graph import shapes
from qtool.graph.model_io import from_bytes
from tests.support.patterns import Net
from tests.support.token_models import encoder, sentences


def graph_of(model):
    graph = from_bytes(model.SerializeToString())
    shapes.infer(graph)
    return graph


def residual(count):
    """Conv `stem`, then blocks of Conv, Relu, Conv and a sum with what they read: x [N, 3, 8, 8]."""
    net = Net(3, 8, 8)
    h = net.conv("x", 3, 4, name="stem")
    for i in range(count):
        inner = net.conv(net("Relu", net.conv(h, 4, 4, name=f"a{i}")), 4, 4, name=f"b{i}")
        h = net("Add", h, inner, name=f"sum{i}")
    return net, net.model(net("GlobalAveragePool", h, name="mean"))


def skips(depth):
    """An encoder and a decoder that reads all that the encoder made, the last first: x [N, 4, 8, 8]."""
    net = Net(4, 8, 8)
    kept, h = [], "x"
    for i in range(depth):
        h = net.conv(h, 4, 4, name=f"down{i}")
        kept.append(h)
    for i, skip in enumerate(reversed(kept[:-1])):
        h = net.conv(net("Concat", h, skip, axis=1, name=f"join{i}"), 8, 4, name=f"up{i}")
    return net, net.model(h)


def test_blocks_end_behind_the_sums():
    _, model = residual(4)
    assert divide(graph_of(model), 4) == (
        LearnedBlock((), ("sum0_out",), ("stem", "a0", "b0")),
        LearnedBlock(("sum0_out",), ("sum2_out",), ("a1", "b1", "a2", "b2")),
        LearnedBlock(("sum2_out",), ("mean_out",), ("a3", "b3")),
    )


def test_a_block_is_no_larger_than_asked_for_where_more_than_one_tensor_has_to_cross():
    _, model = skips(4)
    assert divide(graph_of(model), 3) == (
        LearnedBlock((), ("down0_out",), ("down0",)),
        LearnedBlock(("down0_out",), ("down1_out", "join0_out"), ("down1", "down2", "down3")),
        LearnedBlock(("down0_out", "down1_out", "join0_out"), ("up2_out",), ("up0", "up1", "up2")),
    )


def test_a_mask_of_the_input_crosses_nothing():
    """It is computed from the inputs wherever it is read; each encoder layer is six layers."""
    blocks = divide(graph_of(encoder(layers=3)))
    assert [len(block.starts) for block in blocks] == [0, 1, 1, 1]
    assert all(len(block.ends) == 1 for block in blocks)
    # the embedding counts
    assert [len(block.layers) for block in blocks] == [5, 6, 6, 3]


def test_an_output_on_the_way_is_an_end():
    net = Net(6)
    first = net.gemm("x", 6, 6, name="first")
    net.gemm(first, 6, 2, name="aside")
    net.gemm(first, 6, 3, name="last")
    (block,) = divide(graph_of(net.model("aside_out", "last_out")))
    assert block == LearnedBlock((), ("aside_out", "last_out"), ("first", "aside", "last"))


def test_a_graph_without_layers_has_no_blocks():
    net = Net(6)
    net("Relu", "x", name="relu")
    assert divide(graph_of(net.model("relu_out"))) == ()


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs the extra finetune")
@pytest.mark.parametrize("make", [lambda: residual(3), lambda: skips(4), lambda: (None, encoder(layers=2))])
def test_blocks_one_after_the_other_compute_the_graph(make):
    import torch

    from qtool.finetuning.interpreter import Interpreter

    net, model = make()
    graph = graph_of(model)
    interpreter = Interpreter(graph)
    feeds = sentences(1)[0] if net is None else net.samples()
    whole = interpreter.run(feeds)
    made = {}
    for block in divide(graph, 3):
        made |= interpreter.run(feeds, start={name: made[name] for name in block.starts}, wanted=block.ends)
    for name, tensor in whole.items():
        assert torch.equal(made[name], tensor)
    assert np.prod(whole[name].shape) > 0
