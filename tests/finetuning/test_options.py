"""What chooses, what is learned from, and where: metrics, labels, devices; what is not there is said, never silent."""

import re
import shlex
from dataclasses import replace

import numpy as np
import pytest

import qtool
from qtool.cli import main
from qtool.core.errors import DataError, UsageError
from qtool.core.records.plan import load_plan
from qtool.report.finetune import finetuned_text, verdict_line
from qtool.report.quantize import quantized_text
from qtool.runtime.session import Session
from tests.finetuning.test_finetune import PER_TENSOR, begun, lopsided, needs_torch, trained
from tests.support.patterns import Net

__all__ = ["begun"]
pytestmark = needs_torch


def classes(model, data):
    """The classes that float says, of which a network that learns from it alone keeps to."""
    return next(iter(Session(model).run(data).values())).argmax(1)


def test_a_metric_chooses_and_reports(begun, tmp_path):
    """mse: less is better."""
    result = trained(begun, tmp_path, metric="mse")
    found = result.metric
    assert result.kept and found.name == "mse" and found.lower_is_better
    assert found.before > found.after > 0.0 and found.chosen[0] > found.chosen[1]
    best = min(one.metric for one in result.rounds)
    assert found.chosen == (pytest.approx(result.rounds[0].metric), pytest.approx(best))
    assert result.to_dict()["metric"]["after"] == found.after
    assert f"mse {found.before:.4f} -> {found.after:.4f} (float 0.0000)" in verdict_line(result)


def test_what_loses_by_the_metric_is_not_written_whatever_the_decibels(begun, tmp_path):
    model, data, plan = begun
    start = load_plan(plan)
    qtool.quantize(model, tmp_path / "start.onnx", plan=start)
    session = Session(tmp_path / "start.onnx")
    known = {row.tobytes() for row in next(iter(session.run(data).values()))}

    def as_before(outputs, _):
        """1 where an output is what the model to begin with gives, one by one."""
        return np.float64([row.tobytes() in known for row in next(iter(outputs.values()))])

    result = trained(begun, tmp_path, metric=as_before)
    assert not result.kept and result.plan == start and result.metric.before == result.metric.after == 1.0
    assert max(one.held_out_db for one in result.rounds) > result.rounds[0].held_out_db + 4.0


def test_labels_are_learned_from_beside_float(begun, tmp_path):
    model, data, plan = begun
    other = (classes(model, data) + 1) % 3
    entropy = {}
    for loss in (None, "cross_entropy"):
        labelled = {**data, "labels": other}
        options = {"plan": plan, "steps": 60, "threads": 1, "labels_loss": loss}
        assert qtool.finetune(model, labelled, tmp_path / "q.onnx", **options).kept
        scores = next(iter(Session(tmp_path / "q.onnx").run(data).values())).astype(np.float64)
        entropy[loss] = (np.log(np.exp(scores).sum(1)) - scores[np.arange(60), other]).mean()
    assert entropy["cross_entropy"] < entropy[None] - 0.02


def test_a_loss_of_ones_own_sees_outputs_and_labels(begun, tmp_path):
    model, data, plan = begun
    seen = []

    def loss(outputs, labels):
        (found,) = outputs.values()
        seen.append((tuple(found.shape), tuple(labels["extra"].shape)))
        return (found - labels["extra"]).square().mean(1)

    labelled = {**data, "extra": np.ones((60, 3), np.float32)}
    first = qtool.finetune(model, labelled, tmp_path / "a.onnx", plan=plan, steps=12, threads=1, labels_loss=loss)
    plain = trained(begun, tmp_path, "b.onnx", steps=12)
    # 30 train: three batches of 8, one of 6, three times, and one at first that weighs the two losses
    assert set(seen) == {((8, 3), (8, 3)), ((6, 3), (6, 3))} and len(seen) == 13
    assert [one.loss for one in first.rounds] != [one.loss for one in plain.rounds]


@pytest.mark.parametrize(
    ("loss", "error", "says"),
    [
        ("hinge", UsageError, "labels_loss='hinge'.*cross_entropy.*file.py:FUNCTION"),
        ("nowhere.py:loss", UsageError, "labels_loss nowhere.py.*"),
        (lambda *_: 1.0, DataError, "gave a float; return a tensor"),
        (lambda outputs, _: next(iter(outputs.values())).detach().mean(), DataError, "no gradient to the outputs"),
        (lambda outputs, _: outputs["nothing"], DataError, "KeyError.*correct the function"),
    ],
)
def test_a_loss_that_is_none_is_one_line(loss, error, says, begun, tmp_path):
    model, data, plan = begun
    with pytest.raises(error, match=says):
        qtool.finetune(
            model, {**data, "labels": np.zeros(60, np.int64)}, tmp_path / "q.onnx", plan=plan, steps=2, labels_loss=loss
        )
    assert list(tmp_path.iterdir()) == []


