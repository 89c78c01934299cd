"""What a pipeline refuses: outputs over anything that it reads, files that say nothing, and loops that say nonsense."""

import json

import numpy as np
import onnx
import pytest

from qtool.core.errors import UsageError
from qtool.generation.description import read_description
from qtool.generation.together import calibrate_pipeline
from tests.support.evaluation_models import linear

RNG = np.random.default_rng(3)
WEIGHTS = RNG.normal(size=(16, 5)).astype(np.float32)
LOOP = "def loop(parts, inputs):\n    (part,) = parts.values()\n    return part(inputs)['scores'].argmax(-1)\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """p.toml in the current folder: one part, whose models have external data, and a loop of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("f", "q"):
        linear(tmp_path / "whole.onnx", WEIGHTS)
        onnx.save(
            onnx.load("whole.onnx"),
            f"{name}.onnx",
            save_as_external_data=True,
            location=f"{name}.bin",
            size_threshold=0,
        )
    (tmp_path / "own.py").write_text(LOOP)
    (tmp_path / "one.calib").write_text("kept")
    (tmp_path / "p.toml").write_text("loop = 'own.py:loop'\n[parts.one]\nfloat = 'f.onnx'\nint8 = 'q.onnx'\n")
    np.savez(tmp_path / "d.npz", x=RNG.normal(size=(3, 16)).astype(np.float32))
    return tmp_path


EVAL = ("eval", "--pipeline", "p.toml", "--data", "d.npz")


@pytest.mark.parametrize("name", ["p.toml", "f.onnx", "f.bin", "q.onnx", "q.bin", "own.py", "one.calib", "d.npz"])
def test_no_output_of_eval_is_written_over_what_a_pipeline_reads(folder, run, name):
    before = (folder / name).read_bytes()
    code, _, err = run(*EVAL, "--json", name)
    assert code == 2 and f"--json {name}: is " in err and err.count("\n") == 1
    assert (folder / name).read_bytes() == before


@pytest.mark.parametrize("name", ["f.bin", "q.bin", "own.py", "f.onnx"])
def test_no_calibration_is_written_over_what_a_pipeline_reads(folder, run, name):
    with (folder / "p.toml").open("a") as file:
        file.write(f"calibration = '{name}'\n")
    before = (folder / name).read_bytes()
    code, _, err = run("calibrate", "--pipeline", "p.toml", "--data", "d.npz")
    assert code == 2 and f"{name}: is --pipeline already" in err
    assert (folder / name).read_bytes() == before
    with pytest.raises(UsageError, match=rf"part 'one' would be written over .*{name}, which is read"):
        calibrate_pipeline("p.toml", "d.npz")
    assert (folder / name).read_bytes() == before


def test_a_metric_of_ones_own_lies_beside_the_description(folder, run, monkeypatch):
    (folder / "mine.py").write_text("def score(outputs, labels):\n    return 0.5\n")
    text = (folder / "p.toml").read_text()
    (folder / "p.toml").write_text(f"metrics = ['mine.py:score']\n{text}")
    data = np.load(folder / "d.npz")["x"]
    np.savez(folder / "d.npz", x=data, labels=np.arange(3))
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    code, out, err = run("eval", "--pipeline", "../p.toml", "--data", "../d.npz")
    assert (code, err) == (0, "") and "0.5000" in out
    code, _, err = run("eval", "--pipeline", "../p.toml", "--data", "../d.npz", "--json", "../mine.py")
    assert code == 2 and "--json ../mine.py: is " in err


def test_what_a_pipeline_wrote_before_is_written_again(folder, run):
    for _ in range(2):
        assert run("calibrate", "--pipeline", "p.toml", "--data", "d.npz")[0] == 0
        assert (folder / "one.calib").read_bytes() != b"kept"
        assert run(*EVAL, "--json", "e.json")[0] == 0
    assert json.loads((folder / "e.json").read_text())["samples"] == 3


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ("[2**70]", "a list of int, some of them too large"),
        ("[2**63]", "the token 9223372036854775808, which is too large"),
        ("[1.0, 2.0]", "a list of float"),
        ("[[1, 2], [3, 4]]", "a list of int64 [2, 2]"),
        ("[[1], [2, 3]]", "a list"),
        ("7", "a int"),
        ("None", "a NoneType"),
        ("[True]", "a list of bool"),
        ("['a', 1]", "a list of str and int"),
        ("__import__('numpy').zeros((1, 2))", "a ndarray of float64 [1, 2]"),
        ("'text' if inputs['x'][0, 0] > 0 else [1]", "the loop gave t"),
    ],
)
def test_what_a_loop_gives_that_is_no_row_of_tokens_is_refused(folder, run, said, says):
    (folder / "own.py").write_text(f"def loop(parts, inputs):\n    return {said}\n")
    np.savez(folder / "d.npz", x=np.array([[1.0], [-1.0]], np.float32) * np.ones(16, np.float32))
    code, _, err = run(*EVAL)
    assert code == 2 and says in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("start = 99999999999999999999999", "settings.start is a number of over 20 digits; give a number from 0 to"),
        ("end = [1, 4294967296]", "settings.end is 4294967296; give"),
        ("length_penalty = -1e308", "settings.length_penalty is -1e+308; give a number from -10 to 10"),
        ("length_penalty = nan", "settings.length_penalty is nan; give"),
        ("length_penalty = inf", "settings.length_penalty is inf; give"),
        ("context = 10000000", "settings.context is 10000000; give a number from 1 to 65536"),
        ("beams = 0", "settings.beams is 0; give 1 or more"),
        ("state = ['x']", "p.toml: settings.state 'x': names no input and output; write settings.state 'INPUT=OUTPUT'"),
    ],
)
def test_a_setting_out_of_range_is_refused(folder, run, setting, says):
    with (folder / "p.toml").open("a") as file:
        file.write(f"[settings]\n{setting}\n")
    code, _, err = run(*EVAL)
    assert code == 2 and says in err and err.count("\n") == 1 and "--state" not in err


