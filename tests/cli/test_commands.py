"""The command line as a person and a script meet it: the user's day on the shipped model, options, exit codes."""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from qtool.cli import COMMANDS, main
from tests.support.places import REPOSITORY, SHIPPED
from tests.support.refusals import network

MODEL, CALIB, EVAL = "digits_cnn.onnx", "digits_calib.npz", "digits_eval.npz"


@pytest.fixture(scope="module")
def calibration(tmp_path_factory):
    """A calibration file of the shipped model."""
    path = tmp_path_factory.mktemp("calibration") / "digits.calib"
    with pytest.raises(SystemExit) as caught:
        main(["calibrate", str(SHIPPED / MODEL), "--data", str(SHIPPED / CALIB), "-o", str(path), "-q"])
    assert caught.value.code == 0
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch, calibration):
    """The shipped model and data, and digits.calib, in the current folder."""
    for name in (MODEL, CALIB, EVAL):
        shutil.copy(SHIPPED / name, tmp_path)
    shutil.copy(calibration, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys):
    """Runs `qtool ...`: the exit code, stdout, stderr."""

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(a) for a in arguments])
        streams = capsys.readouterr()
        return caught.value.code, streams.out, streams.err

    return call


@pytest.fixture
def quantize(run):
    """Runs `qtool quantize` with the calibration file and the fastest calibrator; asserts that it works."""

    def call(*arguments, calibrator=("--calibrator", "max")):
        code, out, err = run("quantize", MODEL, "--calibration", "digits.calib", *calibrator, *arguments)
        assert (code, err) == (0, "")
        return out

    return call


@pytest.fixture
def refused(run, folder):
    """Runs `qtool ...`; asserts exit 2, one line on stderr and nothing written; returns the line."""

    def call(*arguments):
        before = sorted(folder.rglob("*"))
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("qtool: ")
        assert err.count("\n") == 1
        assert sorted(folder.rglob("*")) == before
        return err

    return call


def strict_json(text):
    return json.loads(text, parse_constant=pytest.fail)


@pytest.mark.fast
def test_the_users_day(folder):
    """Each line as the README has it, in processes of their own."""
    (folder / "digits.calib").unlink()
    lines = [
        ["calibrate", MODEL, "--data", CALIB, "-o", "digits.calib"],
        ["quantize", MODEL, "--calibration", "digits.calib", "-o", "digits.int8.onnx"],
        ["eval", MODEL, "digits.int8.onnx", "--data", EVAL, "--metric", "top1", "--max-drop", "1%", "--latency"],
    ]
    outs = []
    for line in lines:
        done = subprocess.run(
            [sys.executable, "-m", "qtool", *line], capture_output=True, text=True, check=False, cwd=folder
        )
        assert (done.returncode, done.stderr) == (0, "")
        outs.append(done.stdout)
    assert re.fullmatch(r"digits\.calib: 200 samples, \d+ tensors, .*; serves every calibrator and target\n", outs[0])
    proof = outs[1].splitlines()
    rows = {line[2:14].strip(): line[14:] for line in proof[1:]}
    assert list(rows) == [
        "size",
        "settings",
        "integer",
        "float",
        "arithmetic",
        "accuracy",
        "",
        "speed",
        "verdict",
        "next",
    ]
    assert "100.0 % of multiply-accumulates" in rows["integer"] and rows["float"] == "no layer"
    assert rows["next"].startswith("`qtool eval ") and len(proof[0]) <= 100
    table = [line.split() for line in outs[2].splitlines() if line]
    assert table[1][:2] == ["digits_cnn.onnx", "0.9940"]
    assert float(table[2][1]) > 0.98
    assert "PASS digits.int8.onnx: top1" in outs[2]
    # an onnxruntime that knows nothing of qtool agrees about the accuracy
    data = np.load(folder / EVAL)
    session = ort.InferenceSession(folder / "digits.int8.onnx", providers=["CPUExecutionProvider"])
    logits = session.run(None, {"input": data["input"]})[0]
    assert f"{(logits.argmax(1) == data['labels']).mean():.4f}" == table[2][1]