def test_labels_that_no_output_names_are_one_line(begun, tmp_path):
    model, data, plan = begun
    for labels, says in (
        (np.full(60, 7), "a label is 7, and output .* has 3 columns"),
        (np.full(60, 0.5), "no output"),
    ):
        with pytest.raises((UsageError, DataError), match=says):
            qtool.finetune(
                model, {**data, "labels": labels}, tmp_path / "q.onnx", plan=plan, labels_loss="cross_entropy"
            )


def test_evaluation_data_with_labels_chooses_and_reports(begun, tmp_path):
    model, data, plan = begun
    labelled = {**data, "labels": classes(model, data)}
    result = qtool.finetune(
        model, data, tmp_path / "q.onnx", plan=plan, eval_data=labelled, metric="top1", steps=30, threads=1
    )
    assert re.match("60 of the arrays train, [0-9]+ of the arrays choose; [0-9]+ of the arrays report", result.split)
    assert result.metric.reference == 1.0 and result.kept


def test_cuda_is_refused_where_torch_finds_none(begun, tmp_path, monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"provider='cuda': torch .* finds no CUDA device; install torch for CUDA"):
        trained(begun, tmp_path, provider="cuda")
    with pytest.raises(SystemExit) as caught:
        main(["finetune", str(begun[0]), "--data", "d.npz", "--provider", "cuda", "-o", str(tmp_path / "q.onnx")])
    assert caught.value.code == 2 and "--provider cuda" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_every_tensor_is_made_on_the_device_of_the_student(begun):
    """On torch's device without numbers, where a tensor of another device is an error, as on a GPU."""
    import torch

    from qtool.finetuning.distillation import Teacher
    from qtool.finetuning.labels import find_labels_loss
    from qtool.finetuning.student import Student
    from qtool.graph import model_io
    from qtool.pipeline.prepare import prepare
    from qtool.targets.tables import TARGETS

    model, data, plan = begun
    prepared = prepare(model_io.load(model)).model
    example = {"x": data["x"][:2]}
    teacher = Teacher.of(prepared, example, "meta")
    exact = teacher.run(example)
    loss = find_labels_loss("cross_entropy", prepared, exact, {"labels": np.zeros(2, np.int64)})
    student = Student(
        prepared, load_plan(plan), TARGETS["x86"], ["weights", "biases", "scales"], teacher.names, also=loss.reads,
        device="meta",
    )  # fmt: skip
    assert student.device.type == "meta"
    learned = student.learned.named()
    assert {name.split()[0] for name in learned} == {"weight", "bias", "scale"}
    teacher.measure(exact)
    made = student.run(example)
    wanted = {name: torch.from_numpy(array).to("meta") for name, array in exact.items()}
    noise = teacher.noise(made, wanted)
    adam = torch.optim.Adam(learned.values())
    torch.stack([one.mean() for one in noise]).mean().backward()
    adam.step()
    student.learned.keep_within()
    held = [*learned.values(), *(t.grad for t in learned.values()), *made.values(), *noise]
    held += [x for state in adam.state.values() for name, x in state.items() if name != "step"]
    assert len(held) > 20 and {tensor.device.type for tensor in held} == {"meta"}


def test_to_resume_what_is_not_there_is_said(begun, tmp_path):
    result = trained(begun, tmp_path, steps=2, resume=True)
    assert not result.resumed and f"{tmp_path / 'out.onnx'}.finetune: is not there, so that training began anew" in (
        result.warnings
    )


def tokens(folder):
    """A network over tokens whose samples differ in size so much that only ranges of each run fit, and its data."""
    net = Net(4, 16)
    hidden = net("Relu", net("MatMul", "x", net.weight(16, 32, inputs=16)))
    y = net("MatMul", hidden, net.weight(32, 8, inputs=32))
    x = net.samples(48)["x"] * 10.0 ** np.random.default_rng(0).uniform(-2, 2, (48, 1, 1))
    return net.save(folder / "tokens.onnx", y), {"x": x.astype(np.float32)}


def test_where_dynamic_layers_are_better_static_ones_are_trained_and_that_is_said(tmp_path):
    model, data = tokens(tmp_path)
    usual = qtool.quantize(model, tmp_path / "usual.onnx", data=data, save_plan=tmp_path / "dynamic.json")
    assert usual.plan.dynamic and not usual.plan.weights
    result = qtool.finetune(model, data, tmp_path / "q.onnx", steps=20, threads=1)
    assert result.plan.weights and not result.plan.dynamic
    (said,) = [one for one in result.warnings if "calibrated ranges" in one]
    assert "dynamic ones that quantize finds better have none to train" in said and "dB on the samples that" in said
    # asked for, it needs no words; a plan that leaves no way is refused with the way
    result = qtool.finetune(model, data, tmp_path / "q.onnx", steps=2, threads=1, form="static")
    assert not [one for one in result.warnings if "calibrated ranges" in one]
    with pytest.raises(UsageError, match=r"its layers are dynamic.*calibration.*form='static'"):
        qtool.finetune(model, data, tmp_path / "p.onnx", plan=tmp_path / "dynamic.json", steps=2)


