"""Smoothing, mild masks, sums in front of normalisations, and the choice between static and dynamic layers."""

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qtool
from qtool.core.numerics.calibrators import Max
from qtool.core.numerics.histogram import ChannelRange, no_channels
from qtool.core.numerics.sqnr import signal_to_noise
from qtool.core.records.options import Scheme
from qtool.core.records.statistics import load_statistics
from qtool.graph import compose, model_io
from qtool.pipeline.planning.place import place
from qtool.pipeline.planning.ranges import choose
from qtool.pipeline.prepare import prepare
from qtool.pipeline.recovery.example_statistics import observe_examples
from qtool.pipeline.recovery.masks import has_masks, soften_masks
from qtool.pipeline.recovery.refining import agree, with_mild_masks
from qtool.pipeline.recovery.smoothing import (
    _RoundingNoise,
    _scales,
    find_smoothing,
    smooth,
    smoothable_tensors,
    smoothed_ranges,
)
from qtool.quantization.mixed import better_dynamic
from qtool.runtime.census import take_census
from qtool.runtime.session import Session
from qtool.targets.tables import TARGETS
from tests.support.patterns import Net
from tests.support.table_graphs import token_graph
from tests.support.token_models import encoder, sentences


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "encoder.onnx"
    onnx.save(encoder(), path)
    return path


@pytest.fixture
def statistics(source):
    return qtool.calibrate(source, sentences(12)).statistics


def outputs(model, feeds, **options):
    session = Session(model_io.to_bytes(model), **options)
    return [next(iter(session.run(feed).values())) for feed in feeds]


def test_channel_ranges_are_those_of_the_tensor(source, statistics):
    model = prepare(model_io.load(source)).model
    tensors = smoothable_tensors(model)
    assert list(statistics.channels) == tensors and len(tensors) == 4
    session = Session(compose.with_outputs(model, tensors))
    rows = [session.run(feed) for feed in sentences(12)]
    for tensor in tensors:
        seen = np.concatenate([row[tensor].reshape(-1, row[tensor].shape[-1]) for row in rows])
        np.testing.assert_allclose(statistics.channels[tensor].minimum, seen.min(axis=0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(statistics.channels[tensor].maximum, seen.max(axis=0), rtol=1e-4, atol=1e-5)


def test_channel_ranges_survive_the_file_at_any_number_of_threads(source, tmp_path):
    one, two = tmp_path / "1.calib", tmp_path / "2.calib"
    qtool.calibrate(source, sentences(12), one)
    qtool.calibrate(source, sentences(12), two, threads=2)
    assert one.read_bytes() == two.read_bytes()
    assert len(load_statistics(one).channels) == 4


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_channel_ranges_merge_like_their_data(sizes, seed):
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=(n, 3, 4)).astype(np.float32) for n in sizes]
    whole, merged = no_channels(4), no_channels(4)
    whole.observe(np.concatenate(parts))
    for part in parts:
        single = no_channels(4)
        single.observe(part)
        merged.merge(single)
    np.testing.assert_array_equal(whole.minimum, merged.minimum)
    np.testing.assert_array_equal(whole.maximum, merged.maximum)


def found_scales(source, statistics):
    model = prepare(model_io.load(source)).model
    squares = {t: np.ones(len(c.minimum)) for t, c in statistics.channels.items()}
    layers = [str(n.name) for n in model.graph]
    return model, find_smoothing(model, statistics.channels, squares, layers)


