"""The interpreter: whole graphs and parts of them beside onnxruntime, hooks, what replaces constants, and borders."""

import gc
import weakref

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

torch = pytest.importorskip("torch", reason="needs the extra finetune")

from bench.zoo_models import zoo_folder
from qtool.core.errors import DataError
from qtool.finetuning.interpreter import Interpreter
from qtool.graph import shapes
from qtool.graph.layers import Layer
from qtool.graph.model_io import from_bytes, load, serialize
from qtool.pipeline.prepare import prepare
from qtool.runtime.session import Session
from tests.support.odd_models import MODELS
from tests.support.patterns import Net
from tests.support.random_kinds import unusual_case
from tests.support.random_models import random_case
from tests.support.token_models import encoder, sentences

ZOO = zoo_folder()


def graph_of(model):
    graph = from_bytes(model.SerializeToString())
    shapes.infer(graph)
    return graph


def small():
    """Conv `first`, Relu, Conv `last`: x [N, 3, 8, 8]."""
    net = Net(3, 8, 8)
    h = net("Relu", net.conv("x", 3, 4, name="first"), name="relu")
    net.conv(h, 4, 2, name="last")
    return net, graph_of(net.model("last_out"))


def decibels(got, want):
    noise = np.square(got.astype(np.float64) - want).sum()
    return np.inf if noise == 0 else 10 * np.log10(np.square(want.astype(np.float64)).sum() / noise)


def test_sentences_of_any_length_and_any_number():
    model = encoder(layers=2)
    interpreter, session = Interpreter(graph_of(model)), Session(model.SerializeToString())
    for feeds in (*sentences(2), {name: np.repeat(a, 3, 0) for name, a in sentences(1)[0].items()}):
        (got,), (want,) = interpreter.run(feeds).values(), session.run(feeds).values()
        assert decibels(got.detach().numpy(), want) > 100
    assert interpreter.borders == ()


def test_a_part_starts_from_tensors_and_ends_at_tensors():
    net, model = small()
    interpreter = Interpreter(model)
    whole = interpreter.run(net.samples(), wanted=["relu_out", "last_out"])
    part = interpreter.run({}, start={"relu_out": whole["relu_out"]}, wanted=["last_out"])
    assert torch.equal(part["last_out"], whole["last_out"])
    assert part.keys() == {"last_out"}


def test_parameters_stand_for_constants_and_get_gradients():
    net, model = small()
    interpreter = Interpreter(model)
    weight = model.graph.node("last").inputs[1].name
    doubled = (2 * interpreter.constants[weight]).requires_grad_()
    changed = interpreter.run(net.samples(), parameters={weight: doubled})["last_out"]
    bias = interpreter.constants[model.graph.node("last").inputs[2].name].reshape(-1, 1, 1)
    assert torch.allclose(changed - bias, 2 * (interpreter.run(net.samples())["last_out"] - bias), atol=1e-5)
    changed.sum().backward()
    assert doubled.grad is not None and doubled.grad.abs().sum() > 0


def test_hooks_see_what_each_node_reads_and_makes():
    net, model = small()
    read, made = [], []

    def on_input(node, index, name, tensor):
        read.append((node.name, index, name))
        return tensor * 0 if (node.name, index) == ("last", 0) else tensor

    def on_output(node, name, tensor):
        made.append((node.name, name))
        return tensor + 1 if node.name == "last" else tensor

    out = Interpreter(model).run(net.samples(), on_input=on_input, on_output=on_output)["last_out"]
    first, last = model.graph.node("first"), model.graph.node("last")
    assert read == [
        *[("first", i, v.name) for i, v in enumerate(first.inputs)],
        ("relu", 0, "first_out"),
        *[("last", i, v.name) for i, v in enumerate(last.inputs)],
    ]
    assert made == [("first", "first_out"), ("relu", "relu_out"), ("last", "last_out")]
    bias = last.inputs[2].const_value.numpy().reshape(-1, 1, 1)
    np.testing.assert_allclose(out.numpy(), np.broadcast_to(bias + 1, out.shape))