def test_outputs_are_named_after_the_model(folder, run):
    assert run("calibrate", MODEL, "--data", CALIB, "--samples", "20")[0] == 0
    assert run("quantize", MODEL, "--calibration", "digits_cnn.calib", "--calibrator", "max")[0] == 0
    made = {path.name for path in folder.iterdir()} - {MODEL, CALIB, EVAL, "digits.calib"}
    assert made == {"digits_cnn.calib", "digits_cnn.int8.onnx"}
    onnx.checker.check_model("digits_cnn.int8.onnx", full_check=True)


@pytest.mark.usefixtures("folder")
def test_exit_1_where_a_gate_fails(run, quantize):
    quantize("-o", "q.onnx")
    gate = ("eval", MODEL, "q.onnx", "--data", EVAL, "--samples", "50", "--min-sqnr")
    assert run(*gate, "10")[0] == 0
    assert run(*gate, "90")[0] == 1


@pytest.mark.usefixtures("folder")
def test_quiet_prints_nothing(run):
    assert run("calibrate", MODEL, "--data", CALIB, "--samples", "10", "-q") == (0, "", "")
    assert run("quantize", MODEL, "--calibration", "digits.calib", "--calibrator", "max", "-q") == (0, "", "")


@pytest.mark.usefixtures("folder")
def test_calibrate_prints_json_alone(run):
    code, out, err = run("calibrate", MODEL, "--data", CALIB, "--samples", "12", "-o", "c.calib", "--json", "-")
    assert (code, err) == (0, "")
    document = strict_json(out)
    assert (document["schema"], document["samples"], document["output"]) == ("qtool.calibrate", 12, "c.calib")
    assert document["bytes"] == Path("c.calib").stat().st_size
    tensors = {row["name"]: row for row in document["tensors"]}
    # the shipped pixels are in [0, 1], 64 to a sample
    assert [tensors["input"][key] for key in ("min", "max", "count")] == [0.0, 1.0, 12 * 64]


@pytest.mark.usefixtures("folder")
def test_quantize_prints_json_alone(run):
    code, out, err = run("quantize", MODEL, "--calibration", "digits.calib", "-o", "q.onnx", "--json", "-")
    assert (code, err) == (0, "")
    document = strict_json(out)
    proof, plan = document["verification"], document["plan"]
    assert document["bytes"] == Path("q.onnx").stat().st_size
    assert document["float_bytes"] == Path(MODEL).stat().st_size
    assert proof["integer_share"] == 1.0
    assert (proof["fallbacks"], proof["float_layers"]) == ([], {})
    # 16 convolutions and a classifier in the network's description
    assert proof["layers"] == proof["integer_layers"] == 17
    assert proof["kernels"]["QLinearConv"] == 16
    assert proof["output_sqnr_db"] > 30.0
    assert {row["tensor"] for row in proof["tensors"]} == {row["tensor"] for row in plan["activations"]}
    assert all(row["sqnr_db"] > 15.0 for row in proof["tensors"])
    # the trail of calibrators, best first, and the plan that was made with the best
    figures = [row["sqnr_db"] for row in document["trials"]]
    assert len(figures) >= 4
    assert figures == sorted(figures, reverse=True)
    assert plan["calibrator"] == document["trials"][0]["calibrator"]
    # the plan is what the file holds
    model = onnx.load("q.onnx")
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    for row in plan["activations"]:
        assert stored[f"{row['tensor']}_scale"] == np.float32(row["params"]["scale"][0])
    assert sum(n.op_type == "QuantizeLinear" for n in model.graph.node) == len(plan["activations"])


def test_json_into_a_file_leaves_the_lines(folder, run):
    code, out, _ = run("quantize", MODEL, "--calibration", "digits.calib", "--calibrator", "max", "--json", "r.json")
    assert code == 0
    labels = [line[2:14].strip() for line in out.splitlines() if line.startswith("  ")]
    assert labels == "size settings integer float arithmetic accuracy - speed - verdict - next".replace("-", "").split(
        " "
    )
    assert strict_json((folder / "r.json").read_text())["schema"] == "qtool.quantize"


