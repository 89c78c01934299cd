"""Sensitivity: the figures are those of the naive way, the bad layer is found, and nothing is computed twice."""

import functools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import qtool
from qtool.core.errors import UsageError, VerificationError
from qtool.core.numerics.calibrators import Entropy, Max
from qtool.core.records.options import Scheme
from qtool.core.records.sensitivity import VIEWS, Sensitivity
from qtool.evaluation.metrics.observation import Observation
from qtool.evaluation.metrics.similarity import Sqnr
from qtool.feeds import open_feeds
from qtool.graph import edit, model_io
from qtool.graph.serialized import Serialized
from qtool.pipeline.planning.planner import Planner
from qtool.pipeline.prepare import prepare
from qtool.pipeline.rewrite.static import rewrite
from qtool.report.sensitivity import sensitivity_text
from qtool.runtime.census import take_census
from qtool.runtime.session import Session
from qtool.targets.kernels import INTEGER_KERNELS
from qtool.targets.tables import TARGETS
from qtool.tuning.sensitivity import chain
from qtool.tuning.sensitivity import run as module
from qtool.tuning.sensitivity.analyze import measure_layers, sensitivity
from qtool.tuning.sensitivity.variants import alone
from tests.support.naive_sensitivity import naive
from tests.support.patterns import BRIDGES, PATTERNS, Net
from tests.support.places import REPOSITORY

DIGITS = REPOSITORY / "calib_data" / "digits_cnn.onnx"
# a cut network keeps float tensors in another layout at the cut, and adds a residual in another order
FLOAT_ROUNDING_DB = 1e-3


@functools.cache
def digits():
    """The shipped network's statistics and labelled data."""
    statistics = qtool.calibrate(DIGITS, REPOSITORY / "calib_data" / "digits_calib.npz", samples=40).statistics
    with np.load(REPOSITORY / "calib_data" / "digits_eval.npz") as arrays:
        return statistics, {name: arrays[name][:24] for name in arrays.files}


def on_digits(**options) -> Sensitivity:
    statistics, data = digits()
    return sensitivity(DIGITS, data, calibration=statistics, calibrator="max", bias_correction="off", **options)


@functools.cache
def found_on_digits() -> Sensitivity:
    """What the default options find."""
    return on_digits()


def plans(prepared, statistics, calibrator, *, corrected):
    """Layers that stay float -> the plan of the others, as `measure_layers` wants it."""
    planner = Planner(prepared, statistics, TARGETS["x86"], Scheme())
    return lambda floating: planner.plan(calibrator, floating=floating, corrected=corrected)


def setup(source: Path, data, samples: int = 6):
    """What `measure_layers` and `naive` want."""
    prepared = prepare(model_io.load(source))
    statistics = qtool.calibrate(source, data, samples=samples).statistics
    plan_of = plans(prepared, statistics, Max(), corrected=True)
    feeds = open_feeds(data, edit.input_specs(prepared.model), samples=samples)
    return prepared, plan_of, TARGETS["x86"], feeds


def agree(prepared, plan_of, target, feeds, metric=None) -> Sensitivity:
    """Measure in both ways, and compare."""
    fast = measure_layers(prepared, plan_of, target, feeds, metric=metric)
    assert not any(layer.unmeasured for layer in fast.layers), [layer.unmeasured for layer in fast.layers]
    for view in VIEWS:
        slow = dict(naive(prepared, plan_of, target, list(feeds), metric, view))
        assert set(slow) == {layer.name for layer in fast.layers}
        for layer in fast.layers:
            found, wanted = layer.figures(view), slow[layer.name]
            assert (found.value, found.drop) == (wanted.value, wanted.drop)
            if view == "without":
                assert found.sqnr_db == wanted.sqnr_db, layer.name
            else:
                assert abs(found.sqnr_db - wanted.sqnr_db) < FLOAT_ROUNDING_DB, layer.name
    return fast


@pytest.mark.parametrize("name", [*PATTERNS, *BRIDGES])
def test_figures_are_those_of_the_naive_way(name, tmp_path):
    net, outputs = (PATTERNS | BRIDGES)[name].net()
    agree(*setup(net.save(tmp_path / "f.onnx", *outputs), net.samples()))


