"""Gates of `quantize` and `eval`, `--check`, and what JSON and JUnit say of a command that fails."""

import json
import subprocess
import sys
from xml.etree import ElementTree as ET

import numpy as np
import onnx
import pytest

import qtool
from qtool.report import quantize as report
from tests.support.evaluation_models import linear
from tests.support.schemas import schema_faults

RNG = np.random.default_rng(3)
X = RNG.normal(size=(24, 16)).astype(np.float32)
WEIGHTS = RNG.normal(size=(16, 5)).astype(np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """float.onnx, which scores classes, and d.npz."""
    monkeypatch.chdir(tmp_path)
    linear(tmp_path / "float.onnx", WEIGHTS, output_name="logits")
    np.savez(tmp_path / "d.npz", x=X)
    return tmp_path


QUANTIZE = ("quantize", "float.onnx", "--data", "d.npz", "--optimize-for", "size", "-o", "q.onnx")


def test_the_gates_of_quantize(folder, run):
    asked = ("--min-agreement", "60%", "--min-integer", "100%", "--max-size", "0.1kB", "--min-sqnr", "10")
    code, out, _ = run(*QUANTIZE, *asked, "--json", "q.json", "--junit", "q.xml")
    assert code == 1 and (folder / "q.onnx").exists()
    document = json.loads((folder / "q.json").read_text())
    assert schema_faults(document) == [] and document["passed"] is False
    found = {gate["rule"]: (gate["found"], gate["passed"]) for gate in document["gates"]}
    # half of the samples, those that report
    said = qtool.evaluate("float.onnx", "q.onnx", "d.npz").candidates[0].agreement
    assert found["min-agreement"] == (pytest.approx(said, abs=0.1), True)
    assert found["min-integer"] == (1.0, True)
    assert found["max-size"] == ((folder / "q.onnx").stat().st_size, False)
    assert found["min-sqnr"][1] is True
    cases = ET.parse(folder / "q.xml").getroot().findall("testsuite/testcase")
    assert [case.find("failure") is not None for case in cases] == [not passed for _, passed in found.values()]
    assert f"FAIL q.onnx: size is {found['max-size'][0]:.0f} bytes, asked at most 100 bytes" in out
    failed, step = (line.strip() for line in out.splitlines()[-2:])
    smaller = "qtool quantize float.onnx --data d.npz"
    assert step.startswith(
        f"next        `{smaller} --optimize-for size` leaves nothing in float for speed, and `{smaller} --w"
    )
    assert run(*QUANTIZE, *asked, "-q")[1:] == ("", f"{failed}; next: {step.removeprefix('next').strip()}\n")


def test_the_gates_of_eval(folder, run):
    run(*QUANTIZE)
    words = ("eval", "float.onnx", "q.onnx", "float.onnx", "--data", "d.npz", "--min-integer", "100%")
    code, out, _ = run(*words, "--json", "e.json")
    assert code == 1
    assert "PASS q.onnx: integer: 100% of multiply-accumulates" in out
    assert "FAIL float.onnx (2): integer: 0% of multiply-accumulates" in out
    step = "`qtool inspect float.onnx --float float.onnx` says of each layer why it is float"
    assert out.splitlines()[-1] == f"next: {step}" and run(*words, "-q")[2].endswith(f"; next: {step}\n")
    assert run(*words, "--markdown", "e.md", "-q")[0] == 1
    assert (folder / "e.md").read_text().splitlines()[-1].replace("\\", "") == f"- next: {step}"
    document = json.loads((folder / "e.json").read_text())
    assert [model["integer_share"] for model in document["candidates"]] == [1.0, 0.0]
    assert schema_faults(document) == []


@pytest.mark.usefixtures("folder")
def test_a_gate_on_the_speed_times_the_models(run):
    code, out, _ = run("eval", "float.onnx", "float.onnx", "--data", "d.npz", "--min-speedup", "1000")
    assert code == 1 and "latency ms" in out and "asked at least 1000x" in out


@pytest.mark.usefixtures("folder")
def test_gates_on_data_need_data(run):
    for gate in (("--min-agreement", "90%"), ("--min-speedup", "1.1")):
        code, _, err = run("quantize", "float.onnx", "--dynamic", *gate)
        assert code == 2 and f"{gate[0]} says nothing without data" in err


def test_a_check_compares_with_what_would_be_written(folder, run):
    code, _, err = run(*QUANTIZE, "--check")
    assert code == 2 and "q.onnx is not there" in err
    run(*QUANTIZE)
    before = (folder / "q.onnx").read_bytes()
    code, out, _ = run(*QUANTIZE, "--check")
    assert (code, out) == (0, "q.onnx: is what these inputs and options give, byte for byte\n")
    code, out, _ = run(*QUANTIZE, "--check", "--scheme", "symmetric", "--json", "c.json")
    assert code == 1 and "q.onnx: is NOT what these inputs and options give" in out
    assert out.splitlines()[1].startswith("it was made with scheme affine, now symmetric")
    document = json.loads((folder / "c.json").read_text())
    assert (document["schema"], document["same"]) == ("qtool.diff", False) and schema_faults(document) == []
    assert [row["tensor"] for row in document["ranges"]] == ["x"]
    np.savez(folder / "other.npz", x=3 * X[:20])
    code, out, _ = run("quantize", "float.onnx", "--data", "other.npz", *QUANTIZE[4:], "--check")
    assert code == 1 and out.splitlines()[1].startswith("it was made with other samples (24, now 20)")
    (folder / "other.npz").unlink()
    model = onnx.load("q.onnx")
    model.metadata_props.add(key="note", value="ours")
    onnx.save(model, "q.onnx")
    code, out, _ = run(*QUANTIZE, "--check")
    assert code == 0 and "only names and notes in the file differ" in out
    onnx.save(onnx.load_from_string(before), "q.onnx")
    assert sorted(p.name for p in folder.iterdir()) == ["c.json", "d.npz", "float.onnx", "q.onnx"]


def test_a_check_is_a_test(folder, run):
    run(*QUANTIZE)
    suites = []
    for words, code in (((), 0), (("--scheme", "symmetric", "--max-size", "90%"), 1)):
        assert run(*QUANTIZE, "--check", *words, "--junit", "c.xml")[0] == code
        suites.append(ET.parse(folder / "c.xml").getroot().find("testsuite"))
    same, other = ({row.get("name"): row.get("value") for row in suite.iter("property")} for suite in suites)
    assert same["size_bytes"] == other["size_bytes"] == str((folder / "q.onnx").stat().st_size)
    assert "sqnr_db" in same and other.keys() == {"path", "size_bytes", "float_size_bytes"}
    assert [case.get("name") for case in suites[0].iter("testcase")] == ["check"]
    assert [case.get("name") for case in suites[1].iter("testcase")] == ["check", "size max-size 90%"]
    assert [suite.get("failures") for suite in suites][:1] == ["0"] and suites[1].get("tests") == "2"
    (failure,) = suites[1].find("testcase").iter("failure")
    assert failure.get("message").startswith("q.onnx: is NOT what these inputs and options give")
    code, _, err = run(*QUANTIZE[:4], "-o", "q.onnx", "--check", "--optimize-for", "latency")
    assert code == 2 and "--optimize-for latency: lets this machine's clock decide" in err and err.count("\n") == 1


@pytest.mark.usefixtures("folder")
def test_a_check_writes_no_file_of_the_model(run):
    code, _, err = run(*QUANTIZE, "--check", "--save-plan", "p.json")
    assert code == 2 and "--save-plan: writes a file, and --check writes no model" in err


def test_what_failed_says_so_in_the_documents(folder, run):
    absent = ("quantize", "float.onnx", "--data", "absent.npz", "-o", "q.onnx")
    code, _, err = run(*absent, "--json", "q.json", "--junit", "q.xml")
    assert code == 2 and not (folder / "q.onnx").exists()
    document = json.loads((folder / "q.json").read_text())
    assert schema_faults(document) == []
    assert (document["schema"], document["command"], document["exit_code"]) == ("qtool.failure", "quantize", 2)
    assert f"qtool: {document['error']}\n" == err
    error = ET.parse(folder / "q.xml").getroot().find("testsuite/testcase/error")
    assert error is not None and error.attrib["message"] == document["error"]
    code, out, _ = run("eval", "float.onnx", "absent.onnx", "--data", "d.npz", "--json", "-")
    assert code == 2 and json.loads(out)["exit_code"] == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--bogus",), "No such option '--bogus'"),
        (("--bogus=3", "extra"), "No such option '--bogus'"),
        (("--calibrator", "nope"), "unknown calibrator 'nope'"),
        (("--threads", "x"), "'x' is not a valid integer range"),
        (("--dynamic=3",), "Option '--dynamic' does not take a value"),
        (("extra",), "Got unexpected extra argument (extra)"),
        (("--max-size", "5%", "--max-size", "9%"), "it is given twice"),
        (("--min-sqnr", "nan"), "nan is no finite number"),
        # refused by the command, before it opens its outputs
        (("--static", "--dynamic"), "--static and --dynamic contradict each other"),
        (("--max-drop", "1%"), "--max-drop needs --data with labels"),
    ],
)
def test_a_call_that_is_no_good_says_so_in_the_documents(folder, run, words, says):
    for documents in (("--json", "q.json", "--junit", "q.xml"), ("--json=q.json", "--junit=q.xml")):
        for line in ((*documents, *words), (*words, *documents)):
            code, out, err = run("quantize", "float.onnx", "-o", "q.onnx", *line)
            assert (code, out, err.count("\n")) == (2, "", 1) and says in err
            document = json.loads((folder / "q.json").read_text())
            assert schema_faults(document) == []
            assert (document["command"], document["exit_code"]) == ("quantize", 2)
            assert f"qtool: {document['error']}\n" == err
            (error,) = ET.parse(folder / "q.xml").getroot().iter("error")
            assert error.attrib["message"] == document["error"]
            assert sorted(path.name for path in folder.iterdir()) == ["d.npz", "float.onnx", "q.json", "q.xml"]
            (folder / "q.json").unlink()
            (folder / "q.xml").unlink()