def test_a_saved_plan_gives_the_same_bytes(folder, run, quantize):
    quantize("-o", "a.onnx", "--save-plan", "plan.json", calibrator=())
    assert strict_json((folder / "plan.json").read_text())["model_digest"]
    assert run("quantize", MODEL, "--calibration", "digits.calib", "--plan", "plan.json", "-o", "b.onnx")[0] == 0
    assert (folder / "a.onnx").read_bytes() == (folder / "b.onnx").read_bytes()


def test_an_edited_plan_is_applied(folder, run, quantize):
    quantize("-o", "a.onnx", "--save-plan", "plan.json")
    plan = json.loads((folder / "plan.json").read_text())
    row = _row(plan["activations"], "input")
    row["params"]["scale"] = [row["params"]["scale"][0] * 2]
    bias = next(r for r in plan["biases"] if r["reader"][0] == row["readers"][0][0])
    bias["scale"] = [2 * s for s in bias["scale"]]
    (folder / "plan.json").write_text(json.dumps(plan))
    assert run("quantize", MODEL, "--calibration", "digits.calib", "--plan", "plan.json", "-o", "b.onnx")[0] == 0
    scales = [
        {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(name).graph.initializer}["input_scale"]
        for name in ("a.onnx", "b.onnx")
    ]
    assert scales[1] == 2 * scales[0]


@pytest.fixture(scope="module")
def plan(tmp_path_factory, calibration):
    """A plan of the shipped model, as text."""
    out = tmp_path_factory.mktemp("plan")
    line = ["quantize", str(SHIPPED / MODEL), "--calibration", str(calibration), "--calibrator", "max", "-q"]
    with pytest.raises(SystemExit) as caught:
        main([*line, "-o", str(out / "a.onnx"), "--save-plan", str(out / "plan.json")])
    assert caught.value.code == 0
    return (out / "plan.json").read_text()


def _row(rows, tensor):
    return next(row for row in rows if row["tensor"] == tensor)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda p: _row(p["activations"], "input")["params"].update(scale=[0.5]), "must be that of its input times"),
        (lambda p: _row(p["activations"], "input").update(tensor="inputs"), "'inputs' is not in the model"),
        (lambda p: _row(p["activations"], "input").update(readers=[["stem_conv", 9]]), "input 9 of node 'stem_conv'"),
        (lambda p: _row(p["activations"], "input").update(readers=[["stem_conf", 0]]), "of node 'stem_conf'"),
        (lambda p: _row(p["activations"], "input").update(readers=[]), "its operands are float"),
        (lambda p: p["weights"][0]["params"].update(axis=3), "is not that of"),
        (lambda p: p["weights"][0]["params"].update(axis=-9), "is not that of"),
        (lambda p: p["weights"][0].update(tensor="w"), "constant 'w' is not in the model"),
        (lambda p: p["biases"][0].update(scale=[0.1, 0.2]), "must be that of its input times"),
        (lambda p: p.update(model_digest="0" * 64), "made for another model"),
        (lambda p: p.update(target="pdp11"), "'pdp11', which is unknown"),
        (lambda p: p.update(schema_version=0), "not a qtool plan of version"),
        (lambda p: p.update(extra=1), "damaged plan"),
        (lambda p: p["activations"].clear(), "its operands are float"),
    ],
)
def test_a_spoilt_plan_is_refused(folder, plan, refused, edit, says):
    plan = json.loads(plan)
    edit(plan)
    (folder / "plan.json").write_text(json.dumps(plan))
    line = refused("quantize", MODEL, "--calibration", "digits.calib", "--plan", "plan.json", "-o", "b.onnx")
    assert line.startswith("qtool: plan.json: ")
    assert says in line


def test_data_at_once_gives_the_same_bytes_as_two_steps(folder, run, quantize):
    quantize("-o", "a.onnx")
    assert run("quantize", MODEL, "--data", CALIB, "--calibrator", "max", "-o", "b.onnx")[0] == 0
    assert (folder / "a.onnx").read_bytes() == (folder / "b.onnx").read_bytes()


