"""The commands of docs/generation.md on the shipped translator, and what it says."""

import importlib.util
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import qtool
from qtool.cli import main
from qtool.core.records.statistics import load_statistics
from tests.support.places import REPOSITORY

pytest.importorskip("tokenizers", reason="pip install '.[generation]'")

EXAMPLE = REPOSITORY / "examples" / "translation"
PARTS = ("encoder", "decoder", "decoder_with_past")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The example in the current folder, in which the int8 models are the float ones under another name."""
    for file in EXAMPLE.iterdir():
        if file.suffix in (".onnx", ".json", ".jsonl", ".toml", ".py"):
            shutil.copy(file, tmp_path)
    for part in PARTS:
        shutil.copy(EXAMPLE / f"{part}_model.onnx", tmp_path / f"{part}_model.int8.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main([*arguments])
    return (caught.value.code, *capsys.readouterr())


def lines(*numbers):
    small = {3: "three", 5: "five", 7: "seven"}
    return "".join(json.dumps({"text": str(n), "label": small[n]}) + "\n" for n in numbers)


@pytest.mark.parametrize("loop", ["greedy", "beam"])
def test_the_translator_says_numbers(folder, loop):
    (folder / "few.jsonl").write_text(lines(3, 7, 5))
    description = (folder / "numbers.toml").read_text()
    (folder / "numbers.toml").write_text(description.replace("greedy", loop))
    seen = []
    qtool.evaluate_pipeline("numbers.toml", "few.jsonl", metrics=lambda out, _: seen.append(out["text"][0]) or 1.0)
    assert seen[::5] == ["three", "seven", "five"]


def test_a_figure_is_that_of_the_loop_and_each_part_is_run_alone(folder, capsys):
    (folder / "few.jsonl").write_text(lines(3, 7) + json.dumps({"text": "12", "label": "eleven"}))
    code, out, _ = said(
        capsys, "eval", "--pipeline", "numbers.toml", "--data", "few.jsonl", "--json", "e.json", "--max-drop", "1%"
    )
    found = json.loads((folder / "e.json").read_text())
    assert code == 0 and found["float_model"]["metrics"]["exact_match"]["value"] == pytest.approx(2 / 3)
    assert [model["name"] for model in found["candidates"]] == ["numbers.toml int8", *(f"only {p} int8" for p in PARTS)]
    assert [model["agreement"] for model in found["candidates"]] == [1.0] * 4
    assert len(found["gates"]) == 2 and "PASS numbers.toml int8: wer" in out


def test_a_part_that_says_nonsense_fails_the_gate_and_is_named(folder, capsys):
    broken = onnx.load(folder / "encoder_model.int8.onnx")
    for tensor in broken.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.ndim == 2:
            tensor.CopyFrom(onnx.numpy_helper.from_array(array[::-1].copy(), tensor.name))
    onnx.save(broken, folder / "encoder_model.int8.onnx")
    (folder / "few.jsonl").write_text(lines(3, 7, 5))
    code, out, _ = said(capsys, "eval", "--pipeline", "numbers.toml", "--data", "few.jsonl", "--max-drop", "1%")
    assert code == 1 and "FAIL numbers.toml int8: exact_match" in out
    rows = {line.split("  ")[0]: line.split() for line in out.splitlines()}
    assert rows["only decoder int8"][3] == "1.0000" and rows["only encoder int8"][3] == "0.0000"


@pytest.mark.long
def test_each_part_is_calibrated_on_what_the_loop_feeds_it(folder, capsys):
    (folder / "few.jsonl").write_text(lines(3, 7))
    code, out, _ = said(capsys, "calibrate", "--pipeline", "numbers.toml", "--data", "few.jsonl")
    assert code == 0 and "then: qtool eval --pipeline numbers.toml" in out
    # a word and the end: one first step, and one with a cache
    counted = {part: load_statistics(f"{part}.calib") for part in PARTS}
    assert {part: one.samples for part, one in counted.items()} == dict.fromkeys(PARTS, 2)
    encoded = onnxruntime.InferenceSession("encoder_model.onnx").run(
        None, {"input_ids": np.array([[6, 1]]), "attention_mask": np.array([[1, 1]])}
    )[0]
    assert any(np.array_equal(run["encoder_hidden_states"], encoded) for run in counted["decoder"].examples)
    assert {run["past_key_values.0.decoder.key"].shape[2] for run in counted["decoder_with_past"].examples} == {1}


@pytest.mark.long
def test_a_loop_of_ones_own_and_a_part_in_which_there_is_nothing_to_quantise(folder, capsys):
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "last",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "T", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "T", 32])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "last.onnx")
    (folder / "own.py").write_text(
        "def loop(parts, inputs):\n"
        "    encoded = parts['encoder'](inputs)['last_hidden_state']\n"
        "    return str(parts['last']({'x': encoded})['y'].shape[1])\n"
    )
    (folder / "own.toml").write_text(
        'loop = "own.py:loop"\ntokenizer = "tokenizer.json"\n[parts.encoder]\nfloat = "encoder_model.onnx"\n'
        'int8 = "encoder_model.int8.onnx"\n[parts.last]\nfloat = "last.onnx"\n'
    )
    (folder / "few.jsonl").write_text(
        json.dumps({"text": "3", "label": "2"}) + "\n" + json.dumps({"text": "345", "label": "5"})
    )
    code, out, _ = said(capsys, "calibrate", "--pipeline", "own.toml", "--data", "few.jsonl")
    assert code == 0 and "last: nothing to quantise in last.onnx; it stays float" in out
    assert sorted(file.name for file in folder.glob("*.calib")) == ["encoder.calib"]
    found = qtool.evaluate_pipeline("own.toml", "few.jsonl")
    # the token behind each text is its end; of the second 4 are said
    assert found.float_model.score("exact_match").value == 0.5
    assert [one.agreement for one in found.candidates] == [1.0]


@pytest.mark.long
def test_greedy_and_beam_search_are_data_of_a_decoder(folder):
    specification = importlib.util.spec_from_file_location("steps", folder / "steps.py")
    steps = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(steps)
    (folder / "calib.jsonl").write_text(json.dumps({"text": "120000"}))
    fed = list(steps.greedy())
    tokens = [int(one["input_ids"][0, 0]) for one in fed]
    assert [one["past_key_values.0.decoder.key"].shape[2] for one in fed] == list(range(1, len(fed) + 1))
    words = {
        token: word for word, token in json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"].items()
    }
    assert [words[token] for token in tokens] == ["one", "hundred", "and", "twenty", "thousand"]
    several = list(steps.beam())
    assert len(several) > len(fed) and all(one in [int(s["input_ids"][0, 0]) for s in several] for one in tokens)
    assert qtool.calibrate("decoder_with_past_model.onnx", "steps.py:beam").statistics.samples == len(several)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"greedy"', '"gredy"', "loop is 'gredy'; use greedy, beam, ctc, transducer, or file.py:FUNCTION"),
        ('"greedy"', '"ctc"', "[parts.encoder] is one too many; the loop ctc takes one part of any name"),
        ("[parts.decoder]", "[parts.decodr]", "[parts.decoder] is missing"),
        ("loop", "lop", "unknown key 'lop' (did you mean 'loop'?)"),
        ("[parts.encoder]", "[settings]\nbeams = 0\n[parts.encoder]", "settings.beams is 0; give 1 or more"),
        ('"encoder_model.onnx"', '"encoder.onnx"', "encoder.onnx: no such file"),
        ('"encoder_model.int8.onnx"', '"encoder_model.onnx"', "parts.encoder has one file as float and int8"),
        ("[parts.encoder]", '[parts.encoder]\ncalibration = "decoder.calib"', "two parts have the calibration"),
    ],
)
def test_what_no_pipeline_can_be_is_one_line(folder, capsys, old, new, message):
    (folder / "numbers.toml").write_text((folder / "numbers.toml").read_text().replace(old, new, 1))
    (folder / "few.jsonl").write_text(lines(3))
    code, out, error = said(capsys, "eval", "--pipeline", "numbers.toml", "--data", "few.jsonl")
    assert (code, out, error.count("\n")) == (2, "", 1) and message in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("eval", "m.onnx", "--pipeline", "numbers.toml", "--data", "few.jsonl"), "FLOAT does not go with --pipeline"),
        (("eval", "--pipeline", "numbers.toml", "--data", "few.jsonl", "--latency"), "--latency does not go with"),
        (("eval", "--pipeline", "numbers.toml", "--data", "few.jsonl", "--metric", "top1"), "--metric top1: does not"),
        (("calibrate", "--data", "few.jsonl"), "Missing argument 'MODEL'"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_does_not_go_with_a_pipeline_is_refused(capsys, arguments, message):
    Path("few.jsonl").write_text(lines(3))
    code, _, error = said(capsys, *arguments)
    assert code == 2 and message in error


def test_a_calibration_is_written_over_nothing_that_is_read(folder, capsys):
    text = (folder / "numbers.toml").read_text()
    (folder / "numbers.toml").write_text(text.replace("[parts.encoder]", '[parts.encoder]\ncalibration = "few.jsonl"'))
    (folder / "few.jsonl").write_text(lines(3))
    code, _, error = said(capsys, "calibrate", "--pipeline", "numbers.toml", "--data", "few.jsonl")
    assert code == 2 and "few.jsonl" in error and (folder / "few.jsonl").read_text() == lines(3)


@pytest.mark.long
@pytest.mark.usefixtures("folder")
def test_the_commands_of_the_page_run_and_int8_says_the_same(capsys):
    """All within 1 % of float, as the page says."""
    page = (REPOSITORY / "docs" / "generation.md").read_text(encoding="utf-8").split("## The file")[0]
    commands = [line.strip() for line in page.splitlines() if line.startswith("    qtool ")]
    assert len(commands) == 5
    for command in commands:
        extra = ("--samples", "60") if "--pipeline" in command else ()
        code, out, error = said(capsys, *shlex.split(command)[1:], *extra)
        assert code == 0, error
    assert "PASS numbers.toml int8: exact_match" in out


def test_the_order_of_the_tables_says_nothing(folder, capsys):
    text = (folder / "numbers.toml").read_text()
    head, *tables = text.split("[parts.")
    (folder / "turned.toml").write_text(head + "".join(f"[parts.{table}\n" for table in reversed(tables)))
    code, out, _ = said(
        capsys, "eval", "--pipeline", "turned.toml", "--data", "eval.jsonl", "--samples", "2", "--json", "-"
    )
    assert code == 0 and json.loads(out)["candidates"][0]["agreement"] == 1.0


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("past.*=present.*", "settings.state 'past.*=present.*': no input of the model has such a name"),
        ("past_key_values.*=now.*", "write settings.state 'past_key_values.*=present.*'"),
        ("nobody=logits", "settings.state 'nobody=logits': the model has no input 'nobody'"),
    ],
)
def test_a_state_that_pairs_nothing_is_refused(folder, capsys, state, says):
    with (folder / "numbers.toml").open("a") as file:
        file.write(f"[settings]\nstate = ['{state}']\n")
    for command in ("eval", "calibrate"):
        code, _, err = said(capsys, command, "--pipeline", "numbers.toml", "--data", "eval.jsonl", "--samples", "1")
        assert code == 2 and says in err and err.startswith("qtool: numbers.toml: settings.state")
        assert "--state" not in err