def test_figures_are_those_of_the_naive_way_on_digits():
    statistics, data = digits()
    prepared = prepare(model_io.load(DIGITS))
    plan_of = plans(prepared, statistics, Entropy(), corrected=False)
    feeds = open_feeds(data, edit.input_specs(prepared.model), batch_size=5)
    fast = agree(prepared, plan_of, TARGETS["x86"], feeds, "top1")
    assert len(fast.layers) == 17
    assert sum(layer.share for layer in fast.layers) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "name", ["residual add relu", "squeeze and excite", "concat", "flatten", "silu", "relu beside"]
)
def test_what_is_measured_is_one_integer_kernel_and_all_but_one(name, tmp_path):
    """On the whole network, as the naive way loads it."""
    net, outputs = (PATTERNS | BRIDGES)[name].net()
    prepared, plan_of, target, _ = setup(net.save(tmp_path / "f.onnx", *outputs), net.samples())
    full = plan_of(())
    weighted = {n for n in full.layers if n in full.integer}
    for layer in weighted:
        plan = alone(prepared.model, full, layer, target)
        _, census = take_census(model_io.to_bytes(rewrite(prepared.model, plan)))
        (kernel,) = [n for n in census.nodes if n.op_type in INTEGER_KERNELS]
        assert kernel.name.startswith(layer)
        _, census = take_census(model_io.to_bytes(rewrite(prepared.model, plan_of((layer,)))))
        integer = {n for n in weighted if census.runs_as(n, target.rules_kernels)}
        assert integer == weighted - {layer}


def collapsing(net: Net) -> tuple[str, ...]:
    """Five convolutions; `bad[0]` reads an input whose channels differ by 1000, and makes up for it."""
    h = net("Relu", net.conv("x", 8, 8, name="good1"))
    skew = np.logspace(0, 3, 8).reshape(1, 8, 1, 1)
    weight = net.const(net.rng.normal(size=(8, 8, 3, 3)) / 8 * skew)
    h = net("Add", h, net("Conv", "y", weight, net.bias(8), pads=[1] * 4, name="bad[0]"))
    h = net("Relu", net.conv(h, 8, 8, name="good2"))
    return (net.conv(net("Relu", net.conv(h, 8, 8, name="good3")), 8, 4, name="good4"),)


@pytest.fixture(scope="module")
def bad_net(tmp_path_factory):
    """A float model, and its inputs."""
    folder = tmp_path_factory.mktemp("bad")
    net = Net(8, 8, 8)
    net.nodes.append(onnx.helper.make_node("Identity", ["x"], ["y"]))
    outputs = collapsing(net)
    skew = np.logspace(0, -3, 8).reshape(1, 8, 1, 1)
    model = net.model(*outputs)
    del model.graph.node[0]
    model.graph.input.append(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 8, 8, 8]))
    onnx.checker.check_model(model)
    onnx.save(model, folder / "f.onnx")
    x = net.samples(8)["x"]
    return folder / "f.onnx", {"x": x, "y": (x[::-1] * skew).astype(np.float32)}


def test_the_layer_made_bad_is_first_in_both_views(bad_net):
    source, data = bad_net
    statistics = qtool.calibrate(source, data).statistics
    found = sensitivity(source, data, calibration=statistics, calibrator="max")
    assert found.metric is None
    assert found.ranking("alone")[0] == found.ranking("without")[0] == found.layers[0].name == "bad[0]"
    bad, *others = found.layers
    assert bad.alone.sqnr_db < min(layer.alone.sqnr_db for layer in others) - 10.0
    assert bad.without.sqnr_db > found.quantized.sqnr_db + 10.0
    # no longer the worst when the other view ranks and it alone is asked for
    other = sensitivity(source, data, calibration=statistics, calibrator="max", views=["without"])
    assert [layer.name for layer in other.layers] == list(found.ranking("without"))
    assert all(layer.alone is None for layer in other.layers)


@pytest.mark.long
def test_ties_of_the_metric_are_broken_by_sqnr():
    found = found_on_digits()
    assert found.metric.name == "top1"
    for view, sign in (("alone", 1.0), ("without", -1.0)):
        figures = {layer.name: layer.figures(view) for layer in found.layers}
        keys = [(-sign * figures[n].drop, sign * figures[n].sqnr_db) for n in found.ranking(view)]
        assert keys == sorted(keys)
        assert len({drop for drop, _ in keys}) < len(keys)


def test_a_network_of_one_layer_is_float_without_it(tmp_path):
    net = Net(12)
    source = net.save(tmp_path / "f.onnx", net.gemm("x", 12, 6))
    found = sensitivity(source, net.samples(), calibration=qtool.calibrate(source, net.samples()).statistics)
    (layer,) = found.layers
    assert layer.alone == found.quantized
    assert layer.without.sqnr_db > 100.0
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    if math.isinf(layer.without.sqnr_db):
        assert document["layers"][0]["without"]["sqnr_db"] is None
        assert document["not_finite"]["/layers/0/without/sqnr_db"] == "inf"


@pytest.mark.parametrize(
    "options",
    [
        {"memory": 1},
        {"threads": 3},
        *(pytest.param(given, marks=pytest.mark.long) for given in ({"memory": 1_500_000}, {"threads": 1})),
    ],
)
def test_memory_and_threads_change_nothing(options):
    assert on_digits(**options).to_dict() == found_on_digits().to_dict()


