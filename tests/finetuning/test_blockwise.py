"""`finetune` block by block and with learned rounding: the same bytes again, resumable, and no more than was asked."""

import importlib.util
import json
import sys

import numpy as np
import pytest

import qtool
from qtool.core.errors import CalibrationError, UsageError
from qtool.core.records.options import Scheme
from qtool.core.records.plan import load_plan
from qtool.finetuning.samples import Samples
from qtool.graph import edit, model_io
from qtool.pipeline.prepare import prepare
from qtool.report.finetune import finetuned_text
from tests.finetuning.test_blocks import residual

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed (the extra finetune)"
)
WAYS = {
    "blocks": {"blocks": True},
    "learned rounding": {"rounding": "learned", "steps": 80},
    "learned rounding end to end": {"rounding": "learned", "blocks": False, "steps": 80},
}


def uneven():
    """Residual blocks whose channels differ so much in between that one scale for a weight loses much."""
    net, _ = residual(4)
    inner = [name for name, array in net.constants.items() if array.shape == (4, 4, 3, 3)]
    for one, (first, second) in enumerate(zip(inner[::2], inner[1::2], strict=True)):
        spread = 2.0 ** np.random.default_rng(one).uniform(-8, 8, 4)
        net.constants[first] = (net.constants[first] * spread[:, None, None, None]).astype(np.float32)
        net.constants[second] = (net.constants[second] / spread[None, :, None, None]).astype(np.float32)
    return net


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A model of nine layers in three blocks, its data, and a plan with one scale a weight."""
    folder = tmp_path_factory.mktemp("blockwise")
    net = uneven()
    model, data, plan = net.save(folder / "float.onnx", "mean_out"), net.samples(60), folder / "plan.json"
    qtool.quantize(
        model, folder / "int8.onnx", data=data, scheme=Scheme(granularity="per-tensor"), target="x86", partial=False,
        refine="off", save_plan=plan,
    )  # fmt: skip
    return model, data, plan


def trained(begun, folder, name="out.onnx", **options):
    model, data, plan = begun
    return qtool.finetune(model, data, folder / name, **{"plan": plan, "steps": 24, "threads": 1, **options})


@pytest.mark.parametrize("way", WAYS)
def test_the_same_seed_gives_the_same_bytes_and_another_one_others(way, begun, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        result = trained(begun, tmp_path, f"{name}.onnx", seed=seed, save_plan=tmp_path / name, **WAYS[way])
        assert result.kept
    a, b, c = ((tmp_path / f"{name}.onnx").read_bytes() for name in "abc")
    assert a == b != c


def test_a_block_is_kept_where_the_whole_model_is_better_for_it(begun, tmp_path):
    result = trained(begun, tmp_path, blocks=True, steps=60)
    assert [block.layers for block in result.blocks] == [("stem", "a0", "b0", "a1", "b1"), ("a2", "b2", "a3", "b3")]
    assert all(block.steps == 30 and block.spilled == 0 for block in result.blocks)
    assert all(block.kept == (block.held_out_db[1] > block.held_out_db[0]) for block in result.blocks)
    assert any(block.kept and block.noise[1] < block.noise[0] for block in result.blocks)
    # what was measured behind the blocks is what end to end begins with
    kept = [block.held_out_db[1] for block in result.blocks if block.kept]
    assert result.rounds[1].held_out_db == kept[-1] and result.rounds[1].step == 30
    assert result.after_db > result.before_db
    assert "blocks kept what each was trained to" in finetuned_text(result)
    assert json.loads(json.dumps(result.to_dict()))["blocks"][0]["steps"] == 30


def test_a_block_of_float_layers_is_passed_over(begun, tmp_path):
    model, data, _ = begun
    plan, first = tmp_path / "plan.json", ["stem", "a0", "b0", "a1", "b1"]
    options = {"data": data, "target": "x86", "partial": False, "refine": "off", "save_plan": plan, "exclude": first}
    qtool.quantize(model, tmp_path / "q.onnx", scheme=Scheme(granularity="per-tensor"), **options)
    result = trained((model, data, plan), tmp_path, blocks=True, steps=8, learn="weights")
    assert (result.blocks[0].steps, result.blocks[0].kept) == (0, False)
    assert result.blocks[0].noise[0] == result.blocks[0].noise[1]
    assert result.blocks[1].steps == 4 and result.blocks[1].noise[0] > 1e-6


def test_an_interrupted_training_of_blocks_goes_on_to_the_same_end(begun, tmp_path):
    trained(begun, tmp_path, "whole.onnx", blocks=True)

    def stop(step: str, done: int, _total: int | None) -> None:
        if step.startswith("train block 2") and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(begun, tmp_path, "cut.onnx", blocks=True, progress=stop)
    assert (tmp_path / "cut.onnx.finetune").exists()
    with pytest.raises(CalibrationError, match="another model, other data or options"):
        trained(begun, tmp_path, "cut.onnx", blocks=False, resume=True)
    seen = []
    result = trained(begun, tmp_path, "cut.onnx", blocks=True, resume=True, progress=lambda *said: seen.append(said[0]))
    assert result.resumed and not any(step.startswith("train block 1") for step in seen)
    assert (tmp_path / "cut.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()


def test_activations_beyond_the_memory_are_read_from_a_file_and_change_nothing(begun, tmp_path, monkeypatch):
    large = trained(begun, tmp_path, "large.onnx", blocks=True, steps=4)
    monkeypatch.setattr(sys.modules["qtool.finetuning.finetune"], "_MIB", 2**14)
    small = trained(begun, tmp_path, "small.onnx", blocks=True, steps=4, memory=1)
    assert max(block.spilled for block in small.blocks) > 0 == max(block.spilled for block in large.blocks)
    assert (tmp_path / "small.onnx").read_bytes() == (tmp_path / "large.onnx").read_bytes()
    assert "were read from a file" in finetuned_text(small)


def test_samples_are_the_same_from_memory_and_from_the_file(tmp_path):
    with Samples(tmp_path / "s", room=40) as samples:
        rows = [{"x": np.arange(i, i + 5, dtype=np.float32)} for i in range(4)]
        for row in rows:
            samples.add(row)
        assert samples.spilled == 2 * 20
        assert all((samples[i]["x"] == rows[i]["x"]).all() for i in (3, 0, 2, 1))


def test_learned_rounding_moves_no_weight_by_more_than_its_rounding(begun, tmp_path):
    result = trained(begun, tmp_path, rounding="learned", steps=80, learning_rate=10.0, save_plan=tmp_path / "plan")
    assert result.kept and result.after_db > result.before_db
    before, after = load_plan(begun[2]), load_plan(tmp_path / "plan")
    prepared = prepare(model_io.load(begun[0])).model
    changed = 0
    for one, other in zip(before.weights, after.weights, strict=True):
        exact = edit.constant(prepared.graph.initializers[one.tensor]) / np.float32(one.params.scale[0])
        integers = other.given.reshape(exact.shape)
        assert (np.abs(integers - exact) < 1.001).all()
        changed += int((integers != np.rint(exact)).sum())
    assert changed > 20


def test_learned_rounding_begins_as_the_plan_rounds():
    import torch

    from qtool.finetuning.rounding import LearnedRounding, undecided

    exact = torch.tensor([0.2, 0.7, -1.4, 3.0, 126.6, 5.4, -2.6])
    begun = torch.tensor([0.0, 1.0, -1.0, 3.0, 127.0, 6.0, -5.0])
    found = LearnedRounding.of(exact, begun, torch.tensor(-127.0), torch.tensor(127.0))
    assert (found.steps() == begun).all()
    # where the nearest integer is what it begins with, it stands where the float weight does
    assert torch.allclose((found.below + found.share())[:5], exact[:5], atol=1e-4)
    found.steps().sum().backward()
    assert (found.logit.grad[:2] > 0).all()
    assert undecided([found], 0.1) is None
    early, late = (float(undecided([found], done).detach()) for done in (0.2, 0.99))
    # the exponent falls: what is far from a half counts less and less
    assert 0.0 < late < early < 1.0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rounding": "learned", "learn": "biases"}, "rounding='learned'.*no weights are learned"),
        ({"memory": 0}, "memory=0.*1 or more"),
    ],
)
def test_what_contradicts_itself_is_one_line(options, says, begun, tmp_path):
    with pytest.raises(UsageError, match=says):
        trained(begun, tmp_path, **options)
    assert list(tmp_path.iterdir()) == []