def test_an_option_without_its_value_stands_at_the_end(folder, run):
    code, _, err = run("eval", "float.onnx", "--json", "e.json", "--data")
    assert code == 2 and "Option '--data' requires an argument" in err
    assert json.loads((folder / "e.json").read_text())["command"] == "eval"
    code, out, err = run("eval", "float.onnx", "--json", "-", "--bogus")
    assert code == 2 and f"qtool: {json.loads(out)['error']}\n" == err


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--data", "--junit", "q.xml"), "'--data': its value is missing, for --junit follows; give one"),
        (("--data", "-o", "q.onnx"), "'--data': its value is missing, for -o follows"),
        (("--data", "d.npz", "--exclude", "--min-sqnr=20"), "(--exclude=--min-sqnr=20 where it is that)"),
        (("--data=--json",), "--json: does not exist"),
    ],
)
def test_an_option_is_not_the_value_of_the_one_before_it(run, words, says):
    code, out, err = run("quantize", "float.onnx", *words)
    assert (code, out, err.count("\n")) == (2, "", 1) and says in err, err


@pytest.mark.usefixtures("folder")
def test_a_document_that_is_not_understood_is_not_written(folder, run):
    before = sorted(path.name for path in folder.iterdir())
    for words in (
        ("--json", "q.json", "--json", "q.json"),
        ("--json", "q.json", "--junit", "q.json"),
        ("-o", "q.json", "--json", "q.json", "--bogus"),
        ("--data", "--json", "q.json"),
        ("--data", "d.npz", "--json", "--quiet"),
        ("--json",),
        ("--help", "--json", "q.json"),
    ):
        code, *_ = run("quantize", "float.onnx", *words)
        assert code == (0 if "--help" in words else 2)
        assert sorted(path.name for path in folder.iterdir()) == before


