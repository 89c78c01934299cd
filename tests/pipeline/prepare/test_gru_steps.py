"""gru_steps: a GRU as a Scan of plain layers computes the same, and its products are integers."""

import numpy as np
import onnx
import pytest

import qtool
from qtool.core.records.options import Scheme
from qtool.core.records.results import GRU_STEPS
from qtool.graph import model_io
from qtool.pipeline.prepare import gru_steps, prepare
from qtool.report.quantize import quantized_text
from qtool.runtime.session import Session
from tests.support.patterns import Net

INPUTS, UNITS = 6, 8


@pytest.fixture
def small(monkeypatch):
    """Rewrites GRUs of any size."""
    monkeypatch.setattr(gru_steps, "LEAST", 1)


def gru(net: Net, x: str = "x", *, units: int = UNITS, inputs: int = INPUTS, bias: bool = True, begin: str = "",
        outputs: int = 2, lengths: str = "", name: str = "gru", **attributes):  # fmt: skip
    """The outputs of a GRU."""
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    weight = net.weight(directions, 3 * units, inputs, inputs=inputs)
    recurrence = net.weight(directions, 3 * units, units, inputs=units)
    vector = net.const(net.rng.normal(size=(directions, 6 * units)) * 0.3) if bias else ""
    read = [x, weight, recurrence, vector, lengths, begin]
    while not read[-1]:
        read.pop()
    return net("GRU", *read, hidden_size=units, name=name, outputs=outputs, **attributes)


def operators(graph) -> set[str]:
    return {node.op_type for node in graph.all_nodes()}


def same(source, fed) -> set[str]:
    """The operators of the prepared graph, which computes what the model does, for other lengths and batches too."""
    prepared = prepare(model_io.load(source))
    exact = Session(source, optimize=False).run(fed)
    made = Session(model_io.serialize(prepared.model), name="prepared").run(fed)
    assert made.keys() == exact.keys()
    for name, array in exact.items():
        np.testing.assert_allclose(made[name], array, atol=2e-6)
    return operators(prepared.model.graph)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("after", [0, 1])
def test_it_computes_the_same(after, direction, bias, begun, tmp_path):
    net = Net(3, INPUTS, batch="T")
    directions = 2 if direction == "bidirectional" else 1
    begin = net.const(net.rng.normal(size=(directions, 3, UNITS))) if begun else ""
    outputs = gru(net, bias=bias, begin=begin, direction=direction, linear_before_reset=after)
    found = same(net.save(tmp_path / "m.onnx", *outputs), net.samples(7))
    assert "Scan" in found and "GRU" not in found


@pytest.mark.usefixtures("small")
def test_for_any_batch_and_where_the_end_alone_is_read(tmp_path):
    net = Net("N", INPUTS, batch="T")
    _, end = gru(net)
    source = net.save(tmp_path / "m.onnx", net("Relu", end))
    for shape in ((1, 1), (5, 2), (2, 9)):
        fed = {"x": np.random.default_rng(0).normal(size=(*shape, INPUTS)).astype(np.float32)}
        assert "Scan" in same(source, fed)


@pytest.mark.usefixtures("small")
def test_two_behind_each_other_in_a_body(tmp_path):
    """In a branch, whose weights are outside of it."""
    net = Net(3, INPUTS, batch="T")
    rows, _ = gru(net)
    inner, _ = gru(net, net("Squeeze", rows, net.const([1], dtype=np.int64)), inputs=UNITS, name="second")
    model = net.model(inner)
    graph = model.graph
    branch = onnx.helper.make_graph(list(graph.node), "then", [], list(graph.output))
    other = onnx.GraphProto()
    other.CopyFrom(branch)
    other.name = "else"
    for node in other.node:
        node.name = f"{node.name}_other"
        node.output[:] = [f"{name}_other" if name else "" for name in node.output]
        node.input[:] = [f"{name}_other" if name in {o for n in branch.node for o in n.output} else name
                         for name in node.input]  # fmt: skip
    other.output[0].name = f"{branch.output[0].name}_other"
    del graph.node[:]
    graph.input.append(onnx.helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []))
    graph.node.append(
        onnx.helper.make_node("If", ["c"], [graph.output[0].name], then_branch=branch, else_branch=other)
    )  # fmt: skip
    onnx.checker.check_model(model)
    onnx.save(model, tmp_path / "m.onnx")
    found = same(tmp_path / "m.onnx", net.samples(5) | {"c": np.array(True)})
    assert "Scan" in found and "GRU" not in found


DECLINED = {
    "lengths": lambda n: gru(n, lengths=n.const([3, 5, 2], dtype=np.int32)),
    "a clip": lambda n: gru(n, clip=2.0),
    "other activations": lambda n: gru(n, activations=["HardSigmoid", "Tanh"]),
    "computed weights": lambda n: n(
        "GRU", "x", n("Mul", n.weight(1, 24, 6, inputs=6), n("ReduceMean", "x", keepdims=0)),
        n.weight(1, 24, 8, inputs=8), hidden_size=8, outputs=2,
    ),
}  # fmt: skip


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", DECLINED)
def test_what_is_left(name, tmp_path):
    net = Net(3, INPUTS, batch="T")
    assert "GRU" in same(net.save(tmp_path / "m.onnx", *DECLINED[name](net)), net.samples(6))