@pytest.mark.long
@pytest.mark.usefixtures("folder")
def test_percentile_implies_its_calibrator(quantize):
    out = quantize("--percentile", "99.9", "-o", "a.onnx", calibrator=())
    assert re.search(r"calibrator percentile 99\.9[,\n]", out)
    quantize("--percentile", "99.9", "-o", "b.onnx", calibrator=("--calibrator", "percentile"))
    quantize("-o", "c.onnx", calibrator=("--calibrator", "percentile"))
    quantize("-o", "d.onnx", calibrator=("--calibrator", "percentile:99.9"))
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes() == Path("d.onnx").read_bytes()
    assert Path("a.onnx").read_bytes() != Path("c.onnx").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--calibration", "digits.calib", "--data", CALIB], "either a calibration file or data"),
        ([], "give a calibration file or data"),
        (["--calibration", "digits.calib", "--samples", "5"], "--samples needs --data"),
        (["--calibration", "digits.calib", "--batch-size", "2"], "--batch-size needs --data"),
        (["--calibration", "digits.calib", "--threads", "2"], "--threads needs --data"),
        (["--calibration", "digits.calib", "--preprocess", "p.json"], "--preprocess needs --data"),
        (["--calibration", "digits.calib", "--plan", "p.json", "--calibrator", "max"], "--calibrator says nothing"),
        (["--calibration", "digits.calib", "--plan", "p.json", "--exclude", "x"], "--exclude says nothing"),
        (["--calibration", "digits.calib", "--plan", "p.json", "--include-op", "Conv"], "--include-op says nothing"),
        (["--calibration", "digits.calib", "--plan", "p.json"], "p.json: cannot be read"),
        (
            ["--calibration", "digits.calib", "--calibrator", "max", "--percentile", "99"],
            "--percentile 99 says nothing",
        ),
        (["--calibration", "digits.calib", "--percentile", "40"], "percentile 40 is not in (50, 100]"),
        (["--calibration", "digits.calib", "--calibrator", "percentile:40"], "percentile 40 is not in (50, 100]"),
        (
            ["--calibration", "digits.calib", "--calibrator", "percentile:99", "--percentile", "98"],
            "--percentile 98 says nothing to --calibrator percentile 99",
        ),
        (
            ["--calibration", "digits.calib", "--calibrator", "best"],
            "'--calibrator': unknown calibrator 'best'; choose one of max, entropy, percentile[:P], mse",
        ),
        (["--calibration", "digits.calib", "--target", "pdp11"], "'tensorrt'"),
        (["--calibration", "digits.calib", "--scheme", "odd"], "'symmetric', 'affine'"),
        (["--calibration", "digits.calib", "--granularity", "odd"], "'per-channel', 'per-tensor'"),
        (["--calibration", "digits.calib", "--exclude", "nowhere*"], "'nowhere*'"),
        (["--calibration", "digits.calib", "--include-op", "Gem"], "holds no Gem"),
        (["--calibration", "digits.calib", "--exclude-op", "conv"], "holds no conv"),
        (["--calibration", "digits.calib", "--include-op", "Identity"], "Identity"),
        (["--calibration", "digits.calib", "--speed", "max"], "No such option"),
        (["--calibration", "digits.calib", "--calibrator", "max", "--save-plan", "digits.calib"], "is --calibration"),
        (["--calibration", "digits.calib", "-o", "a", "--save-plan", "./a"], "is --output already"),
    ],
)
def test_contradictions_are_refused(refused, arguments, says):
    assert says in refused("quantize", MODEL, *arguments)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("arguments", [[], ["--nonsense"], ["--samples", "x"], ["--threads", "0"]])
def test_wrong_usage_points_to_the_help(refused, command, arguments):
    if command == "schema" and not arguments:
        pytest.skip("needs no arguments")
    assert f"see `qtool {command} --help`" in refused(command, *arguments)


def test_an_option_without_its_value(refused):
    assert "'--data' requires an argument" in refused("calibrate", "--data")