def test_a_document_that_may_be_an_input_outlives_a_call_that_is_no_good(folder, run):
    assert run("eval", "float.onnx", "float.onnx", "--data", "d.npz", "--json", "e.json")[0] == 0
    before = (folder / "e.json").read_text()
    (folder / "c.toml").write_text('[inspect]\ndata = "e.json"\n')
    for words in (
        ("inspect", "e.json", "--json", "e.json", "--bogus"),
        ("inspect", "./e.json", "--json", "e.json", "--bogus"),
        ("inspect", "float.onnx", "--data", ".", "--json", "e.json", "--bogus"),
        ("inspect", "float.onnx", "--config", "c.toml", "--json", "e.json", "--bogus"),
        ("inspect", "float.onnx", "--data", "e.json", "--json", "e.json"),
    ):
        assert run(*words)[0] == 2
        assert (folder / "e.json").read_text() == before
    # without any of that it is an earlier run's
    assert run("inspect", "float.onnx", "--json", "e.json", "--bogus")[0] == 2
    assert "--bogus" in json.loads((folder / "e.json").read_text())["error"]


def test_what_may_not_be_written_is_not_written_then_either(folder, run):
    before = (folder / "d.npz").read_bytes()
    for output in ("d.npz", "no/q.json"):
        code, _, _ = run("eval", "float.onnx", "float.onnx", "--data", "d.npz", "--json", output)
        assert code == 2
    assert (folder / "d.npz").read_bytes() == before