def test_smoothing_finds_the_outliers_and_changes_nothing_in_float(source, statistics):
    model, scales = found_scales(source, statistics)
    assert scales
    for row in scales.values():
        assert (np.exp2(np.rint(np.log2(row))) == row).all(), "powers of two"
    first = np.asarray(scales[next(iter(scales))])
    assert set(np.argsort(first)[-2:]) == {3, 17}
    feeds = sentences(4)
    for a, b in zip(outputs(model, feeds), outputs(smooth(model, scales), feeds), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_ranges_of_smoothed_tensors_are_exact(source, statistics):
    model, scales = found_scales(source, statistics)
    ranges = smoothed_ranges(model, scales, statistics.channels)
    changed = smooth(model, scales)
    session = Session(compose.with_outputs(changed, list(ranges)))
    rows = [session.run(feed) for feed in sentences(12)]
    for tensor, (low, high) in ranges.items():
        assert low == pytest.approx(min(float(r[tensor].min()) for r in rows), rel=1e-4, abs=1e-5)
        assert high == pytest.approx(max(float(r[tensor].max()) for r in rows), rel=1e-4, abs=1e-5)


def test_scales_of_another_model_are_refused(source, statistics):
    model, scales = found_scales(source, statistics)
    with pytest.raises(ValueError, match="smooths tensor"):
        smooth(model, {"elsewhere": (1.0, 2.0)})
    with pytest.raises(ValueError, match="smooths tensor"):
        smooth(model, {next(iter(scales)): (1.0, 2.0)})


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.floats(1.0, 200.0))
def test_the_expected_noise_falls_with_what_is_measured(seed, outlier):
    """The closed form against rounding itself, on one linear layer."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(400, 16)) * np.where(np.arange(16) == 5, outlier, 1.0)
    weight = rng.normal(size=(16, 8))
    noise = _RoundingNoise(x.min(axis=0), x.max(axis=0), (x**2).mean(axis=0), weight)
    candidates = [np.ones(16), *(_scales(noise.largest, np.abs(weight).max(axis=1), s) for s in (0.3, 0.5, 0.7))]
    best = candidates[int(np.argmin(noise.expected(np.stack(candidates))))]

    def measured(scale):
        a, w = x / scale, weight * scale[:, None]
        step = np.ptp(np.append(a, 0.0)) / 255
        steps = np.abs(w).max(axis=0) / 127
        rounded = (np.rint(a / step) * step) @ (np.rint(w / steps) * steps)
        return ((rounded - x @ weight) ** 2).mean()

    assert measured(best) <= 1.5 * min(measured(s) for s in candidates)


def test_quantize_migrates_where_it_measures_better(source, statistics, tmp_path):
    figures = {}
    for word in ("off", "on", "auto"):
        result = qtool.quantize(
            source,
            tmp_path / f"{word}.onnx",
            calibration=statistics,
            smoothing=word,
            calibrator="max",
            form="static",
            optimize_for="size",
            partial=False,
        )
        figures[word] = result.verification.output_sqnr_db
        assert bool(result.plan.recipe.smoothing) == (word != "off")
    assert figures["on"] > figures["off"] + 3.0
    assert figures["auto"] >= figures["on"] - 0.1


def test_auto_tries_static_and_dynamic(source, statistics, tmp_path):
    result = qtool.quantize(source, tmp_path / "a.onnx", calibration=statistics)
    assert {t.form for t in result.trials} >= {"static", "dynamic"}
    assert result.trials[0].sqnr_db == max(t.sqnr_db for t in result.trials)
    static = qtool.quantize(source, tmp_path / "b.onnx", calibration=statistics, form="static")
    assert not static.plan.dynamic and {t.form for t in static.trials} == {"static"}


def test_a_form_that_is_asked_for_is_tried_once(source, statistics, tmp_path, monkeypatch):
    monkeypatch.setattr("qtool.quantization.candidates._WITHIN_DB", 1000.0)
    trials = qtool.quantize(source, tmp_path / "d.onnx", calibration=statistics, form="dynamic").trials
    kinds = [(t.form, t.smoothed, str(t.calibrator), t.bias_correction) for t in trials]
    assert len(kinds) > 1 and len(set(kinds)) == len(kinds)


def test_optimising_for_latency_times_the_candidates(source, statistics, tmp_path, monkeypatch):
    monkeypatch.setattr("qtool.quantization.candidates._hastened", lambda chosen, trials, *_: (chosen, trials))
    result = qtool.quantize(source, tmp_path / "a.onnx", calibration=statistics, optimize_for="latency")
    timed = [t for t in result.trials if t.latency_ms is not None]
    assert len(timed) >= 4 and result.trials[0] in timed
    near = [t for t in timed if t.sqnr_db >= max(t.sqnr_db for t in timed) - 3.0]
    assert result.trials[0].latency_ms == min(t.latency_ms for t in near)


def test_a_plan_with_smoothing_goes_round(source, statistics, tmp_path):
    for name in ("a", "b"):
        plan = {"save_plan": tmp_path / "p.json"} if name == "a" else {"plan": tmp_path / "p.json"}
        qtool.quantize(source, tmp_path / f"{name}.onnx", calibration=statistics, **plan)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_masks_become_mild_and_give_the_same(source):
    model = prepare(model_io.load(source)).model
    assert has_masks(model)
    mild = soften_masks(model)
    assert not has_masks(mild)
    feeds = sentences(6, padded=True)
    for a, b in zip(outputs(model, feeds), outputs(mild, feeds), strict=True):
        assert signal_to_noise(a, b) > 100.0


@pytest.mark.parametrize(("outlier", "kept"), [(1.0, True), (40.0, False)])
@pytest.mark.parametrize("masked", [-10000.0, -3.4e38])
def test_masks_are_softened_where_the_outputs_stay_the_same(masked, outlier, kept, tmp_path):
    """Scores that lie further apart than the mild mask reaches show through it: measured, and declined."""
    onnx.save(encoder(outlier, masked), tmp_path / "encoder.onnx")
    prepared = prepare(model_io.load(tmp_path / "encoder.onnx"))
    rows = [{"ids": np.array([[5, 9, 700]]), "mask": np.array([[1, 0, 0]])}]
    mild = with_mild_masks(prepared)
    assert mild is not None and mild.recipe.steps == ("soften-masks",)
    exact, made = (observe_examples(graph.model, rows, biases=False).outputs for graph in (prepared, mild))
    assert agree(exact, made) == kept


def test_padding_does_not_ruin_ranges(source, tmp_path):
    """The masked scores are at -10000; their tensor is not among those that get a grid."""
    statistics = qtool.calibrate(source, sentences(12, padded=True)).statistics
    assert min(h.minimum for h in statistics.tensors.values()) > -1000.0
    result = qtool.quantize(source, tmp_path / "a.onnx", calibration=statistics)
    assert result.verification.output_sqnr_db > 20.0


def test_no_skip_layer_normalization_is_left(source):
    """Its kernel is several times slower than Sum and LayerNormalization apart."""
    before = Counter(take_census(source.read_bytes())[1].kernels)
    assert before["SkipLayerNormalization"] == 2
    prepared = prepare(model_io.load(source))
    assert prepared.changes["residual_sum"] == 2
    after = Counter(take_census(model_io.to_bytes(prepared.model))[1].kernels)
    assert after["SkipLayerNormalization"] == 0 and after["LayerNormalization"] == 3


def test_a_channel_range_of_nothing_is_empty():
    empty = no_channels(2)
    empty.observe(np.zeros((0, 2), np.float32))
    assert isinstance(empty, ChannelRange) and (empty.minimum > empty.maximum).all()


def test_layers_are_dynamic_where_runs_differ(tmp_path):
    """One layer's input has the same range in each run, the other's a range of its own: told apart."""
    net = Net(4, 8, batch=1)
    wide = net("MatMul", "x", net.weight(8, 8, inputs=8), name="wide")
    net("MatMul", net("Sigmoid", wide), net.weight(8, 8, inputs=8), name="even")
    path = net.save(tmp_path / "two.onnx", "even_out")
    rng = np.random.default_rng(1)
    runs = [{"x": (rng.normal(size=(1, 4, 8)) * size).astype(np.float32)} for size in (100, 90, 110, 95, 120, 3000)]
    statistics = qtool.calibrate(path, runs).statistics
    model = prepare(model_io.load(path)).model
    placement = place(model, TARGETS["x86"], Scheme())
    ranges = choose(placement, statistics, Max())
    seen = observe_examples(model, statistics.examples).channels
    assert better_dynamic(model, placement, ranges, ("wide", "even"), statistics, seen) == ("wide",)
    result = qtool.quantize(path, tmp_path / "int8.onnx", calibration=statistics, smoothing="off")
    mixed = [t for t in result.trials if t.form == "mixed"]
    assert len(mixed) == 1


def test_a_layer_that_reads_the_model_s_input_alone(tmp_path):
    net = Net(4, 8)
    path = net.save(tmp_path / "one.onnx", net("MatMul", "x", net.weight(8, 8, inputs=8), name="only"))
    result = qtool.quantize(path, tmp_path / "int8.onnx", data=net.samples(6))
    assert result.verification.output_sqnr_db > 30.0 and result.verification.integer_layers == 1


def divided_everywhere(model, rng):
    """Any factors for every tensor that could be divided, the same for those that share a weight."""
    found = {}
    for tensor in smoothable_tensors(model):
        (value,) = [v for node in model.graph for v in node.inputs if v is not None and v.name == tensor][:1]
        found[tensor] = tuple(map(float, np.exp2(rng.integers(-3, 4, value.shape[-1]))))
    return found


def check_smoothed_graph(seed, folder):
    """The graph with tensors divided computes the same, and what is said of its tensors is what a run of it shows."""
    graph = token_graph(seed)
    model = prepare(model_io.load(graph.net.save(folder / "f.onnx", *graph.outputs))).model
    scales = divided_everywhere(model, np.random.default_rng(seed))
    changed = smooth(model, scales)
    before, after = (observe_examples(graph, [graph_data], biases=True) for graph, graph_data in (
        (model, graph.data), (changed, graph.data)
    ))  # fmt: skip
    for name, array in before.outputs[0].items():
        assert signal_to_noise(array, after.outputs[0][name]) > 90.0
    derived = before.smoothed(model, scales)
    assert derived.means.keys() == after.means.keys() and derived.channels.keys() == after.channels.keys()
    for name, means in after.means.items():
        np.testing.assert_allclose(derived.means[name], means, rtol=1e-3, atol=1e-4 * max(np.abs(means).max(), 1.0))
    for name, seen in after.channels.items():
        np.testing.assert_allclose(derived.channels[name].highs, seen.highs, rtol=1e-3, atol=1e-4)
    return bool(scales)


def test_what_is_known_of_smoothed_graphs_is_what_they_hold(tmp_path):
    assert sum(check_smoothed_graph(seed, tmp_path) for seed in range(12)) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 300))
def test_what_is_known_of_many_smoothed_graphs_is_what_they_hold(seed, tmp_path):
    check_smoothed_graph(seed, tmp_path)


def other_readers(net):
    """The outlying channels of a sum are divided out for a product; the others that read it see it whole."""
    scale = np.where(np.arange(16) == 3, 40.0, 1.0)
    sums = net("Mul", "x", net.const(scale))
    mixed = net.conv(sums, 9, 6, kernel=(3,), name="mix")
    stacked = net("MatMul", net("Unsqueeze", sums, net.const([1], dtype=np.int64)), net.weight(2, 16, 4, inputs=16))
    return net("MatMul", sums, net.weight(16, 4, inputs=16), name="product"), mixed, stacked


def normalised_readers(net):
    """The same behind a layer normalisation, which must not take the factors: not all that read it are divided."""
    h = net("LayerNormalization", "x", net.const(np.where(np.arange(16) == 3, 40.0, 1.0)), net.bias(16), axis=-1)
    weight = net.weight(2, 16, 4, inputs=16)
    stacked = net("MatMul", net("Unsqueeze", h, net.const([1], dtype=np.int64)), weight)
    plain = net("MatMul", h, net.weight(1, 16, 4, inputs=16))
    return net("MatMul", h, net.weight(16, 4, inputs=16), name="product"), stacked, plain


@pytest.mark.parametrize("form", ["auto", "static", "dynamic"])
@pytest.mark.parametrize("build", [other_readers, normalised_readers])
def test_other_readers_of_a_divided_tensor(build, form, tmp_path):
    net = Net(9, 16)
    source = net.save(tmp_path / "f.onnx", *build(net))
    result = qtool.quantize(source, tmp_path / "q.onnx", data=net.samples(12), smoothing="on", form=form, target="x86")
    assert len(result.plan.recipe.smoothing) == 1
    assert result.verification.output_sqnr_db > 25.0


def shared_weights(net):
    """Three blocks of the same two weights."""
    h = "x"
    scale, shift = net.const(np.where(np.arange(32) % 11 == 3, 40.0, 1.0)), net.const(np.zeros(32))
    up, down = net.weight(32, 128, inputs=32), net.weight(128, 32, inputs=128)
    for _ in range(3):
        up_made = net("Relu", net("MatMul", net("LayerNormalization", h, scale, shift, axis=-1), up))
        h = net("Add", net("MatMul", up_made, down), h)
    return (h,)


def test_a_shared_weight_stays_one(tmp_path):
    net = Net(8, 32)
    source = net.save(tmp_path / "f.onnx", *shared_weights(net))
    statistics = qtool.calibrate(source, net.samples(8)).statistics
    sizes, noise = {}, {}
    for word in ("on", "off"):
        written = tmp_path / f"{word}.onnx"
        result = qtool.quantize(source, written, calibration=statistics, smoothing=word, form="dynamic", target="x86")
        sizes[word], noise[word] = written.stat().st_size, result.verification.output_sqnr_db
        assert len(result.plan.dynamic) == 2
        factors = list(result.plan.recipe.smoothing.values())
        assert len(factors) == (3 if word == "on" else 0) and len(set(factors)) <= 1
    assert sizes["on"] < sizes["off"] + 2048 and noise["on"] > noise["off"] + 3.0


@pytest.mark.parametrize("other", ["a layer without tokens", "the other way round"])
def test_a_weight_that_is_not_only_read_by_divided_layers_is_left_alone(other, tmp_path):
    net = Net(8, 16)
    scale = net.const(np.where(np.arange(16) == 3, 40.0, 1.0))
    weight = net.weight(16, 16, inputs=16)
    h = net("MatMul", net("LayerNormalization", "x", scale, net.bias(16), axis=-1), weight)
    if other == "a layer without tokens":
        h = net(
            "Add",
            h,
            net(
                "Unsqueeze",
                net("MatMul", net("ReduceMax", "x", axes=[1], keepdims=0), weight),
                net.const([1], dtype=np.int64),
            ),
        )
    else:
        rows = net("Reshape", h, net.const([-1, 16], dtype=np.int64))
        h = net("Reshape", net("Gemm", rows, weight, transB=1), net.const([-1, 8, 16], dtype=np.int64))
    source = net.save(tmp_path / "f.onnx", h)
    statistics = qtool.calibrate(source, net.samples(8)).statistics
    _, scales = found_scales(source, statistics)
    assert scales == {}


@pytest.mark.parametrize("dead", [0, 8, 40])
def test_dead_channels_are_not_divided_and_factors_are_not_rounded(dead, tmp_path):
    net = Net(12, 32)
    wide = net.rng.normal(size=(32, 64)) / 6.0
    shift = net.rng.normal(size=64) * 0.2
    wide[:, :dead], shift[:dead] = 0.0, -1.0
    scale = np.where(np.arange(64) % 16 == 15, 60.0, 1.0)
    hidden = net("Relu", net("Add", net("MatMul", "x", net.const(wide * scale)), net.const(shift * scale)))
    narrow = net.rng.normal(size=(64, 32)) / 8.0 / scale[:, None]
    source = net.save(tmp_path / "f.onnx", net("MatMul", hidden, net.const(narrow), name="narrow"), hidden)
    options = {"data": net.samples(16), "calibrator": "max", "form": "static", "target": "x86", "partial": False}
    result = qtool.quantize(source, tmp_path / "q.onnx", smoothing="on", **options)
    factors = np.asarray(result.plan.recipe.smoothing[hidden])
    assert (factors[:dead] == 1.0).all() and (factors[15::16] > 4.0).any()
    held = [onnx.numpy_helper.to_array(i) for i in onnx.load(tmp_path / "q.onnx").graph.initializer]
    assert any(a.dtype == np.float32 and np.array_equal(a, factors) for a in held)
    plain = qtool.quantize(source, tmp_path / "p.onnx", smoothing="off", **options)
    assert result.verification.output_sqnr_db > plain.verification.output_sqnr_db