@pytest.mark.parametrize("key", ["tokenizer", "target_tokenizer"])
def test_a_tokenizer_of_the_file_is_named_by_its_key(folder, run, key):
    pytest.importorskip("tokenizers")
    (folder / "p.toml").write_text(f"{key} = 'no.json'\n" + (folder / "p.toml").read_text())
    code, _, err = run(*EVAL)
    assert code == 2 and err.startswith(f"qtool: p.toml: {key} 'no.json': cannot be read")


def test_an_int8_model_of_another_kind_is_refused(folder, run):
    linear(folder / "q.onnx", WEIGHTS[:, :4])
    code, _, err = run(*EVAL)
    assert code == 2 and "q.onnx: output 'scores' of part 'one' is float32 [N, 4], float's is float32 [N, 5]" in err
    linear(folder / "q.onnx", WEIGHTS, output_name="other")
    code, _, err = run(*EVAL)
    assert code == 2 and "q.onnx: its outputs are other, float's are scores" in err


def test_an_int8_model_of_another_float_model_is_noticed(folder, run):
    assert run("quantize", "f.onnx", "--dynamic", "-o", "q.onnx")[0] == 0
    assert "another float model" not in run(*EVAL)[2]
    linear(folder / "g.onnx", WEIGHTS + 1)
    (folder / "p.toml").write_text((folder / "p.toml").read_text().replace("f.onnx", "g.onnx"))
    assert "part 'one': q.onnx is made of another float model than g.onnx" in run(*EVAL)[2]


def test_a_part_that_never_runs_is_not_measured(folder, run):
    with (folder / "p.toml").open("a") as file:
        file.write("[parts.two]\nfloat = 'whole.onnx'\nint8 = 'q.onnx'\n")
    (folder / "own.py").write_text(LOOP.replace("(part,) = parts.values()", "part = parts['one']"))
    code, out, err = run(*EVAL, "--json", "-")
    assert code == 0 and "part 'two' never ran on this data, so that its int8 model is not measured" in err
    assert [one["name"] for one in json.loads(out)["candidates"]] == ["p.toml int8", "only one int8"]
    (folder / "own.py").write_text("def loop(parts, inputs):\n    return [1]\n")
    code, _, err = run(*EVAL)
    assert code == 2 and "never runs a part with an int8 model on this data (one, two)" in err


def test_a_pipeline_has_gates_on_agreement_and_size(folder, run):
    linear(folder / "q.onnx", -WEIGHTS)
    code, out, _ = run(*EVAL, "--min-agreement", "90%", "--max-size", "200%", "--json", "e.json")
    gates = {gate["rule"]: gate for gate in json.loads((folder / "e.json").read_text())["gates"]}
    assert code == 1 and "FAIL p.toml int8: agreement: 0% of predictions are float's, asked at least 90%" in out
    assert (gates["min-agreement"]["passed"], gates["max-size"]["passed"]) == (False, True)
    code, _, err = run(*EVAL, "--min-integer", "90%")
    assert code == 2 and "--min-integer does not go with --pipeline, which is judged by what its loop says" in err


def test_the_tokenizer_of_a_metric_is_beside_the_file_and_never_written_over(folder, run, monkeypatch):
    with (folder / "p.toml").open() as file:
        text = file.read()
    (folder / "p.toml").write_text(f"metrics = ['wer:tokenizer=t.json']\n{text}")
    (folder / "t.json").write_text('{"kept": true}')
    monkeypatch.chdir(folder.parent)
    assert read_description(folder / "p.toml").metrics == (f"wer:tokenizer={folder / 't.json'}",)
    words = ("eval", "--pipeline", folder / "p.toml", "--data", folder / "d.npz", "--json", folder / "t.json")
    code, _, err = run(*words)
    assert code == 2 and "t.json: is --pipeline already" in err
    assert (folder / "t.json").read_text() == '{"kept": true}'