def test_a_tensor_is_let_go_when_nobody_reads_it_any_more():
    net, model = small()
    alive, seen = weakref.WeakValueDictionary(), []

    def on_output(_node, name, tensor):
        gc.collect()
        seen.append(sorted(alive))
        alive[name] = tensor
        return tensor

    with torch.no_grad():
        Interpreter(model).run(net.samples(), on_output=on_output)
    assert seen == [[], ["first_out"], ["relu_out"]]


def test_an_input_that_is_not_fed():
    with pytest.raises(DataError, match="input 'x' is not fed"):
        Interpreter(small()[1]).run({})


def test_what_does_not_fit_names_the_node():
    with pytest.raises(DataError, match=r"node 'first' \(Conv\) cannot be computed"):
        Interpreter(small()[1]).run({"x": np.zeros((1, 5, 8, 8), np.float32)})


@pytest.mark.parametrize("named", [{"wanted": ["nothing"]}, {"parameters": {"x": None}}])
def test_names_that_the_graph_has_not(named):
    net, model = small()
    with pytest.raises(ValueError, match="is no"):
        Interpreter(model).run(net.samples(), **named)


def bordered(*, beside: bool):
    """Gemm `first`, an If that reads its output and `first`'s weight, Gemm `last`; perhaps a path around the If."""
    net = Net(6)
    h = net.gemm("x", 6, 6, name="first")
    weight = net.nodes[0].input[1]
    other = net.weight(6, 6, inputs=6)
    chosen = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("MatMul", [h, held], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 6])],
        )
        for name, held in (("then", weight), ("else", other))
    }
    positive = net("Greater", net("ReduceSum", "x", keepdims=0), net.const(0.0))
    made = net("If", positive, name="if", **chosen)
    joined = net("Add", made, h, name="around") if beside else made
    net.gemm(joined, 6, 2, name="last")
    return net, net.model("last_out")


def test_what_has_no_row_is_run_by_onnxruntime():
    net, model = bordered(beside=False)
    interpreter = Interpreter(graph_of(model))
    (got,), (want,) = (
        interpreter.run(net.samples()).values(),
        Session(model.SerializeToString()).run(net.samples()).values(),
    )
    assert decibels(got.detach().numpy(), want) > 120
    (border,) = interpreter.borders
    assert (border.node, border.operator, border.outside, border.layers) == ("if", "If", True, ("first",))
    assert interpreter.untrained == {"first": "If 'if' has no counterpart in torch here"}


def test_a_border_reads_what_a_hook_gives_it():
    """The If is told the other truth, and takes the other branch."""
    net, model = bordered(beside=False)
    seen = []

    def on_input(node, index, name, tensor):
        if node.op_type == "If":
            seen.append((index, name, tensor.dtype))
            return ~tensor
        return tensor

    interpreter = Interpreter(graph_of(model))
    changed = interpreter.run(net.samples(), on_input=on_input)["last_out"]
    assert seen == [(0, "Greater_2_out", torch.bool)]
    condition = {"Greater_2_out": ~interpreter.run(net.samples(), wanted=["Greater_2_out"])["Greater_2_out"]}
    assert torch.equal(changed, interpreter.run(net.samples(), start=condition)["last_out"])
    assert not torch.allclose(changed, interpreter.run(net.samples())["last_out"])


def test_a_path_around_a_border_trains():
    net, model = bordered(beside=True)
    interpreter = Interpreter(graph_of(model))
    assert interpreter.untrained == {}
    bias = net.nodes[0].input[2]
    trained = interpreter.constants[bias].clone().requires_grad_()
    interpreter.run(net.samples(), parameters={bias: trained})["last_out"].sum().backward()
    assert trained.grad is not None


def test_a_constant_that_onnxruntime_reads_too_is_not_replaced():
    net, model = bordered(beside=True)
    interpreter = Interpreter(graph_of(model))
    weight = net.nodes[0].input[1]
    with pytest.raises(ValueError, match="torch alone"):
        interpreter.run(net.samples(), parameters={weight: interpreter.constants[weight]})