def test_an_unknown_command_is_refused(refused):
    assert "'improve'" in refused("improve", MODEL)


@pytest.mark.parametrize("model", ["", ".", "..", "/", "a folder", "a folder/", "a folder/.."])
def test_a_model_that_is_no_file(refused, folder, model):
    (folder / "a folder").mkdir()
    refused("calibrate", model, "--data", CALIB)
    refused("quantize", model, "--calibration", "digits.calib")
    refused("sensitivity", model, "--calibration", "digits.calib", "--data", CALIB)
    refused("tune", model, "--data", CALIB)
    refused("eval", model, MODEL, "--data", CALIB)
    refused("eval", MODEL, model, "--data", CALIB)
    refused("merge", model, "-o", "m.calib")


@pytest.mark.parametrize(
    "arguments",
    [
        ["calibrate", MODEL, "--data", ""],
        ["calibrate", MODEL, "--data", CALIB, "-o", ""],
        ["quantize", MODEL, "--calibration", "digits.calib", "-o", ""],
        ["quantize", MODEL, "--calibration", "digits.calib", "--exclude", ""],
        ["tune", MODEL, "--data", CALIB, "-o", ""],
        ["tune", MODEL, "--data", CALIB, "--eval-data", ""],
        ["eval", MODEL, MODEL, "--data", CALIB, "--metric", "top1", "--metric", ""],
        ["merge", "digits.calib", "", "-o", "m.calib"],
    ],
)
def test_an_empty_text_is_refused(refused, arguments):
    assert "it is empty; give a value" in refused(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["calibrate", MODEL, "--data", CALIB, "-o", "-"],
        ["merge", "digits.calib", "-o", "-"],
        ["quantize", MODEL, "--calibration", "digits.calib", "-o", "-"],
        ["quantize", MODEL, "--calibration", "digits.calib", "--save-plan", "-"],
        ["tune", MODEL, "--data", CALIB, "-o", "-"],
    ],
)
def test_what_is_no_text_is_not_printed(refused, arguments):
    """A file called - is what nobody asks for."""
    assert "cannot be printed; name a file" in refused(*arguments)


@pytest.mark.long
@pytest.mark.usefixtures("folder")
def test_excluded_layers_run_in_float(quantize):
    """`--exclude` by name, by glob; `--exclude-op`; `--include-op`: read from what onnxruntime executes."""
    names = [n.name for n in onnx.load(MODEL).graph.node if n.op_type == "Conv"]
    wanted = fnmatch.filter(names, "ir2_*")
    assert len(wanted) == 3
    for arguments, float_layers in (
        (["--exclude", "ir2_*"], wanted),
        (["--exclude", wanted[0], "--exclude", wanted[1]], wanted[:2]),
        (["--exclude-op", "Gemm"], ["classifier"]),
        (["--include-op", "Gemm"], names),
    ):
        out = quantize("-o", "q.onnx", "--json", "-", *arguments)
        proof = strict_json(out)["verification"]
        assert sorted(proof["float_layers"]) == sorted(float_layers)
        kernels = executed(Path("q.onnx"))
        conv_float = sum(name in names for name in float_layers)
        assert kernels.count("QLinearConv") == 16 - conv_float
        assert kernels.count("Conv") + kernels.count("FusedConv") == conv_float


