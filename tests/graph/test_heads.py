"""The heads of a graph: the last layers of each output, what decodes, and what is no head."""

import numpy as np
import onnx
import pytest

import qtool
from qtool.core.numerics.calibrators import Max
from qtool.core.records.options import Scheme
from qtool.graph import model_io
from qtool.graph.heads import decoding_layers, heads_of
from qtool.graph.protos import from_proto
from qtool.pipeline.planning.place import place
from qtool.pipeline.planning.planner import Planner
from qtool.pipeline.prepare import prepare
from qtool.quantization.ranking import ALL_HEADS, quantized_heads
from qtool.targets.tables import TARGETS
from tests.support.patterns import Net

DISTANCES = np.arange(4, dtype=np.float32)


def body(net):
    return net("Relu", net.conv("x", 3, 8, name="body"))


def named(net, x, channels, name):
    return net.conv(x, 8, channels, kernel=(1, 1), name=name)


def flat(net, value, channels):
    return net("Reshape", value, net.const([0, channels, -1], dtype=np.int64))


def yolov8(net, decode="Conv"):
    """Distances as the mean of a distribution, and scores; both are cut from one tensor for all levels."""
    h, levels = body(net), []
    for i in range(2):
        h = h if i == 0 else net("MaxPool", h, kernel_shape=[2, 2], strides=[2, 2])
        raw = net("Concat", named(net, h, 16, f"box{i}"), named(net, h, 2, f"score{i}"), axis=1)
        levels.append(flat(net, raw, 18))
    boxes, scores = net("Split", net("Concat", *levels, axis=2), net.const([16, 2], dtype=np.int64), outputs=2, axis=1)
    bins = net("Transpose", net("Reshape", boxes, net.const([0, 4, 4, -1], dtype=np.int64)), perm=[0, 2, 1, 3])
    if decode == "Conv":
        mean = net("Conv", net("Softmax", bins, axis=1), net.const(DISTANCES.reshape(1, 4, 1, 1)), name="mean")
        sides = net("Reshape", mean, net.const([0, 4, -1], dtype=np.int64))
    else:
        soft = net("Softmax", net("Transpose", bins, perm=[0, 2, 3, 1]), axis=-1)
        shape = (4, 1) if decode == "MatMul" else (4,)
        mean = net("MatMul", soft, net.const(DISTANCES.reshape(shape)), name="mean")
        sides = net("Reshape", mean, net.const([0, 4, -1], dtype=np.int64))
    near, far = net("Split", sides, net.const([2, 2], dtype=np.int64), outputs=2, axis=1)
    corners = net(
        "Concat", net("Sub", net.const(np.float32(0.5)), near), net("Add", far, net.const(np.float32(0.5))), axis=1
    )
    return net("Concat", corners, net("Sigmoid", scores), axis=1)


def yolox(net):
    h = body(net)
    level = net("Concat", named(net, h, 4, "box"), net("Sigmoid", named(net, h, 2, "score")), axis=1)
    return net("Transpose", flat(net, level, 6), perm=[0, 2, 1])


def ssd(net):
    """Two outputs, each of a convolution a level."""
    h, found = body(net), {"box": [], "score": []}
    for i in range(2):
        h = net("Relu", net.conv(h, 8, 8, name=f"down{i}"))
        for name, channels in (("box", 4), ("score", 3)):
            last = net("Transpose", named(net, h, channels, f"{name}{i}"), perm=[0, 2, 3, 1])
            found[name].append(net("Reshape", last, net.const([0, -1, channels], dtype=np.int64)))
    return net("Concat", *found["box"], axis=1), net("Softmax", net("Concat", *found["score"], axis=1), axis=-1)


def detr(net):
    """A product of one layer, and one of two behind the same features, whose corners a matrix makes."""
    tokens = net("Transpose", flat(net, body(net), 8), perm=[0, 2, 1])
    scores = net("MatMul", tokens, net.weight(8, 3, inputs=8), name="score")
    hidden = net("Relu", net("MatMul", tokens, net.weight(8, 8, inputs=8), name="hidden"))
    boxes = net("Sigmoid", net("MatMul", hidden, net.weight(8, 4, inputs=8), name="box"))
    corners = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5]], np.float32)
    return scores, net("MatMul", boxes, net.const(corners), name="corners")


def residual(net):
    """The first layer leads on to the last one, whatever goes around it."""
    h = body(net)
    return net("Relu", net("Add", h, net.conv(h, 8, 8, name="last")))


def features(net):
    """What an output holds other layers read too."""
    h = body(net)
    return h, named(net, h, 4, "last")


