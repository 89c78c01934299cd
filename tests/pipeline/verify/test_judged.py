"""Outputs behind a saturated Sigmoid or Softmax are judged in front of it too, on the kernels that will run."""

import math

import numpy as np
import pytest

import qtool
from qtool.core.numerics.sqnr import signal_to_noise
from qtool.graph import compose, model_io
from qtool.graph.parts import saturating_ends
from qtool.pipeline.prepare import prepare
from qtool.pipeline.rewrite.static import rewrite
from qtool.pipeline.verify.judged import OutputJudge
from qtool.quantization.scoring import Scorer
from qtool.report.quantize import quantized_text
from qtool.runtime.census import take_census
from qtool.runtime.session import Session
from qtool.targets.tables import TARGETS
from tests.support.patterns import Net


def after_conv(net):
    return net("Sigmoid", net.conv("x", 3, 4))


def after_gemm(net):
    return net("Softmax", net.gemm(net("Flatten", "x"), 192, 5), axis=-1)


def in_a_concat(net):
    hidden = net("Relu", net.conv("x", 3, 4))
    flat = net("Reshape", net.conv(hidden, 4, 2), net.const([0, 2, -1], dtype=np.int64))
    boxes = net("Reshape", net.conv(hidden, 4, 4), net.const([0, 4, -1], dtype=np.int64))
    return net("Concat", boxes, net("Sigmoid", flat), axis=1)


@pytest.mark.parametrize("make", [after_conv, after_gemm, in_a_concat])
@pytest.mark.parametrize("exclude", [False, True])
def test_what_the_end_reads_is_handed_out_and_the_same_kernels_run(tmp_path, make, exclude):
    net = Net(3, 8, 8)
    source = net.save(tmp_path / "m.onnx", make(net))
    data = {"x": net.samples(8)["x"]}
    prepared = prepare(model_io.load(source)).model
    (end,) = saturating_ends(prepared)
    kept = {"exclude": end.node} if exclude else {}
    plan = qtool.quantize(source, tmp_path / "q.onnx", data=data, calibrator="max", **kept).plan
    model, config = rewrite(prepared, plan), TARGETS[plan.target].session
    plain, before = take_census(model_io.serialize(model), config)
    reads = compose.hand_out_reads(model, {end.node: end.reads})
    session, after = take_census(model_io.serialize(model), config)
    kinds = [{op: n for op, n in c.kernels.items() if op != "DequantizeLinear"} for c in (before, after)]
    assert kinds[0] == kinds[1]
    one, two = plain.run(net.samples(8)), session.run(net.samples(8))
    assert all((one[name] == two[name]).all() for name in one)
    exact = Session(compose.with_outputs(prepared, [end.reads])).run(net.samples(8))[end.reads]
    assert signal_to_noise(exact, two[reads[end.reads]]) > 25.0


def saturated(net, bias):
    """Scores of which none is above 1e-15 on the samples."""
    hidden = net("Relu", net.conv("x", 3, 4))
    return net("Sigmoid", net("Conv", hidden, net.weight(2, 4, 1, 1, inputs=4), net.const([bias, bias])))


@pytest.mark.parametrize("bias", [-40.0, -300.0, 60.0])
def test_no_figure_is_of_what_underflows(tmp_path, bias, capsys):
    net = Net(3, 8, 8)
    source = net.save(tmp_path / "m.onnx", saturated(net, bias))
    result = qtool.quantize(source, tmp_path / "q.onnx", data={"x": net.samples(8)["x"]})
    proof = result.verification
    ((name, before),) = proof.sqnr_db_before.items()
    assert 0.0 < before < 60.0
    assert math.isfinite(proof.output_sqnr_db)
    if bias < 0:
        assert proof.sqnr_db_by_output == {name: before}
    assert all(0.0 < trial.sqnr_db < 60.0 for trial in result.trials)
    assert capsys.readouterr().err == ""


def test_a_softmax_is_judged_without_what_it_does_not_see(tmp_path):
    """A constant added to all logits changes neither its output nor the figure."""
    net = Net(3, 8, 8)
    logits = net("Mul", net.gemm(net("Flatten", "x"), 192, 5), net.const(np.float32(100)))
    prepared = prepare(model_io.load(net.save(tmp_path / "m.onnx", net("Softmax", logits, axis=-1)))).model
    (end,) = saturating_ends(prepared)
    names = [str(v.name) for v in prepared.graph.outputs]
    exact = Session(compose.with_outputs(prepared, [*names, end.reads])).run(net.samples(8))
    judge = OutputJudge(prepared, net.samples(8), exact)
    noise = np.random.default_rng(0).normal(size=exact[end.reads].shape)
    figures = []
    for more in (0.0, 50.0):
        judged = judge.start()
        judged.add(exact, exact | {end.reads: exact[end.reads] + noise + more})
        figures.append(judged.before()[names[0]])
    assert figures[0] == pytest.approx(figures[1], abs=1e-3) and 20.0 < figures[0] < 60.0