def test_layers_that_only_an_index_hangs_on_are_not_trained():
    net = Net(6)
    h = net.gemm("x", 6, 4, name="scores")
    net("ArgMax", h, name="best", axis=1)
    net.gemm("x", 6, 2, name="other")
    interpreter = Interpreter(graph_of(net.model("best_out", "other_out")))
    assert interpreter.untrained == {"scores": "ArgMax 'best' passes no gradient"}
    assert not interpreter.borders[0].outside


@pytest.mark.parametrize("name", ["a sequence", "maps", "strings fed", "strings beside scores", "an optional sequence"])
def test_what_is_no_tensor_of_numbers_stays_with_onnxruntime(tmp_path, name):
    odd = MODELS[name]()
    model = load(odd.save(tmp_path / "m.onnx")).model
    interpreter = Interpreter(model)
    want = Session(serialize(model)).run(odd.data)
    got = interpreter.run(odd.data)
    assert any(border.outside for border in interpreter.borders)
    assert got.keys() <= want.keys()
    for output, tensor in got.items():
        np.testing.assert_allclose(tensor.numpy(), want[output], rtol=1e-5, atol=1e-6)


def gradients(model, interpreter, feeds):
    """The names of the layers with a weight that a sum of the outputs' squares has a gradient of."""
    trained = {n: t.clone().requires_grad_() for n, t in interpreter.constants.items() if t.dtype == torch.float32}
    outputs = interpreter.run(feeds, parameters=trained)
    ends = [o.square().sum() for o in outputs.values() if o.requires_grad]
    if ends:
        sum(ends).backward()
    layers = [node for node in model.graph if Layer.of(node)]
    return {
        n.name
        for n in layers
        for v in n.inputs
        if v is not None and v.name in trained and trained[v.name].grad is not None
    }


@pytest.mark.slow
@pytest.mark.parametrize("make", [random_case, unusual_case])
@pytest.mark.parametrize("seed", range(100, 112))
def test_random_graphs(tmp_path, make, seed):
    case = make(seed)
    onnx.save(case.model, tmp_path / "m.onnx")
    model = prepare(load(tmp_path / "m.onnx")).model
    session = Session(serialize(model))
    feeds = {spec.name: case.data[spec.name] for spec in session.inputs}
    if session.inputs[0].shape and isinstance(session.inputs[0].shape[0], int):
        feeds = {name: array[: session.inputs[0].shape[0]] for name, array in feeds.items()}
    interpreter, want = Interpreter(model), session.run(feeds)
    got = interpreter.run(feeds)
    assert got.keys() == want.keys()
    for name, tensor in got.items():
        assert decibels(tensor.numpy(), want[name]) > 80, name
    if not any(border.outside for border in interpreter.borders):
        every = {
            n.name for n in model.graph if (layer := Layer.of(n)) and layer.weight in model.graph.initializers.values()
        }
        assert every - interpreter.untrained.keys() <= gradients(model, interpreter, feeds)


@pytest.mark.zoo
@pytest.mark.slow
@pytest.mark.skipif(ZOO is None, reason="no model zoo: set QTOOL_ZOO, or put it at ../shared/zoo")
@pytest.mark.parametrize("file", sorted(ZOO.glob("*/model.onnx")) if ZOO else [], ids=lambda file: file.parent.name)
def test_every_model_of_the_zoo(file):
    model = prepare(load(file)).model
    session, rng = Session(serialize(model)), np.random.default_rng(1)
    feeds = {}
    for spec in session.inputs:
        shape = [d if isinstance(d, int) else 2 if axis == 0 else 16 for axis, d in enumerate(spec.shape)]
        whole = spec.dtype.kind != "f"
        feeds[spec.name] = (rng.integers(0, 2, shape) if whole else rng.normal(size=shape)).astype(spec.dtype)
    interpreter, want = Interpreter(model), session.run(feeds)
    with torch.no_grad():
        got = interpreter.run(feeds)
    assert interpreter.untrained == {}
    for name, tensor in got.items():
        assert decibels(tensor.numpy(), want[name]) > 80, name
