"""`finetune`: it repairs what rounding broke, tells torch from nothing, and gives the same bytes again."""

import importlib.util
import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import qtool
from qtool.cli import main
from qtool.core.errors import CalibrationError, DataError, OutputError, UsageError, VerificationError
from qtool.core.numerics.sqnr import signal_to_noise
from qtool.core.records.options import Scheme
from qtool.core.records.plan import load_plan
from qtool.report.finetune import finetuned_text
from qtool.runtime.session import Session
from tests.support.patterns import BRIDGES, PATTERNS, Net
from tests.support.places import REPOSITORY

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed (the extra finetune)"
)
DIGITS = REPOSITORY / "calib_data"
PER_TENSOR = Scheme(granularity="per-tensor")


def lopsided(folder: Path, samples: int = 60) -> tuple[Path, dict[str, np.ndarray]]:
    """A small network whose channels differ so much that one scale for a weight loses nearly all, and its data."""
    net = Net(4, 6, 6)
    h = net("Relu", net.conv("x", 4, 12))
    made = net.gemm(net("Flatten", net("GlobalAveragePool", net.conv(h, 12, 8))), 8, 3)
    spread = 2.0 ** np.random.default_rng(1).uniform(-8, 8, 12)
    first, second = [name for name, array in net.constants.items() if array.ndim == 4]
    net.constants[first] = (net.constants[first] * spread[:, None, None, None]).astype(np.float32)
    bias = next(name for name, array in net.constants.items() if array.shape == (12,))
    net.constants[bias] = (net.constants[bias] * spread).astype(np.float32)
    net.constants[second] = (net.constants[second] / spread[None, :, None, None]).astype(np.float32)
    return net.save(folder / "float.onnx", made), net.samples(samples)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A model, its data, and the plan of it with all that is noisy in it."""
    return _begun(tmp_path_factory.mktemp("begun"), 60)


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    """The same with so many samples that small gains are told from chance."""
    return _begun(tmp_path_factory.mktemp("more"), 120)


def _begun(folder: Path, samples: int) -> tuple[Path, dict[str, np.ndarray], Path]:
    model, data = lopsided(folder, samples)
    plan = folder / "plan.json"
    qtool.quantize(
        model, folder / "int8.onnx", data=data, scheme=PER_TENSOR, target="x86", partial=False, save_plan=plan
    )
    return model, data, plan


@needs_torch
def test_what_stands_where_the_unfinished_training_is_kept_is_never_lost(begun, tmp_path):
    place = tmp_path / "out.onnx.finetune"
    place.write_bytes(b"of somebody else")
    with pytest.raises(UsageError, match="is there already"):
        trained(begun, tmp_path)
    with pytest.raises(CalibrationError, match="damaged"):
        trained(begun, tmp_path, resume=True)
    place.write_bytes(begun[0].read_bytes())
    with pytest.raises((UsageError, OutputError)):
        qtool.finetune(place, begun[1], tmp_path / "out.onnx", plan=begun[2], steps=1)
    assert place.read_bytes() == begun[0].read_bytes()
    place.unlink()
    with pytest.raises((UsageError, OutputError)):
        trained(begun, tmp_path, save_plan=place)


@needs_torch
def test_what_loses_on_the_samples_that_report_is_not_written(begun, tmp_path, monkeypatch):
    from qtool.finetuning import finetune as module

    figures = iter([19.0, 20.0])  # what was trained, what it began with
    monkeypatch.setattr(module, "loudness", lambda _: next(figures))
    result = trained(begun, tmp_path, steps=20)
    assert not result.kept and "NOTHING GAINED" in finetuned_text(result)
    assert result.plan == load_plan(begun[2])


def trained(begun, folder: Path, name: str = "out.onnx", **options):
    model, data, plan = begun
    settings = {"plan": plan, "steps": 60, "threads": 1, **options}
    return qtool.finetune(model, data, folder / name, **settings)


@needs_torch
def test_what_per_tensor_weights_lose_is_learned_again(begun, tmp_path):
    model, data, _ = begun
    result = trained(begun, tmp_path, save_plan=tmp_path / "plan.json", save_float=tmp_path / "learned.onnx")
    assert result.kept and result.after_db > result.before_db + 4.0
    assert result.verification.integer_share == 1.0
    assert result.learned == {"weights": 12 * 4 * 9 + 8 * 12 * 9 + 24, "biases": 12 + 8 + 3, "scales": 4}
    assert len(result.rounds) > 2 and result.rounds[0].loss is None
    assert result.agreement.layers_steps <= 1
    # the plan alone makes the same model of the float one
    again = qtool.quantize(model, tmp_path / "again.onnx", plan=tmp_path / "plan.json")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()
    assert any(row.integers for row in again.plan.weights)
    # the float model that was written is what the int8 one rounds
    rows = {"x": data["x"][:8]}
    floats, int8 = (next(iter(Session(tmp_path / n).run(rows).values())) for n in ("learned.onnx", "out.onnx"))
    exact = next(iter(Session(model).run(rows).values()))
    assert signal_to_noise(floats, int8) > result.before_db
    assert (floats != exact).any()


@needs_torch
def test_the_same_seed_gives_the_same_bytes_and_another_one_others(begun, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        trained(begun, tmp_path, f"{name}.onnx", steps=20, seed=seed)
    a, b, c = ((tmp_path / f"{name}.onnx").read_bytes() for name in "abc")
    assert a == b != c


@needs_torch
def test_an_interrupted_training_goes_on_to_the_same_end(begun, tmp_path):
    trained(begun, tmp_path, "whole.onnx", epochs=4, steps=None)

    def stop(step: str, done: int, _total: int | None) -> None:
        if step == "train" and done == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(begun, tmp_path, "cut.onnx", epochs=4, steps=None, progress=stop)
    assert (tmp_path / "cut.onnx.finetune").exists() and not (tmp_path / "cut.onnx").exists()
    with pytest.raises(CalibrationError, match="another model, other data or options"):
        trained(begun, tmp_path, "cut.onnx", epochs=5, steps=None, resume=True)
    result = trained(begun, tmp_path, "cut.onnx", epochs=4, steps=None, resume=True)
    assert result.resumed and not (tmp_path / "cut.onnx.finetune").exists()
    assert (tmp_path / "cut.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()


@needs_torch
def test_what_gained_nothing_is_the_model_as_it_was(begun, tmp_path):
    model, _, plan = begun
    result = trained(begun, tmp_path, steps=3, learning_rate=1e6)
    assert not result.kept and result.before_db == result.after_db
    qtool.quantize(model, tmp_path / "start.onnx", plan=plan)
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "start.onnx").read_bytes()


@needs_torch
@pytest.mark.parametrize("learn", ["weights", "biases", "scales"])
def test_only_what_is_asked_for_changes(learn, more, tmp_path):
    before = load_plan(more[2])
    result = trained(more, tmp_path, steps=30, learn=learn)
    after = result.plan
    assert result.kept and set(result.learned) == {learn}
    assert (after.weights != before.weights) == (learn == "weights")
    assert (after.shifts != before.shifts) == (learn == "biases")
    moved = [a.params.scale != b.params.scale for a, b in zip(after.activations, before.activations, strict=True)]
    assert any(moved) == (learn == "scales")
    # the inputs and outputs of a Flatten share a grid
    assert {row.params.zero_point for row in after.activations} == {row.params.zero_point for row in before.activations}


@needs_torch
@pytest.mark.parametrize("name", [*PATTERNS, *BRIDGES])
def test_torch_computes_what_the_integer_kernels_do(name, tmp_path):
    """Layer by layer, whatever is quantised."""
    from qtool.finetuning.agreement import check_agreement
    from qtool.finetuning.distillation import Teacher
    from qtool.finetuning.student import Student
    from qtool.graph import model_io
    from qtool.pipeline.prepare import prepare
    from qtool.targets.tables import TARGETS

    net, outputs = {**PATTERNS, **BRIDGES}[name].net()
    model = net.save(tmp_path / "float.onnx", *outputs)
    plan = qtool.quantize(model, tmp_path / "int8.onnx", data=net.samples(), target="x86", calibrator="max").plan
    prepared = prepare(model_io.load(model)).model
    samples = [{"x": row[None]} for row in net.samples()["x"]]
    teacher = Teacher.of(prepared, samples[0])
    student = Student(prepared, plan, TARGETS["x86"], (), teacher.names)
    found = check_agreement(student, prepared, plan, TARGETS["x86"], samples)
    assert found.layers_differing <= 0.01 and found.layers_steps <= 1
    assert found.db is None or found.db > 40.0


@needs_torch
def test_what_torch_computes_otherwise_is_not_trained(begun, tmp_path, monkeypatch):
    from qtool.finetuning import student

    rounded = student.on_grid
    monkeypatch.setattr(student, "on_grid", lambda x, *grid: rounded(x * 1.2, *grid))
    with pytest.raises(VerificationError, match=r"does not compute what onnxruntime does.*nothing was trained"):
        trained(begun, tmp_path)
    assert not (tmp_path / "out.onnx").exists()


@needs_torch
def test_the_command_says_what_it_did_in_words_and_as_json(begun, tmp_path, capsys, monkeypatch):
    model, data, plan = begun
    monkeypatch.chdir(tmp_path)
    np.savez("data.npz", **data)
    words = ["finetune", model, "--plan", plan, "--data", "data.npz", "--steps", "40", "--threads", "1", "-o", "q.onnx"]
    with pytest.raises(SystemExit) as caught:
        main([*map(str, words), "--json", "r.json"])
    out = capsys.readouterr().out
    assert caught.value.code == 0 and "SQNR on the samples that report" in out.splitlines()[0]
    assert "30 of data.npz train, 15 choose; 15 of data.npz report" in out
    document = json.loads(Path("r.json").read_text())
    assert document["schema"] == "qtool.finetune" and document["kept"] and document["steps"] == 40
    curve = document["rounds"]
    assert [one["step"] for one in curve] == sorted({one["step"] for one in curve}) and curve[-1]["step"] == 40


def test_without_torch_one_line_says_what_to_install(tmp_path, capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "torch" else found(name, *more)
    )
    with pytest.raises(SystemExit) as caught:
        main(["finetune", "absent.onnx", "--data", "d.npz", "--calibration", "c", "-o", str(tmp_path / "q.onnx")])
    assert (caught.value.code, capsys.readouterr().err) == (
        2,
        "qtool: finetune: needs torch: pip install torch (or pip install '.[finetune]' in qtool's folder)\n",
    )
    with pytest.raises(UsageError, match="pip install torch"):
        qtool.finetune("absent.onnx", {}, tmp_path / "q.onnx", plan="p")


def test_torch_is_not_imported_before_it_is_needed():
    code = "import sys, qtool.cli.finetune; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@needs_torch
@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"calibration": "c"}, UsageError, "calibration says nothing to plan"),
        ({"form": "static"}, UsageError, "form says nothing to plan"),
        ({"exclude": "Conv_0"}, UsageError, "exclude says nothing to plan"),
        ({"metric": "nothing"}, UsageError, "metric='nothing'"),
        ({"metric": "top1"}, DataError, "labels"),
        ({"labels_loss": "cross_entropy"}, DataError, "labels_loss: .* has no labels"),
        ({"provider": "tensorrt"}, UsageError, "nothing is trained there; choose one of cpu, cuda"),
        ({"epochs": 2}, UsageError, "epochs and steps say the same"),
        ({"learn": "zeros"}, UsageError, "learn='zeros'.*choose of weights, biases, scales"),
        ({"learn": ()}, UsageError, "names nothing"),
        ({"learning_rate": 0.0}, UsageError, "learning_rate=0.0.*above 0"),
        ({"partial": False}, UsageError, "partial says nothing to plan"),
        ({"scheme": PER_TENSOR}, UsageError, "granularity says nothing to plan"),
        ({"batch_size": 0}, UsageError, "batch_size=0.*1 or more"),
        ({"save_float": "nowhere/f.onnx"}, OutputError, "nowhere"),
    ],
)
def test_what_contradicts_itself_is_one_line(options, error, says, begun, tmp_path, monkeypatch):
    monkeypatch.chdir(begun[0].parent)
    with pytest.raises(error, match=says):
        trained(begun, tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


@needs_torch
def test_too_little_data_is_refused(begun, tmp_path):
    model, data, plan = begun
    with pytest.raises(qtool.QtoolError, match="holds 3 samples; give 4 or more"):
        qtool.finetune(model, {"x": data["x"][:3]}, tmp_path / "q.onnx", plan=plan)


@needs_torch
def test_the_digits_network_whose_per_tensor_weights_collapsed_is_repaired(tmp_path):
    """Channels of different size, as folding of norms leaves them: one scale a tensor loses half of the digits."""
    model = onnx.load(DIGITS / "digits_cnn.onnx")
    held = {initializer.name: initializer for initializer in model.graph.initializer}
    spread = 2.0 ** np.random.default_rng(0).uniform(-6, 6, 64)
    for name, factor in (
        ("basic_1_bn_scale", spread),
        ("basic_1_bn_bias", spread),
        ("basic_2_conv_weight", 1.0 / spread[None, :, None, None]),
    ):
        array = (numpy_helper.to_array(held[name]) * factor).astype(np.float32)
        held[name].CopyFrom(numpy_helper.from_array(array, name))
    onnx.save(model, tmp_path / "float.onnx")
    calibration = qtool.calibrate(tmp_path / "float.onnx", DIGITS / "digits_calib.npz").statistics
    options = {"calibration": calibration, "scheme": PER_TENSOR, "target": "x86", "partial": False}
    qtool.quantize(tmp_path / "float.onnx", tmp_path / "before.onnx", refine="off", **options)
    result = qtool.finetune(
        tmp_path / "float.onnx", DIGITS / "digits_calib.npz", tmp_path / "after.onnx", steps=40, threads=1, **options
    )
    assert result.kept and result.after_db > result.before_db + 2.0
    found = qtool.evaluate(
        tmp_path / "float.onnx", [tmp_path / "before.onnx", tmp_path / "after.onnx"], DIGITS / "digits_eval.npz"
    )
    before, after = (candidate.scores[0].value for candidate in found.candidates)
    assert before < 0.8 and after > 0.95
    noisy, repaired = (candidate.sqnr_db for candidate in found.candidates)
    assert repaired > noisy + 4.0


@needs_torch
@pytest.mark.parametrize("learn", [("weights", "biases", "scales"), ("scales",)])
def test_a_bias_of_all_32_bits_ends_where_its_steps_do_as_scales_become_smaller(learn, tmp_path):
    """A dead channel: its weights are so small that their scale is what the bias needs."""
    import torch

    from qtool.finetuning.student import Student
    from qtool.graph import model_io
    from qtool.pipeline.prepare import prepare
    from qtool.targets.tables import TARGETS

    net = Net(3, 5, 5)
    made = net("Relu", net.conv("x", 3, 4))
    weight, bias = sorted(net.constants, key=lambda name: -net.constants[name].ndim)[:2]
    net.constants[weight][1] *= np.float32(1e-20)
    net.constants[bias][1] = np.float32(-3.0)
    model, data = net.save(tmp_path / "float.onnx", made), net.samples(16)
    plan = qtool.quantize(model, tmp_path / "q.onnx", data=data, target="x86", partial=False, refine="off").plan
    steps = -3.0 / plan.biases[0].scale[1]
    assert -(2.0**31) < steps < -0.99 * 2.0**31
    prepared = prepare(model_io.load(model)).model
    student = Student(prepared, plan, TARGETS["x86"], learn, [made])
    assert ("biases" in student.learned.counts()) == ("biases" in learn)
    with torch.no_grad():
        for name, tensor in student.learned.named().items():
            if name == "scale x":
                tensor.fill_(-0.2)
    moved = student.learned.planned(prepared)
    assert moved.biases[0].scale[1] == pytest.approx(plan.biases[0].scale[1] * np.exp(-0.2), rel=1e-5)
    # it is proven; what does not fit is part of the plan, and what torch computed
    qtool.quantize(model, tmp_path / "moved.onnx", plan=moved)
    written = onnx.load(tmp_path / "moved.onnx")
    held = {one.name: numpy_helper.to_array(one) for one in written.graph.initializer}
    stored = next(array for array in held.values() if array.dtype == np.int32)
    assert stored[1] == pytest.approx(steps, rel=1e-6)
    computed = student.run(data)[made].detach().numpy()
    assert signal_to_noise(next(iter(Session(tmp_path / "moved.onnx").run(data).values())), computed) > 40.0


@needs_torch
def test_on_x86_without_vnni_no_pair_of_products_saturates_however_far_weights_move(begun, tmp_path):
    import torch

    from qtool.finetuning.learned import Learned
    from qtool.graph import model_io
    from qtool.pipeline.prepare import prepare
    from qtool.targets.tables import TARGETS

    model, data, _ = begun
    plan = qtool.quantize(model, tmp_path / "q.onnx", data=data, target="x86-avx2", partial=False).plan
    prepared = prepare(model_io.load(model)).model
    learned = Learned.of(prepared, plan, TARGETS["x86-avx2"], ["weights"])
    random = torch.Generator().manual_seed(0)
    for name, steps in learned.named().items():
        with torch.no_grad():
            steps.add_(300.0 * torch.randn(steps.shape, generator=random))
        assert name.startswith("weight ")
    learned.keep_within()
    moved = learned.planned(prepared)
    assert max(np.abs(row.given.astype(int)).max() for row in moved.weights) >= 64
    # a plan in which a pair could overflow is refused
    qtool.quantize(model, tmp_path / "moved.onnx", plan=moved)


@needs_torch
@pytest.mark.parametrize("learn", ["weights,biases,scales", "biases", "weights,scales"])
def test_all_is_learned_first_and_then_biases_alone(learn, begun, monkeypatch, tmp_path):
    from qtool.finetuning.descent import Descent

    step, seen = Descent.step, []

    def watched(self, done, share, parts, *, only=None):
        before = {name: tensor.detach().clone() for name, tensor in self._tensors.items()}
        loss = step(self, done, share, parts, only=only)
        moved = {name.split(" ")[0] for name, tensor in self._tensors.items() if not tensor.equal(before[name])}
        seen.append((only, done, moved))
        return loss

    monkeypatch.setattr(Descent, "step", watched)
    trained(begun, tmp_path, steps=30, learn=learn)
    alone = [(done, moved) for only, done, moved in seen if only == "bias"]
    rest = [(done, moved) for only, done, moved in seen if only is None]
    assert len(alone) == (10 if learn.count(",") == 2 else 0) and len(alone) + len(rest) == len(seen)
    assert set().union(*(moved for _, moved in alone)) <= {"bias"}
    assert set().union(*(moved for _, moved in rest)) == {
        name[:-1].replace("biase", "bias") for name in learn.split(",")
    }
    assert [only for only, *_ in seen] == [None] * len(rest) + ["bias"] * len(alone)
    for part in filter(None, (alone, rest)):
        times = [done for done, _ in part]
        assert times[0] == 0.0 and times == sorted(times) and times[-1] < 1.0


@needs_torch
def test_biases_are_alone_earlier_where_nothing_is_better_by_then(begun, monkeypatch, tmp_path):
    from qtool.finetuning.descent import Descent
    from qtool.finetuning.training import Training

    step, kinds, seen = Descent.step, Descent.kinds, []
    figures = itertools.count(10.0, -0.1)
    monkeypatch.setattr(Training, "held_out_db", lambda _: next(figures))

    def watched(self, done, share, parts, *, only=None):
        seen.append(only)
        return step(self, done, share, parts, only=only)

    monkeypatch.setattr(Descent, "step", watched)
    assert not trained(begun, tmp_path, steps=30).kept
    assert seen[:10] == [None] * 10 and set(seen[10:]) == {"bias"}
    # where few layers have a bias in integers, these are nothing to begin with
    seen.clear()
    monkeypatch.setattr(Descent, "kinds", lambda self: kinds(self) + Counter(weight=9))
    trained(begun, tmp_path, name="other.onnx", steps=30)
    assert set(seen) == {None}
