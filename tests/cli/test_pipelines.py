"""What pipelines need: configurations that may lie anywhere, completion, provenance, and the target that is pinned."""

import json

import numpy as np
import onnx
import pytest
from PIL import Image

from qtool.core.records.doubts import reading_noted
from qtool.core.records.recipe import MADE
from tests.support.evaluation_models import linear

RNG = np.random.default_rng(8)
X = RNG.normal(size=(12, 16)).astype(np.float32)
QUICK = ("--optimize-for", "size", "--calibrator", "max", "--no-partial")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """model/float.onnx and model/d.npz in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    linear(tmp_path / "model" / "float.onnx", RNG.normal(size=(16, 5)).astype(np.float32), output_name="logits")
    np.savez(tmp_path / "model" / "d.npz", x=X)
    return tmp_path


def test_paths_in_a_configuration_start_from_its_folder(folder, run):
    (folder / "model" / "score.py").write_text("def ones(outputs, labels):\n    return 1.0\n")
    (folder / "model" / "qtool.toml").write_text(
        "[quantize]\ndata = 'd.npz'\noutput = 'q.onnx'\nmin_sqnr = 5\noptimize-for = 'size'\nsave_plan = 'p.json'\n"
        "[eval]\ndata = 'd.npz'\nmetric = ['cosine', 'score.py:ones']\n"
    )
    config = ("--config", "model/qtool.toml")
    code, _, err = run("quantize", "model/float.onnx", *config)
    assert (code, err) == (0, "")
    assert {"q.onnx", "p.json"} <= {file.name for file in (folder / "model").iterdir()}
    code, out, _ = run("eval", "model/float.onnx", "model/q.onnx", *config, "--json", "-")
    assert (code, list(json.loads(out)["float_model"]["metrics"])) == (0, ["cosine", "ones"])
    # what the command line says starts from where it is typed
    code, _, err = run("quantize", "model/float.onnx", *config, "--data", "d.npz")
    assert code == 2 and "d.npz: does not exist" in err


def test_both_spellings_of_a_key_are_one_key(folder, run):
    (folder / "c.toml").write_text("[quantize]\nmin_sqnr = 5\nmin-sqnr = 6\n")
    code, _, err = run("quantize", "model/float.onnx", "--config", "c.toml")
    assert code == 2 and "min-sqnr is given twice in [quantize], with - and with _" in err


@pytest.mark.usefixtures("folder")
def test_a_configuration_is_named_and_its_tables_are_commands(folder, run):
    code, _, err = run("quantize", "model/float.onnx", "--config", "")
    assert code == 2 and "--config: it is empty; name a TOML file" in err
    (folder / "c.toml").write_text("[evl]\ndata = 'd.npz'\n")
    code, _, err = run("eval", "model/float.onnx", "--config", "c.toml")
    assert code == 2 and "c.toml: unknown key 'evl'; the tables are" in err and "(did you mean 'eval'?)" in err


def test_no_configuration_is_read_that_nobody_names(folder, run):
    for place in (folder, folder / "model"):
        (place / "qtool.toml").write_text("nonsense")
    assert run("quantize", "model/float.onnx", "--dynamic", "-o", "q.onnx")[0] == 0


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("eval", "model/float.onnx", "model/float.onnx", "--data", "model/d.npz", "--metric", "cosin"), "'cosine'"),
        (("quantize", "model/float.onnx", "--dynamic", "--exclude-op", "MatMull"), "'MatMul'"),
        (("quantize", "model/float.onnx", "--dynamic", "--exclude", "logit"), "'logits'"),
        (("quantize", "model/float.onnx", "--data", "model/d.npz", "--calibrator", "entrpy"), "'entropy'"),
        (("quantise",), "'quantize'"),
        (("quantize", "model/float.onnx", "--calibratr", "max"), "--calibrator"),
    ],
)
def test_what_was_meant_is_guessed(run, words, says):
    code, _, err = run(*words)
    assert code == 2 and "id you mean" in err and says in err and err.count("\n") == 1


def test_an_option_of_another_command_is_said_to_be_there(run):
    code, _, err = run("quantize", "m.onnx", "--eval-data", "d.npz")
    assert code == 2 and "No such option '--eval-data'" in err and "tune, finetune have it" in err


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("qtool qua", {"plain,quantize"}),
        ("qtool eval mod", {"file,mod"}),
        ("qtool eval m q --data da", {"file,da"}),
        ("qtool quantize m --calibra", {"plain,--calibration", "plain,--calibrator"}),
        ("qtool quantize m --target x", {"plain,x86", "plain,x86-avx2"}),
        ("qtool eval m q --metric to", {"plain,top1", "plain,top5", "plain,token_accuracy", "plain,token_agreement"}),
        ("qtool eval m q --metric own.p", {"file,own.p"}),
        ("qtool eval m q --decode de", {"plain,detr"}),
        ("qtool quantize m --calibrator m", {"plain,max", "plain,mse"}),
        ("qtool tune m --calibrators max,en", {"plain,max,entropy"}),
    ],
)
def test_a_shell_completes(run, monkeypatch, typed, offered):
    monkeypatch.setenv("_QTOOL_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    code, out, _ = run()
    assert (code, set(out.split())) == (0, offered)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("nope", "use bash_source, zsh_source or fish_source"),
        ("bash_nope", "use bash_source, zsh_source or fish_source"),
        ("bash_complete", "COMP_WORDS and COMP_CWORD do not say"),
        ("zsh_complete", "COMP_WORDS and COMP_CWORD do not say"),
    ],
)
def test_what_no_shell_asks_is_one_line(run, monkeypatch, asked, says):
    monkeypatch.setenv("_QTOOL_COMPLETE", asked)
    monkeypatch.delenv("COMP_WORDS", raising=False)
    code, out, err = run()
    assert (code, out, err.count("\n")) == (2, "", 1) and f"_QTOOL_COMPLETE={asked}: " in err and says in err


@pytest.mark.usefixtures("folder")
def test_the_target_is_pinned_in_a_pipeline(run, monkeypatch):
    words = ("quantize", "model/float.onnx", "--data", "model/d.npz", *QUICK, "-o", "q.onnx", "-q")
    monkeypatch.delenv("CI", raising=False)
    assert "--target" not in run(*words)[2]
    monkeypatch.setenv("CI", "true")
    said = run(*words)[2]
    assert said.startswith("warning: --target auto is ") and said.rstrip().endswith(said.split()[4])
    assert "--target" not in run(*words, "--target", "x86")[2]
    code, _, err = run("quantize", "model/float.onnx", "--data", "nothing.npz", "-o", "q.onnx")
    assert (code, err.count("\n")) == (2, 1) and "--target" not in err


@pytest.mark.usefixtures("folder")
def test_a_model_says_how_it_was_made(run):
    words = ("quantize", "model/float.onnx", "--data", "model/d.npz", *QUICK, "-o")
    notes = []
    for name, data in (("a.onnx", X), ("b.onnx", X), ("c.onnx", X + 1e-3)):
        np.savez("model/d.npz", x=data)
        assert run(*words, name)[0] == 0
        notes.append(json.loads({p.key: p.value for p in onnx.load(name).metadata_props}[MADE]))
    assert set(notes[0]["versions"]) >= {"qtool", "onnx", "onnxruntime", "numpy"}
    assert (notes[0]["calibrator"], notes[0]["calibration"]["samples"]) == ("max", 12)
    assert notes[0] == notes[1]
    assert notes[0]["calibration"]["sha256"] != notes[2]["calibration"]["sha256"]


def test_what_nobody_can_read_is_no_note():
    assert reading_noted({}) == {}
    for text in ("{", "[]", "null", '{"calibration": 3}', '{"calibration": {"reading": [1]}}', "[" * 100_000):
        assert reading_noted({MADE: text}) == {}


@pytest.fixture
def pictures(folder):
    """A model of pictures, and 4 of these."""
    linear(folder / "flat.onnx", RNG.normal(size=(12, 3)).astype(np.float32))
    model = onnx.load(folder / "flat.onnx")
    x = model.graph.input[0]
    x.CopyFrom(onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, 2, 2]))
    model.graph.node.insert(0, onnx.helper.make_node("Flatten", ["x"], ["rows"]))
    model.graph.node[1].input[0] = "rows"
    onnx.save(model, folder / "flat.onnx")
    (folder / "pictures").mkdir()
    for number in range(4):
        array = RNG.integers(0, 256, size=(2, 2, 3)).astype(np.uint8)
        Image.fromarray(array).save(folder / "pictures" / f"{number}.png")
    return folder


@pytest.mark.usefixtures("pictures")
def test_another_preprocess_is_noticed(run):
    read = ("--data", "pictures", "--preprocess")
    assert run("calibrate", "flat.onnx", *read, "unit", "-o", "unit.calib")[0] == 0
    assert run("calibrate", "flat.onnx", *read, "raw", "-o", "raw.calib")[0] == 0
    code, _, err = run("merge", "unit.calib", "raw.calib", "-o", "both.calib")
    assert code == 2 and "raw.calib: its data was read with another preprocess than that of unit.calib" in err
    code, _, err = run("sensitivity", "flat.onnx", "--calibration", "unit.calib", *read, "raw", "-o", "s.json")
    assert code == 2 and "--preprocess: unit.calib was calibrated with another one" in err
    assert run("quantize", "flat.onnx", "--calibration", "unit.calib", *QUICK, "-o", "q.onnx")[0] == 0
    said = "q.onnx was calibrated on data read with another preprocess; read this data with the same"
    assert said in run("eval", "flat.onnx", "q.onnx", *read, "raw")[2]
    assert said not in run("eval", "flat.onnx", "q.onnx", *read, "unit")[2]


def test_the_tokenizer_of_a_metric_is_beside_its_configuration(tmp_path, run, monkeypatch):
    """And it is no output."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.toml").write_text("[eval]\nmetric = ['bleu:end=1:tokenizer=t.json']\n")
    (tmp_path / "sub" / "t.json").write_text("{}")
    words = ("eval", "f.onnx", "q.onnx", "--data", "d.npz", "--json", "sub/t.json")
    code, _, err = run(*words, "--config", "sub/c.toml")
    assert code == 2 and "--json sub/t.json: is --metric bleu:end=1:tokenizer=sub/t.json already" in err
    code, _, err = run(*words, "--metric", "wer:tokenizer=sub/../sub/t.json")
    assert (
        code == 2 and "--json sub/t.json: is --metric wer" in err and (tmp_path / "sub" / "t.json").read_text() == "{}"
    )