def executed(path):
    """Operators of the graph that a default session runs."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".optimized"))
    options.log_severity_level = 4
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return [n.op_type for n in onnx.load(path.with_suffix(".optimized")).graph.node]


class TestConfig:
    """`--config qtool.toml`."""

    @pytest.fixture(autouse=True)
    def _write(self, folder):
        self.write = (folder / "qtool.toml").write_text

    def test_values_are_used_and_the_command_line_wins(self, run):
        self.write(
            "[calibrate]\nsamples = 7\n[quantize]\ncalibrator = 'max'\ncalibration = 'digits.calib'\n"
            "exclude = ['classifier']\noutput = 'q.onnx'\n[eval]\nsamples = 30\nmetric = ['cosine', 'mse']\n"
        )
        code, out, _ = run("calibrate", MODEL, "--config", "qtool.toml", "--data", CALIB, "--json", "-")
        assert (code, strict_json(out)["samples"]) == (0, 7)
        code, out, _ = run(
            "calibrate", MODEL, "--config", "qtool.toml", "--data", CALIB, "--samples", "3", "--json", "-"
        )
        assert (code, strict_json(out)["samples"]) == (0, 3)
        code, out, _ = run("quantize", MODEL, "--config", "qtool.toml", "--json", "-")
        document = strict_json(out)
        assert (code, document["output"], document["plan"]["calibrator"]) == (0, "q.onnx", "max")
        assert list(document["verification"]["float_layers"]) == ["classifier"]
        code, out, _ = run("quantize", MODEL, "--config", "qtool.toml", "--calibrator", "mse", "--json", "-")
        assert strict_json(out)["plan"]["calibrator"] == "mse"
        code, out, _ = run("eval", MODEL, "q.onnx", "--data", EVAL, "--config", "qtool.toml", "--json", "-")
        document = strict_json(out)
        assert (document["samples"], list(document["float_model"]["metrics"])) == (30, ["cosine", "mse"])

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("[quantize]\ncalibratr = 'max'\n", "unknown key 'calibratr' in [quantize]"),
            ("[quantise]\ncalibrator = 'max'\n", "unknown key 'quantise'; the tables are [calibrate]"),
            ("calibrator = 'max'\n", "unknown key 'calibrator'"),
            ("[quantize]\nexclude = 'classifier'\n", "exclude must be a list"),
            ("[quantize]\ncalibrator = ['max']\n", "calibrator must be one value"),
            ("[quantize]\ncalibrator = 'best'\n", "unknown calibrator 'best'"),
            ("[quantize]\ncalibrator = 'percentile:20'\n", "percentile 20 is not in (50, 100]"),
            ("[quantize]\ndynamic = true\nstatic = true\n", "--static and --dynamic contradict each other"),
            ("[quantize]\ndynamic = 'yes'\n", "dynamic must be true or false"),
            ("[quantize]\nequalize = 1\n", "equalize must be true or false"),
            ("[quantize]\nsave-plan = ''\n", "it is empty"),
            ("[quantize]\npercentile = 'high'\n", "percentile must be a number, not 'high'"),
            ("[quantize]\ncalibrator = 'max'\npercentile = 99.0\n", "--percentile 99 says nothing"),
            ("[quantize]\nsamples = 5\n", "--samples needs --data"),
            ("[quantize\n", "qtool.toml: not TOML"),
        ],
    )
    def test_mistakes_are_errors(self, refused, text, says):
        self.write(text)
        assert says in refused("quantize", MODEL, "--calibration", "digits.calib", "--config", "qtool.toml")

    def test_a_mistake_in_the_table_of_another_command_waits_for_it(self, run, refused):
        self.write("[eval]\nmetrik = ['top1']\n")
        assert (
            run("quantize", MODEL, "--calibration", "digits.calib", "--calibrator", "max", "--config", "qtool.toml")[0]
            == 0
        )
        assert "'metrik'" in refused("eval", MODEL, MODEL, "--data", EVAL, "--config", "qtool.toml")

    def test_a_missing_file(self, refused):
        assert "none.toml: cannot be read" in refused("quantize", MODEL, "--config", "none.toml")


def test_what_others_registered_is_done_at_the_end(tmp_path):
    """The process does not take itself apart, but exit handlers run and all output arrives."""
    (tmp_path / "mine.py").write_text(
        "import atexit\nimport numpy\n\natexit.register(lambda: print('handled', flush=True))\n\n\n"
        "def feed():\n    for n in (1, 2):\n        yield {'x': numpy.full((1, 3, 8, 8), n, 'float32')}\n"
    )
    network(tmp_path / "m.onnx")
    command = ["calibrate", "m.onnx", "--data", "mine.py:feed", "-o", "m.calib"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-m", "qtool", *command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "m.calib: 2 samples, 3 tensors" in done.stdout
    assert done.stdout.endswith("handled\n")