@pytest.mark.parametrize("partial", [False, True])
def test_the_verdict_is_also_on_what_a_saturated_end_reads(tmp_path, partial):
    net = Net(3, 8, 8)
    logits = net("Mul", net.gemm(net("Flatten", "x"), 192, 5), net.const(np.float32(40)))
    source = net.save(tmp_path / "m.onnx", net("Softmax", net("Mul", logits, net.const(np.ones(1))), axis=-1))
    options = {"calibrator": "percentile:95", "bias_correction": "off", "optimize_for": "size"}
    result = qtool.quantize(source, tmp_path / "q.onnx", data={"x": net.samples(24)["x"]}, partial=partial, **options)
    proof = result.verification
    (before,) = proof.sqnr_db_before.values()
    assert before < 20.0 < proof.output_sqnr_db and not result.verdict.met
    words = f"NOT ACCURATE: outputs {proof.output_sqnr_db:.1f} dB SQNR, {before:.1f} dB in front of a saturated end, at"
    (line,) = [line for line in quantized_text(result).splitlines() if line.startswith("  verdict")]
    assert words in line


def test_the_scorer_sees_a_dead_score_beside_a_good_box(tmp_path):
    net = Net(3, 8, 8)
    boxes = net("Mul", net("Sigmoid", net.conv("x", 3, 4)), net.const(np.float32(320)))
    source = net.save(tmp_path / "m.onnx", net("Concat", boxes, net("Sigmoid", net.conv("x", 3, 2)), axis=1))
    result = qtool.quantize(source, tmp_path / "q.onnx", data={"x": net.samples(8)["x"]}, calibrator="max")
    prepared = prepare(model_io.load(source)).model
    scorer = Scorer(prepared, [net.samples(8)], TARGETS[result.plan.target].session)
    exact, made = (next(iter(Session(model).run(net.samples(8)).values())) for model in (source, tmp_path / "q.onnx"))
    both = [signal_to_noise(exact[:, part], made[:, part]) for part in (slice(0, 4), slice(4, 6))]
    assert scorer.sqnr_db(result.plan) == pytest.approx(min(both), abs=1e-3)
    (candidate,) = qtool.evaluate(source, tmp_path / "q.onnx", net.samples(8)).candidates
    assert candidate.sqnr_db == pytest.approx(min(both), abs=1e-3)


@pytest.mark.parametrize("cast", [False, True])
def test_what_an_argmax_says_is_not_measured_in_decibels(tmp_path, cast):
    """Classes of pixels: their agreement is shown, and what the ArgMax reads is judged; also as real numbers."""
    net = Net(3, 8, 8)
    hidden = net.conv(net("Relu", net.conv("x", 3, 8)), 8, 5, name="last")
    chosen = net("ArgMax", hidden, axis=1, keepdims=0)
    model = net.save(tmp_path / "m.onnx", net("Cast", chosen, to=1) if cast else chosen)
    x = np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32)
    result = qtool.quantize(model, tmp_path / "q.onnx", data={"x": x}, calibrator="max", bias_correction="off")
    proof = result.verification
    (name,) = proof.sqnr_db_by_output
    assert proof.sqnr_db_by_output == {name: None} and math.isnan(proof.output_sqnr_db)
    # onnxruntime alone: the last four samples report, and the float model cut in front of its end
    prepared = prepare(model_io.load(model))
    reads = saturating_ends(prepared.model)[0].reads
    graphs = [Session(compose.with_outputs(prepared.model, [reads, name])), Session(tmp_path / "q.onnx")]
    runs = [[graph.run({"x": one[None]})[name] for one in x] for graph in graphs]
    same = [float((a == b).mean()) for a, b in zip(*runs, strict=True)]
    shares = {np.mean(same[::2]).item(), np.mean(same[1::2]).item()}
    assert any(proof.agreement_by_output[name] == pytest.approx(share) for share in shares)
    assert 20.0 < proof.judged_db == proof.sqnr_db_before[name] < 60.0
    assert result.verdict.met and result.verdict.before_db == proof.judged_db
    text = quantized_text(result)
    assert f"accuracy    {proof.judged_db:.1f} dB in front of what chooses '{name}', SQNR against float" in text
    assert f" of '{name}' equal float's, not measured in dB" in text and "inf dB" not in text
    found = qtool.evaluate(model, tmp_path / "q.onnx", {"x": x})
    assert found.candidates[0].sqnr_db is None
    assert found.candidates[0].agreement == pytest.approx(np.mean(same))