@pytest.mark.parametrize(
    ("make", "heads"),
    [
        (yolov8, {"y": ["box0", "score0", "box1", "score1", "mean"]}),
        (yolox, {"y, part 1": ["box"], "y, part 2": ["score"]}),
        (ssd, {"y": ["box0", "box1"], "z": ["score0", "score1"]}),
        (detr, {"y": ["score"], "z": ["box", "corners"]}),
        (residual, {"y": ["last"]}),
        (features, {"y": ["body"], "z": ["last"]}),
    ],
)
def test_the_last_layers_of_each_output(tmp_path, make, heads):
    net = Net(3, 8, 8)
    made = make(net)
    outputs = made if isinstance(made, tuple) else (made,)
    model = prepare(model_io.load(net.save(tmp_path / "m.onnx", *outputs))).model
    letters = dict(zip(outputs, "yz", strict=False))
    found = heads_of(model)
    assert {
        head.name.replace(f"head of {o}", letters[o]): list(head.layers) for head in found for o in head.outputs
    } == heads
    for head in found:
        assert set(head.layers) <= set(head.nodes) and "body" not in set(head.nodes) - set(head.layers)


@pytest.mark.parametrize("decode", ["Conv", "MatMul", "vector"])
def test_what_decodes_stays_in_float_with_all_in_front_of_it(tmp_path, decode):
    """The last convolutions have grids of their own then: no Concat joins scores and distances in 8 bits."""
    net = Net(3, 8, 8)
    path = net.save(tmp_path / "m.onnx", yolov8(net, decode))
    assert decoding_layers(prepare(model_io.load(path)).model) == ("mean",)
    model = prepare(model_io.load(path)).model
    placement = place(model, TARGETS["x86"], Scheme())
    assert {node.op_type for node in model.graph if node.name in placement.integer} == {"Conv", "MaxPool"}
    assert "mean" not in placement.integer and (decode == "vector" or "decodes" in placement.skipped["mean"])


@pytest.mark.parametrize("change", ["a bias", "a layer behind", "learnt, of several outputs"])
def test_a_layer_behind_a_softmax_that_learns_is_none_that_decodes(tmp_path, change):
    net = Net(3, 8, 8)
    soft = net("Softmax", body(net), axis=1)
    y = net.conv(soft, 8, 8 if change.startswith("learnt") else 1, kernel=(1, 1), bias=change == "a bias")
    y = net.conv(y, 1, 2, bias=False) if change == "a layer behind" else y
    model = prepare(model_io.load(net.save(tmp_path / "m.onnx", y))).model
    assert decoding_layers(model) == ()


def test_a_scalar_for_a_weight_decodes_nothing():
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,8] x) => (float[N,8] y) <float w = {2.0}> { y = MatMul(x, w) }""")
    assert list(decoding_layers(from_proto(model))) == []


def test_what_a_plan_quantises_of_heads(tmp_path):
    """Of several heads all together; one of a single layer is that layer, and what is everything is none."""
    found = {}
    for make in (yolox, ssd, residual, yolov8):
        net = Net(3, 8, 8)
        made = make(net)
        path = net.save(tmp_path / "m.onnx", *(made if isinstance(made, tuple) else (made,)))
        prepared = prepare(model_io.load(path))
        statistics = qtool.calibrate(path, net.samples(2)).statistics
        plan = Planner(prepared, statistics, TARGETS["x86"], Scheme()).plan(Max(), corrected=False)
        heads = quantized_heads(prepared.model, plan)
        found[make] = [(head.name == ALL_HEADS, sorted(head.layers)) for head in heads]
    every = ["box0", "box1", "score0", "score1"]
    assert found == {
        yolox: [(True, ["box", "score"])],
        ssd: [(False, every[:2]), (False, every[2:]), (True, every)],
        residual: [],
        yolov8: [(False, every)],
    }


def test_a_layer_inside_of_an_if_reads_what_leads_to_it(tmp_path):
    """So the layer in front is followed by nothing that is known, and what decodes behind the If decodes."""
    net = Net(3, 8, 8)
    soft = net("Softmax", body(net), axis=1)
    mean = net("Conv", soft, net.const(np.arange(8).reshape(1, 8, 1, 1)), name="mean")
    branches = []
    for name in ("then", "else"):
        made = onnx.helper.make_tensor_value_info(f"{name}_y", onnx.TensorProto.FLOAT, None)
        node = onnx.helper.make_node("Identity" if name == "then" else "Neg", [mean], [f"{name}_y"], f"{name}_node")
        branches.append(onnx.helper.make_graph([node], name, [], [made]))
    condition = net.const([True], dtype=np.bool_)
    y = net("If", condition, then_branch=branches[0], else_branch=branches[1])
    model = model_io.load(net.save(tmp_path / "m.onnx", y)).model
    assert decoding_layers(model) == ("mean",)
    (head,) = heads_of(model)
    assert head.layers == ("body", "mean")