def test_small_ones_are_left(tmp_path):
    net = Net(3, INPUTS, batch="T")
    assert "GRU" in same(net.save(tmp_path / "m.onnx", *gru(net)), net.samples(6))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A GRU of 384 units and a product behind it; sequences of 6, one at a time."""
    net = Net("N", 40, batch="T")
    rows, _ = gru(net, units=gru_steps.LEAST, inputs=40, linear_before_reset=1)
    flat = net("Squeeze", rows, net.const([1], dtype=np.int64))
    source = net.save(tmp_path_factory.mktemp("gru") / "m.onnx", net("MatMul", flat, net.weight(384, 9, inputs=384)))
    rng = np.random.default_rng(1)
    return source, [{"x": rng.normal(size=(6, 1, 40)).astype(np.float32)} for _ in range(8)]


@pytest.mark.parametrize("form", ["auto", "static", "dynamic"])
def test_its_products_are_integers(large, form, tmp_path):
    source, data = large
    done = qtool.quantize(source, tmp_path / "q.onnx", data=data, form=form)
    assert done.verification.integer_layers == done.verification.layers == 3
    assert done.verification.output_sqnr_db > 30.0
    assert f"\n              1 {GRU_STEPS}\n" in quantized_text(done), "the file has two layers, and not three"
    assert (tmp_path / "q.onnx").stat().st_size < 0.27 * source.stat().st_size


@pytest.mark.long
def test_its_products_are_in_blocks(large, tmp_path):
    """With data, from a calibration file of the steps, and without."""
    source, data = large
    statistics = qtool.calibrate(source, data).statistics
    for given in ({"calibration": statistics, "partial": False}, {}):
        done = qtool.quantize(source, tmp_path / "q.onnx", weights="int4", save_plan=tmp_path / "p.json", **given)
        proof = done.verification
        assert proof.integer_layers == proof.layers == 3 and proof.kernels["MatMulNBits"] == 3
        assert done.size < 0.18 * source.stat().st_size and proof.idle_bodies == () and proof.blocks_sqnr_db > 80.0
        again = qtool.quantize(source, tmp_path / "s.onnx", plan=tmp_path / "p.json")
        assert again.output.read_bytes() == done.output.read_bytes()
    # as DequantizeLinear nothing in a body is in blocks
    done = qtool.quantize(source, tmp_path / "q.onnx", weights="int4", weight_format="qdq")
    assert set(done.verification.float_layers) == {"gru"}


def test_it_stays_one_where_its_steps_would_not_be_integers(large, tmp_path):
    """Of the same calibration file too, whose statistics are of the steps."""
    source, data = large
    statistics = qtool.calibrate(source, data).statistics
    for options in ({"form": "weight-only"}, {"target": "tensorrt"}):
        done = qtool.quantize(source, tmp_path / "q.onnx", calibration=statistics, **options)
        assert "GRU" in {node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node}
        qtool.quantize(source, tmp_path / "r.onnx", calibration=statistics, save_plan=tmp_path / "p.json", **options)
        again = qtool.quantize(source, tmp_path / "s.onnx", plan=tmp_path / "p.json")
        assert again.plan.recipe == done.plan.recipe and done.plan.recipe.recurrent
        assert (tmp_path / "s.onnx").read_bytes() == (tmp_path / "r.onnx").read_bytes()


@pytest.mark.parametrize(
    "scheme",
    [
        Scheme(exclude=("gru",)),
        Scheme(exclude=("gru_out*",)),
        Scheme(exclude_ops=("GRU",)),
        Scheme(include_ops=("MatMul",)),
    ],
)
def test_it_stays_one_where_it_is_excluded(large, scheme, tmp_path):
    """A Scan in float is slower."""
    source, data = large
    statistics = qtool.calibrate(source, data).statistics
    for given in ({"data": data}, {"calibration": statistics}):
        done = qtool.quantize(source, tmp_path / "q.onnx", form="static", scheme=scheme, **given)
        assert done.verification.integer_layers == 1 and list(done.verification.float_layers) == ["gru"]
        assert "GRU" in {node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node}
    done = qtool.quantize(source, tmp_path / "q.onnx", data=data, form="static", include_ops=("GRU", "MatMul"))
    assert done.verification.integer_layers == 3


def test_inspect_says_what_becomes_of_it_and_estimates_nothing(large):
    """The table of times knows no layers in bodies, which are nearly all of the work."""
    source, data = large
    found = qtool.inspect_model(source, data=data)
    (layer,) = [layer for layer in found.layers if layer.name == "gru"]
    assert layer.planned
    x86 = next(one for one in found.targets if one.target == "x86")
    assert (x86.layers, x86.integer_layers, x86.layers_speedup) == (3, 3, None)


def test_inspect_says_what_becomes_of_it_and_of_no_scan_that_the_file_has_not(large):
    notes = qtool.inspect_model(large[0]).unusual
    assert f"preparation: 1 {GRU_STEPS}" in notes
    assert not any("body" in text for text in notes)
