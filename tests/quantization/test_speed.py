"""What is left in float for speed: the decision, never a time; and that it is the same on every run."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import qtool
from qtool.core.errors import UsageError
from qtool.core.numerics.calibrators import Max
from qtool.graph import model_io
from qtool.quantization import by_clock, candidates
from qtool.quantization.by_clock import AS_PLANNED, NOTHING, TimedPlan
from qtool.quantization.graphs import FloatGraph
from qtool.runtime.profile import node_times
from qtool.targets.tables import find_target
from tests.support.patterns import Net

R = np.random.default_rng(3)
FAST = {"calibrator": "max", "bias_correction": "off", "smoothing": "off", "target": "x86"}
MAPS = {"x": np.float32(R.random((2, 1, 96, 96)))}
ONE = {"x": MAPS["x"][:1]}


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """A grey picture: a convolution of one channel, a pooling, then convolutions that integers are good for."""
    weights = {
        "w0": R.normal(0, 0.3, (16, 1, 3, 3)),
        "b0": R.normal(0, 0.1, 16),
        "w1": R.normal(0, 0.1, (64, 16, 3, 3)),
        "b1": R.normal(0, 0.1, 64),
        "w2": R.normal(0, 0.05, (64, 64, 3, 3)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], "first"),
        helper.make_node("Relu", ["c0"], ["r0"], "relu"),
        helper.make_node("MaxPool", ["r0"], ["p0"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p0", "w1", "b1"], ["c1"], "second"),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["y"], "third"),
    ]
    graph = helper.make_graph(
        nodes,
        "grey",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 96, 96])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    path = tmp_path_factory.mktemp("grey") / "grey.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def optimised(path, folder):
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(folder / "optimised.onnx"), 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(options.optimized_model_filepath).graph
    return session, [
        (node.op_type, len(onnx_shape(graph, node.input[1]))) for node in graph.node if len(node.input) > 1
    ]


def onnx_shape(graph, name):
    return next((list(t.dims) for t in graph.initializer if t.name == name), [])


def test_a_convolution_of_one_channel_and_its_pooling_stay_float(grey, tmp_path):
    result = qtool.quantize(grey, tmp_path / "q.onnx", data=MAPS, **FAST)
    assert set(result.plan.skipped) == {"first", "pool"}
    assert result.plan.skipped["first"].startswith("float is faster for its shape: ")
    assert list(result.plan.integer) == ["second", "third"]
    # behind the pooling the scale of the Q is a vector, so that it stays there, and the pooling float
    graph = onnx.load(tmp_path / "q.onnx").graph
    q = next(node for node in graph.node if node.input[0] == "p0")
    assert (q.op_type, onnx_shape(graph, q.input[1])) == ("QuantizeLinear", [16])
    session, found = optimised(tmp_path / "q.onnx", tmp_path)
    types = [op for op, _ in found]
    assert types.count("QLinearConv") == 2 and types.count("Conv") == 1 and "NhwcMaxPool" not in types
    plain = ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    exact = ort.InferenceSession(str(tmp_path / "q.onnx"), plain, providers=["CPUExecutionProvider"])
    ours, theirs = (s.run(None, ONE)[0] for s in (session, exact))
    step = next(row.params.scale[0] for row in result.plan.activations if row.tensor == "y")
    assert np.abs(ours - theirs).max() <= 1.01 * step


def test_everything_is_integer_for_size_and_where_nothing_was_measured(grey, tmp_path):
    small = qtool.quantize(grey, tmp_path / "s.onnx", data=MAPS, optimize_for="size", **FAST)
    other = qtool.quantize(grey, tmp_path / "a.onnx", data=MAPS, **FAST | {"target": "arm64"})
    for result in (small, other):
        assert result.plan.skipped == {} and set(result.plan.integer) == {"first", "pool", "second", "third"}
    if find_target("auto").name != "arm64":
        assert other.timing.speedup is None
        assert other.timing.absent.startswith("target arm64 is not this machine's")


def test_the_same_bytes_twice_and_on_two_threads(grey, tmp_path):
    written = set()
    for number, threads in enumerate((1, 1, 2)):
        path = tmp_path / f"{number}.onnx"
        qtool.quantize(grey, path, data=MAPS, threads=threads, **FAST)
        written.add(path.read_bytes())
    assert len(written) == 1


def test_the_clock_says_what_it_tried(grey, tmp_path):
    result = qtool.quantize(grey, tmp_path / "q.onnx", data=MAPS, optimize_for="latency", **FAST)
    tried = [trial.floats for trial in result.trials]
    assert {"", "nothing in float for speed"} <= set(tried)
    assert all(trial.latency_ms > 0 for trial in result.trials)
    assert all(trial.sqnr_db > result.trials[0].sqnr_db - 60 for trial in result.trials)


def test_single_layers_are_tried_that_the_profile_calls_slow(grey, tmp_path, monkeypatch):
    """Where the division of the whole leaves nothing in float, since borders are said to cost more."""
    plans = []

    def profiled(_, __, config, ___):
        integer = {"first": 9000.0, "second": 5000.0, "third": 2000.0}
        return integer if config is not None else dict.fromkeys(("r0", "r1", "y"), 3000.0)

    def timed(sessions, *_):
        raise UsageError(f"{len(sessions)} candidates")

    monkeypatch.setattr(by_clock, "node_times", profiled)
    monkeypatch.setattr(by_clock, "measure_speed", timed)
    monkeypatch.setattr(by_clock, "_serialized", lambda _, plan: plans.append(frozenset(plan.integer)) or b"")
    monkeypatch.setattr(by_clock, "Session", lambda *_, **__: None)
    monkeypatch.setattr(FloatGraph, "speed", lambda *_: None)
    with pytest.raises(UsageError, match="candidates"):
        qtool.quantize(grey, tmp_path / "q.onnx", data=MAPS, optimize_for="latency", **FAST)
    layers = {frozenset(plan & {"first", "second", "third"}) for plan in plans}
    assert layers >= {frozenset({"second", "third"}), frozenset({"first", "third"}), frozenset({"third"})}


def test_the_fastest_is_taken_of_those_near_the_best(grey, tmp_path, monkeypatch):
    """Not of those near the plan that leaves in float what the tables say, which may be far behind."""

    def timed(_, planner, __, plan, ___):
        better = planner.plan(Max(), corrected=False)
        return [TimedPlan(AS_PLANNED, planner, plan, 1.0), TimedPlan(NOTHING, planner, better, 2.0)]

    monkeypatch.setattr(candidates, "by_clock", timed)
    options = FAST | {"calibrator": "percentile:60", "optimize_for": "latency"}
    result = qtool.quantize(grey, tmp_path / "q.onnx", data=MAPS, **options)
    best, other = result.trials
    assert (best.floats, other.floats) == (NOTHING, AS_PLANNED)
    assert best.sqnr_db > other.sqnr_db + 3.0


def test_only_latency_asks_the_clock(tmp_path):
    """Of the graph with outliers migrated and the one as it is, the better one is taken for size."""
    net = Net(4, 64)
    hidden = net("Relu", net("MatMul", "x", net.weight(64, 64, inputs=64)))
    model = net.save(tmp_path / "m.onnx", net("MatMul", hidden, net.weight(64, 16, inputs=64)))
    samples = np.float32(R.normal(size=(4, 1, 4, 64)) * np.where(np.arange(64) % 16, 1.0, 60.0))
    result = qtool.quantize(model, tmp_path / "q.onnx", data=[{"x": x} for x in samples], optimize_for="size")
    assert {trial.smoothed for trial in result.trials} == {True, False}
    assert {trial.latency_ms for trial in result.trials} == {None}
    assert result.trials[0].sqnr_db == max(trial.sqnr_db for trial in result.trials)


def test_the_profile_names_the_nodes(grey):
    times = node_times(model_io.serialize(model_io.load(grey).model), [ONE], None, 0.01)
    # convolutions in blocks of channels are called by their output
    assert {"r0", "y"} <= times.keys() and all(time >= 0 for time in times.values())