@pytest.mark.parametrize(("factor", "works"), [(1e-9, True), (1e-42, False)])
def test_faint_outputs_are_measured_in_their_own_units(factor, works, tmp_path):
    net = Net(4, 6, 6)
    y = net("Mul", net("GlobalAveragePool", net.conv("x", 4, 8)), net.const(np.float32(factor)))
    model, data = net.save(tmp_path / "m.onnx", y), net.samples(40)
    options = {"steps": 2, "threads": 1, "exclude_ops": "Mul", "target": "x86"}
    if not works:
        with pytest.raises(DataError, match="there is no signal to learn"):
            qtool.finetune(model, data, tmp_path / "q.onnx", **options)
        return
    result = qtool.finetune(model, data, tmp_path / "q.onnx", **options)
    assert 20.0 < result.rounds[0].held_out_db < 80.0


def test_too_few_samples_that_were_asked_for_are_named_so(begun, tmp_path):
    with pytest.raises(DataError, match="samples=1: too few to train, choose and report; give 4 or more"):
        trained(begun, tmp_path, samples=1)


def test_without_statistics_the_samples_that_train_calibrate(tmp_path):
    model, data = lopsided(tmp_path)
    result = qtool.finetune(
        model, data, tmp_path / "q.onnx", scheme=PER_TENSOR, target="x86", steps=20, threads=1, partial=False
    )
    assert result.kept and result.after_db > result.before_db


def test_the_next_commands_work_as_they_are_typed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model, data = lopsided(tmp_path)
    np.savez("some data.npz", **data)
    grid = ["--granularity", "per-tensor", "--target", "x86"]
    with pytest.raises(SystemExit):
        main(
            [
                "quantize",
                str(model),
                "--data",
                "some data.npz",
                *grid,
                "-o",
                "q.onnx",
                "--no-partial",
                "--min-sqnr",
                "60",
            ]
        )
    verdict = capsys.readouterr().out
    assert "NOT ACCURATE" in verdict
    (typed,) = re.findall(r"`(qtool finetune .*?)`", verdict)
    assert "--granularity per-tensor --target x86" in typed
    with pytest.raises(SystemExit) as caught:
        main([*shlex.split(typed)[1:], "--learn", "scales", "--steps", "1", "--threads", "1"])
    said = capsys.readouterr().out
    assert caught.value.code == 0 and "NOTHING GAINED" in said.splitlines()[0]
    assert re.search(r"^  speed  .*\n +float \S+ ms \(\S+ to \S+\) / int8 ", said, re.MULTILINE)
    again, tune = re.findall(r"`(qtool (?:finetune|tune) .*?)`", said)
    assert "--learn scales" in again and again.endswith("--learning-rate 0.3")
    with pytest.raises(SystemExit) as caught:
        main(shlex.split(again)[1:])
    assert caught.value.code == 0
    from qtool.cli import app

    words = shlex.split(tune)
    assert app.get_command(None, words[1]).make_context(words[1], words[2:]).params["granularity"] == "per-tensor"


def test_the_commands_of_quantize_say_how_to_calibrate(tmp_path):
    model, data = lopsided(tmp_path)
    np.savez(tmp_path / "d.npz", **data)
    result = qtool.quantize(model, tmp_path / "q.onnx", data=tmp_path / "d.npz", min_sqnr=90.0, exclude="Gemm*")
    text = quantized_text(result)
    advised = text[text.index("\n  next  ") :]
    assert f"`qtool calibrate {model} --data {tmp_path / 'd.npz'} -o {model.with_suffix('.calib')} && qtool " in advised
    assert "FILE" not in advised and "DATA" not in advised and advised.count("--exclude 'Gemm*'") == 3


def test_gains_that_differ_are_told_apart_in_words(begun, tmp_path):
    result = replace(trained(begun, tmp_path, steps=20), kept=True, before_db=10.0, after_db=11.0)
    said = finetuned_text(replace(result, chosen_db=(10.0, 15.0)))
    assert "gap         +5.0 dB on the samples that choose, +1.0 dB on those that report: the former chose" in said
    assert " gap " not in finetuned_text(replace(result, chosen_db=(10.0, 11.2)))
    refused = replace(result, kept=False, after_db=10.0, refused_db=9.0, chosen_db=(10.0, 15.0))
    assert "what was trained has 9.0 dB on the samples that report, +5.0 dB on those that choose" in (
        finetuned_text(refused)
    )


def test_without_a_calibration_file_it_begins_with_the_equalised_network_where_that_is_better(tmp_path):
    """Channels that differ by 2^8, one scale for all of a weight's: what equalisation is for."""
    model, data = lopsided(tmp_path)
    options = {"scheme": PER_TENSOR, "steps": 1, "threads": 1}
    even = qtool.finetune(model, data, tmp_path / "even.onnx", **options)
    assert even.plan.recipe.steps[:2] == ("equalize", "absorb-biases")
    # a calibration decides itself whether it is of that one
    statistics = qtool.calibrate(model, data).statistics
    plain = qtool.finetune(model, data, tmp_path / "plain.onnx", calibration=statistics, **options)
    assert "equalize" not in plain.plan.recipe.steps
    assert even.before_db > plain.before_db + 10.0