def test_a_file_that_is_no_document_of_ours_outlives_a_failure(folder, run):
    """A command that fails early does not know yet that it would have read it."""
    (folder / "coco.json").write_text("{}")
    (folder / "notes.xml").write_text("<notes/>")
    words = ("eval", "float.onnx", "absent.onnx", "--data", "d.npz")
    for output in (("--json", "coco.json"), ("--junit", "notes.xml")):
        assert run(*words, *output)[0] == 2
    assert ((folder / "coco.json").read_text(), (folder / "notes.xml").read_text()) == ("{}", "<notes/>")
    for option, name in (("--json", "e.json"), ("--junit", "e.xml")):
        assert run("eval", "float.onnx", "float.onnx", "--data", "d.npz", option, name)[0] == 0
        before = (folder / name).read_text()
        assert run(*words, option, name)[0] == 2
        # what an earlier run has written is not what is asked for now
        assert (folder / name).read_text() != before


def test_a_program_replaces_what_an_earlier_run_has_written(folder, run):
    """Programs note what they read, and look into a document before they write over it."""
    line = ["eval", "float.onnx", "float.onnx", "--data", "d.npz", "--json", "e.json", "--junit", "e.xml"]
    assert run(*line)[0] == 0
    line[2] = "absent.onnx"
    done = subprocess.run([sys.executable, "-m", "qtool", *line], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert json.loads((folder / "e.json").read_text())["schema"] == "qtool.failure"
    assert ET.parse(folder / "e.xml").getroot().find("testsuite/testcase/error") is not None


def test_a_program_prints_what_failed_to_standard_output_alone(folder):
    words = [sys.executable, "-m", "qtool", "eval", "float.onnx", "absent.onnx", "--data", "d.npz", "--json", "-"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and folder.exists()
    document = json.loads(done.stdout)
    assert done.stderr == f"qtool: {document['error']}\n"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("size", "says"),
    [
        ("0.3", "a size of 0.3 bytes is less than any file's; for that share of float's say 30%"),
        ("5mb", "a size of '5mb' makes no sense (did you mean 5MB?); give"),
        ("2kib", "(did you mean 2KiB?)"),
    ],
)
def test_a_size_that_nobody_means_is_refused(run, size, says):
    code, _, err = run("eval", "float.onnx", "float.onnx", "--data", "d.npz", "--max-size", size)
    assert code == 2 and says in err and err.count("\n") == 1


def test_that_it_is_slower_is_said_where_nothing_else_is(folder, run, monkeypatch):
    monkeypatch.setattr(report, "slower_line", lambda *_: "WARNING: slower than float")
    code, out, err = run(*QUANTIZE, "-q")
    assert (code, out, err) == (0, "", "q.onnx: WARNING: slower than float\n") and folder.exists()