@pytest.mark.long
def test_a_small_budget_makes_several_groups(monkeypatch):
    taken = []
    items = module.Bases.items
    monkeypatch.setattr(
        module.Bases, "items", lambda self, jobs, *rest: taken.append(len(jobs)) or items(self, jobs, *rest)
    )
    on_digits(memory=1_500_000)
    assert 2 < len(taken) < 17
    assert sum(taken) == 34


def layer_runs(monkeypatch, work) -> int:
    """How often a layer with weights is executed while `work` is done."""
    runs = 0
    sizes: dict[int, int] = {}
    begin, run = Session.__init__, Session.run_list

    def counted_begin(self, model, **options):
        begin(self, model, **options)
        data = model.joined() if isinstance(model, Serialized) else model
        proto = onnx.load_from_string(data) if isinstance(data, bytes) else onnx.load(data)
        sizes[id(self)] = sum(n.op_type in ("Conv", "Gemm", "MatMul") for n in proto.graph.node)
        kept.append(self)

    def counted_run(self, feeds, names):
        nonlocal runs
        runs += sizes[id(self)]
        return run(self, feeds, names)

    kept: list[Session] = []
    with monkeypatch.context() as patch:
        patch.setattr(Session, "__init__", counted_begin)
        patch.setattr(Session, "run_list", counted_run)
        work()
    return runs


@pytest.mark.parametrize("view", VIEWS)
def test_little_is_run_again(monkeypatch, view):
    statistics, data = digits()
    prepared = prepare(model_io.load(DIGITS))
    plan_of = plans(prepared, statistics, Max(), corrected=False)
    feeds = open_feeds(data, edit.input_specs(prepared.model))
    plan_of(())
    fast = layer_runs(monkeypatch, lambda: measure_layers(prepared, plan_of, TARGETS["x86"], feeds, views=[view]))
    slow = layer_runs(monkeypatch, lambda: list(naive(prepared, plan_of, TARGETS["x86"], list(feeds), "top1", view)))
    assert slow >= 17 * 17 * 24
    assert fast < 0.65 * slow


def stop_after(count):
    """A progress that interrupts before the layer after so many."""

    def progress(step, done, total):
        if step != "measure layers":
            return
        if done == count < total:
            raise KeyboardInterrupt

    return progress


@pytest.mark.long
def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    on_digits(output=tmp_path / "whole.json")
    with pytest.raises(KeyboardInterrupt):
        on_digits(output=tmp_path / "a.json", progress=stop_after(9))
    half = json.loads((tmp_path / "a.json").read_text())
    assert not half["complete"]
    measured = {(row["name"], view) for row in half["layers"] for view in VIEWS if row[view] is not None}
    assert len(measured) == 9
    built = []
    chain = module.PieceChain
    monkeypatch.setattr(
        module, "PieceChain", lambda job, *rest: built.append((job.layer, job.view)) or chain(job, *rest)
    )
    found = on_digits(output=tmp_path / "a.json")
    assert len(built) == 34 - 9 and not measured & set(built)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    built.clear()
    assert on_digits(output=tmp_path / "a.json") == found
    assert built == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"metric": "cosine"}, "another metric"),
        ({"views": ["alone"]}, "another choice of views"),
        ({"samples": 7}, "another data"),
        ({"scheme": Scheme(granularity="per-tensor")}, "another calibration, calibrator, scheme"),
    ],
)
def test_a_file_of_another_analysis_is_refused(tmp_path, change, says):
    path = tmp_path / "a.json"
    with pytest.raises(KeyboardInterrupt):
        on_digits(output=path, progress=stop_after(2))
    before = path.read_bytes()
    with pytest.raises(UsageError, match=f"{says}.*remove it, or name another output") as caught:
        on_digits(output=path, **change)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", ["", "{}", "[1]", '{"schema": "qtool.sensitivity", "schema_version": 1}', "\x00\xff"]
)
def test_a_file_that_is_something_else_is_refused(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match="is not what `qtool sensitivity` writes"):
        on_digits(output=path)
    assert path.read_text(encoding="utf-8") == content


def test_a_metric_of_ones_own_and_one_that_compares_with_float():
    def confidence(outputs, labels):
        (scores,) = outputs.values()
        return -np.abs(scores[np.arange(len(scores)), labels["labels"]])

    confidence.lower_is_better = True
    found = on_digits(metric=confidence, views=["alone"])
    assert found.metric.name == "confidence"
    drops = [layer.alone.drop for layer in found.layers]
    assert drops == sorted(drops, reverse=True) and len(set(drops)) > 10
    found = on_digits(metric="mse", views=["alone"])
    values = [layer.alone.value for layer in found.layers]
    assert values == sorted(values, reverse=True)
    assert all(layer.alone.drop is None for layer in found.layers)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"target": "tensorrt"}, "does not run on this machine"),
        ({"views": []}, "unknown views"),
        ({"views": ["alone", "nothing"]}, "unknown views"),
        ({"threads": 0}, "threads=0: give 1 or more"),
        ({"metric": "top9"}, "top9"),
    ],
)
def test_options_that_make_no_sense(options, says):
    with pytest.raises(UsageError, match=says):
        on_digits(**options)


