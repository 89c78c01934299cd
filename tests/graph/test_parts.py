"""The parts of outputs that differ in kind, and what stands in front of the Sigmoids and Softmaxes at their ends."""

import numpy as np
import pytest

from qtool.core.numerics.sqnr import OutputNoise, Parts
from qtool.graph import model_io
from qtool.graph.parts import output_parts, parted_tensors, place_outputs, saturating_ends
from qtool.pipeline.prepare import prepare
from qtool.pipeline.verify.judged import find_parts
from tests.support.patterns import Net


def yolo(net, x, size):
    """[N, size^2, 6] as YOLOX has it at one level: four coordinates, and two scores of a layer each."""
    box, there, kind = (net.conv(x, 3, n, kernel=(1, 1)) for n in (4, 1, 1))
    level = net("Concat", box, net("Sigmoid", there), net("Sigmoid", kind), axis=1)
    flat = net("Reshape", level, net.const([0, 6, size * size], dtype=np.int64))
    return net("Transpose", flat, perm=[0, 2, 1])


def levels(net):
    parts = [yolo(net, "x", 8), yolo(net, net("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2]), 4)]
    return net("Concat", *parts, axis=1)


def boxes_and_scores(net):
    """Cut from one tensor, bent and put together again, as YOLOv8 does it."""
    raw = net("Concat", net.conv("x", 3, 4), net.conv("x", 3, 2), axis=1)
    flat = net("Reshape", raw, net.const([0, 6, -1], dtype=np.int64))
    boxes, scores = net("Split", flat, net.const([4, 2], dtype=np.int64), outputs=2, axis=1)
    return net("Concat", net("Mul", boxes, net.const(np.float32(320))), net("Sigmoid", scores), axis=1)


def halves(net):
    """The first third of a tensor is read by nothing."""
    _, boxes, scores = net("Split", net.conv("x", 3, 6), outputs=3, axis=1)
    return net("Concat", net("Exp", boxes), net("Sigmoid", scores), axis=1)


def sliced(net):
    """One layer gives all; what is sliced out of it is bent in other ways."""
    raw = net.conv("x", 3, 6)
    picked = [net("Slice", raw, *(net.const([n], dtype=np.int64) for n in span)) for span in ((0, 2, 1), (2, 6, 1))]
    return net("Concat", net("Exp", picked[0]), net("Sigmoid", picked[1]), axis=1)


def steps(net):
    """The same layer's output at several times."""
    return net("Concat", *(net("Unsqueeze", "x", net.const([1], dtype=np.int64)) for _ in range(3)), axis=1)


def two_heads(net):
    """Of one form, but side by side along the channels."""
    flat = net("Flatten", "x")
    return net("Concat", net.gemm(flat, 192, 3), net.gemm(flat, 192, 3), axis=1)


def positions(net):
    """Of one form, one behind the other: the same kind at other places."""
    flat = [net("Reshape", net.conv("x", 3, 4), net.const([0, 4, -1], dtype=np.int64)) for _ in range(2)]
    return net("Concat", *flat, axis=2)


@pytest.mark.parametrize(
    ("make", "labels", "shape", "faint"),
    [
        (levels, [0, 0, 0, 0, 1, 2], (1, 1, 6), [False, True, True]),
        (boxes_and_scores, [0, 0, 0, 0, 1, 1], (1, 6, 1), [False, True]),
        (halves, [0, 0, 1, 1], (1, 4, 1, 1), [False, True]),
        (sliced, [0, 0, 1, 1, 1, 1], (1, 6, 1, 1), [False, True]),
        (two_heads, [0, 0, 0, 1, 1, 1], (1, 6), [False, False]),
    ],
)
def test_the_parts_are_found_and_judged_apart(tmp_path, make, labels, shape, faint):
    net = Net(3, 8, 8)
    prepared = prepare(model_io.load(net.save(tmp_path / "m.onnx", make(net)))).model
    ((name, parts),) = find_parts(prepared, net.samples(2)).items()
    assert name == prepared.graph.outputs[0].name
    assert parts.labels.shape == shape
    assert parts.labels.ravel().tolist() == labels
    assert [least > 0 for least in parts.faint] == faint


@pytest.mark.parametrize("make", [steps, positions, lambda net: net.conv("x", 3, 4)])
def test_places_of_one_kind_are_one_part(tmp_path, make):
    net = Net(3, 8, 8)
    prepared = prepare(model_io.load(net.save(tmp_path / "m.onnx", make(net)))).model
    assert find_parts(prepared, net.samples(2)) == {}


def test_an_output_that_is_no_concat_needs_no_shapes(tmp_path):
    net = Net(3, 8, 8)
    model = model_io.load(net.save(tmp_path / "m.onnx", net.conv("x", 3, 4))).model
    assert parted_tensors(model) == () and output_parts(model, {}) == {} and saturating_ends(model) == ()


def test_the_ends_of_outputs(tmp_path):
    net = Net(3, 8, 8)
    flat = net("Flatten", net("Sigmoid", net.conv("x", 3, 4), name="inside"))
    scores = net("Softmax", net.gemm(flat, 256, 5), axis=-1, name="soft")
    model = model_io.load(net.save(tmp_path / "m.onnx", boxes_and_scores(net), scores)).model
    found = {(end.node, end.axis) for end in saturating_ends(model)}
    assert ("soft", -1) in found and "inside" not in {node for node, _ in found}
    assert len(found) == 2


def test_a_dead_part_is_seen():
    rng = np.random.default_rng(0)
    exact = np.concatenate([rng.uniform(0, 320, (2, 4, 50)), rng.uniform(0, 1, (2, 2, 50))], axis=1)
    made = exact + rng.normal(size=exact.shape) * 1e-2
    parts = Parts(np.array([0, 0, 0, 0, 1, 1]).reshape(1, 6, 1), (0.0, 2.0**-5))
    dead = made.copy()
    dead[:, 4:] = 0.0
    figures = []
    for array in (made, dead):
        noise = OutputNoise(parts)
        for row in range(2):
            noise.add(exact[row : row + 1], array[row : row + 1])
        figures.append(noise.db)
    scores, wrong = exact[:, 4:], made[:, 4:] - exact[:, 4:]
    assert figures[0] == pytest.approx(10 * np.log10((scores**2).sum() / (wrong**2).sum()))
    assert figures[1] == pytest.approx(0.0)


def test_a_part_without_signal_or_of_another_shape_is_left_to_the_whole():
    parts = Parts(np.array([[0, 0, 1]]), (0.0, 2.0**-5))
    exact = np.array([[1.0, 2.0, 0.0]])
    noise = OutputNoise(parts)
    noise.add(exact, exact + 0.1)
    assert noise.db == pytest.approx(10 * np.log10(5 / 0.03)) and not noise.clear
    assert noise.db_of_clear == pytest.approx(10 * np.log10(5 / 0.02))
    other = OutputNoise(parts)
    other.add(np.ones((1, 4)), np.ones((1, 4)) + 0.1)
    assert other.db == pytest.approx(20.0)
    faint = OutputNoise(Parts(np.zeros((1, 1), int), (2.0**-5,)))
    faint.add(exact * 1e-9, exact * 2e-9)
    assert faint.db == pytest.approx(0.0) and faint.db_of_clear is None


def test_a_deep_graph_is_no_deep_recursion(tmp_path):
    """More nodes in a row than Python calls itself."""
    net = Net(3, 4, 4)
    score = net.conv("x", 3, 2)
    for _ in range(600):
        score = net("Add", score, net("Tanh", score))
    y = net("Concat", net.conv("x", 3, 4), net("Mul", score, net.const(np.float32(0.5))), axis=1)
    model = model_io.load(net.save(tmp_path / "m.onnx", y)).model
    assert y in parted_tensors(model) and saturating_ends(model) == ()
    assert output_parts(model, {y: (1, 6, 4, 4)}) == {}


def test_outputs_that_say_places(tmp_path):
    """An ArgMax through whatever moves or scales it; not the values of a TopK, nor what stands beside real numbers."""

    def found(build):
        net = Net(3, 8, 8)
        logits = net("Flatten", net("GlobalAveragePool", net.conv("x", 3, 6)))
        return bool(place_outputs(model_io.load(net.save(tmp_path / "m.onnx", build(net, logits))).model))

    def top(net, logits, which):
        return net("TopK", logits, net.const([2], dtype=np.int64), axis=1, outputs=2)[which]

    assert found(lambda net, h: net("ArgMax", h, axis=1))
    assert found(lambda net, h: net("Add", net("Cast", net("ArgMin", h, axis=1), to=1), net.const([1.0])))
    assert found(lambda net, h: top(net, h, 1)) and not found(lambda net, h: top(net, h, 0))
    assert not found(lambda net, h: net("Concat", net("Cast", net("ArgMax", h, axis=1), to=1), h, axis=1))
    assert not found(lambda net, h: net("Relu", h))