@pytest.mark.parametrize("mends", [True, False])
@pytest.mark.parametrize("view", VIEWS)
def test_what_does_not_run_as_planned_is_measured_in_another_form(view, mends, monkeypatch, tmp_path):
    """Alone, a layer gets the quantised output that it has in the whole plan; left out, the others are placed again."""
    net = Net(8)
    first = net("MatMul", "x", net.weight(8, 16, inputs=8), name="first")
    made = net("Tanh", net("MatMul", first, net.weight(16, 4, inputs=16), name="last"))
    prepared, plan_of, target, feeds = setup(net.save(tmp_path / "m.onnx", made), net.samples())
    odd, check = {"alone": {"first"}, "without": {"last"}}[view], chain._check_census

    def run_in_float(census, piece, plan, target):
        check(census, piece, plan, target)
        mended = plan.calibrator == "again" if view == "without" else any(row.produced for row in plan.activations)
        if set(plan.integer) == odd and not (mends and mended):
            raise VerificationError("onnxruntime runs it in float here")

    def again(floating):
        return replace(plan_of(floating), calibrator="again")

    monkeypatch.setattr(chain, "_check_census", run_in_float)
    found = measure_layers(prepared, plan_of, target, feeds, again=again, views=[view])
    layer = next(row for row in found.layers if row.name == "first")
    assert (layer.figures(view) is not None) == mends
    assert layer.unmeasured == ({} if mends else {view: "onnxruntime runs it in float here"})


def test_heads_are_measured_with_all_their_layers_at_once(tmp_path):
    """What is printed leaves just this in float; a head of one layer has no row of its own beside all of them."""
    net = Net(3, 8, 8)
    h = net("Relu", net.conv("x", 3, 8, name="body"))
    boxes = [net.conv(h, 8, 4, kernel=(1, 1), name=name) for name in ("near it", "far")]
    scores = net("Sigmoid", net.conv(h, 8, 4, kernel=(1, 1), name="score"))
    source = net.save(tmp_path / "f.onnx", net("Add", *boxes), scores)
    prepared, plan_of, target, feeds = setup(source, net.samples())
    out = tmp_path / "s.json"
    found = measure_layers(prepared, plan_of, target, feeds, output=out)
    (output, _) = (str(value.name) for value in prepared.model.graph.outputs)
    heads = {head.name: head for head in found.heads}
    assert set(heads) == {f"head of {output}", "all heads"} and not any(head.unmeasured for head in found.heads)
    one, every = heads[f"head of {output}"], heads["all heads"]
    assert one.layers == ("near it", "far") and every.layers == ("near it", "far", "score")
    assert one.exclude == ("near it", "far") and one.share == pytest.approx(2 * 32 / (8 * 27 + 96))
    batches = list(feeds)
    for head in found.heads:
        sums = Sqnr()
        model = Session(model_io.serialize(rewrite(prepared.model, plan_of(head.layers))))
        exact = Session(model_io.serialize(prepared.model))
        for n, batch in enumerate(batches):
            sums.update(Observation("q", model.run(batch.inputs), exact.run(batch.inputs), {}, n, batch.size))
        assert head.without.sqnr_db == pytest.approx(sums.measured(), abs=FLOAT_ROUNDING_DB)
        quiet = min(layer.alone.sqnr_db for layer in found.layers if layer.name in head.layers)
        assert head.alone.sqnr_db == pytest.approx(quiet, abs=6.0)
    text = sensitivity_text(found)
    assert f"head of {output} in float: --exclude 'near it' --exclude far" in text and "head  " in text
    shown = sensitivity_text(found, 1)
    assert f"and {len(found.layers) - 1} more layer" in shown and found.layers[1].name not in shown.split("in float")[0]
    useless = replace(found, heads=tuple(replace(head, without=found.quantized) for head in found.heads))
    assert f"head of {output} in float" not in sensitivity_text(useless)
    # what stands in the file is not measured again
    document = json.loads(out.read_text())
    assert [head["name"] for head in document["heads"]] == [head.name for head in found.heads]
    out.write_text(json.dumps(document | {"heads": document["heads"][:1], "checksum": None}))
    again = measure_layers(prepared, plan_of, target, feeds, output=out)
    assert again == found
