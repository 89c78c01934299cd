"""Outputs: never over what was read, all of them together, and standard output for one document alone."""

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from qtool.cli import main
from qtool.core.errors import DataError
from tests.support.places import REPOSITORY
from tests.support.refusals import SAMPLES, classifier, contents
from tests.support.schemas import schema_faults

CALIBRATE = ["calibrate", "m.onnx", "--data"]


@pytest.fixture
def house(folder):
    """Every kind of input, in the current folder."""
    (folder / "helping").mkdir()
    (folder / "helping" / "__init__.py").touch()
    (folder / "helping" / "deeper.py").write_text("import numpy\nones = numpy.ones((1, 3, 8, 8), 'f')\n")
    (folder / "hook.py").write_text(
        "from helping.deeper import ones\n\n\ndef f():\n    yield {'x': ones}\n    yield {'x': -ones}\n\n\n"
        "def score(outputs, labels):\n    return 1.0\n"
    )
    (folder / "arrays").mkdir()
    for i in range(2):
        np.save(folder / "arrays" / f"{i}.npy", SAMPLES[i])
    (folder / "arrays" / "labels.csv").write_text("file,label\n0.npy,0\n1.npy,1\n")
    (folder / "arrays" / "notes.txt").write_text("notes")
    classifier(folder / "k.onnx")
    onnx.save(onnx.load("m.onnx"), "e.onnx", save_as_external_data=True, location="e.data", size_threshold=0)
    (folder / "c.toml").write_text("[calibrate]\nsamples = 2\n")
    (folder / "p.json").write_text('{"mean": 0, "std": 1}')
    (folder / "t.json").write_text("{}")
    (folder / "plan.json").write_text("{}")
    return folder


INPUTS = [
    (["calibrate", "m.onnx", "--data", "good.npz"], "m.onnx", "MODEL"),
    (["calibrate", "e.onnx", "--data", "good.npz"], "e.data", "MODEL"),
    (["calibrate", "m.onnx", "--data", "good.npz"], "good.npz", "--data"),
    (["calibrate", "m.onnx", "--data", "arrays"], "arrays/1.npy", "--data"),
    (["calibrate", "m.onnx", "--data", "arrays"], "arrays/labels.csv", "--data"),
    (["calibrate", "m.onnx", "--data", "hook.py:f"], "hook.py", "--data"),
    (["calibrate", "m.onnx", "--data", "good.npz", "--config", "c.toml"], "c.toml", "--config"),
    (["calibrate", "m.onnx", "--data", "good.npz", "--preprocess", "p.json"], "p.json", "--preprocess"),
    (["calibrate", "m.onnx", "--data", "good.npz", "--tokenizer", "t.json"], "t.json", "--tokenizer"),
    (["quantize", "m.onnx", "--calibration", "m.calib"], "m.calib", "--calibration"),
    (["quantize", "m.onnx", "--plan", "plan.json"], "plan.json", "--plan"),
    (["merge", "m.calib"], "m.calib", "FILE m.calib"),
    (["tune", "m.onnx", "--data", "good.npz", "--eval-data", "arrays"], "arrays/0.npy", "--eval-data"),
    (["tune", "m.onnx", "--data", "good.npz", "--metric", "hook.py:score"], "hook.py", "--metric"),
    (["sensitivity", "m.onnx", "--calibration", "m.calib", "--data", "arrays"], "arrays/0.npy", "--data"),
]


def test_an_input_is_not_written_over(house, refused):
    """By its own name, a symbolic link, or another name of the same file."""
    for i, (words, path, name) in enumerate(INPUTS):
        (house / f"symbolic{i}").symlink_to(house / path)
        (house / f"hard{i}").hardlink_to(house / path)
        for output in (path, f"symbolic{i}", f"hard{i}"):
            refused(*words, "-o", output, says=[f"--output {output}: is {name} already; name another file"])
        refused(*words, "-o", f"missing/../{path}", says=["leads through a folder that does not exist"])
    refused("merge", "m.calib", "-o", "new", "--json", "m.calib", says=["--json m.calib: is FILE m.calib already"])


def test_the_inputs_of_eval_are_not_written_over(house, refused):
    words = ["eval", "m.onnx", "e.onnx", "--data", "good.npz", "--metric", "hook.py:score"]
    for option, path, name in (
        ("--json", "m.onnx", "FLOAT"),
        ("--junit", "e.onnx", "CANDIDATE e.onnx"),
        ("--markdown", "e.data", "CANDIDATE e.onnx"),
        ("--json", "hook.py", "--metric hook.py:score"),
    ):
        refused(*words, option, path, says=[f"{option} {path}: is {name} already; name another file"])
    assert house


def test_what_a_function_imports_is_not_written_over(house, refused):
    """The remedy works."""
    says = ["--json helping/deeper.py: was read by this command; name another file"]
    before = contents(house)
    with pytest.raises(SystemExit):
        refused(*CALIBRATE, "hook.py:f", "-o", "new", "--json", "helping/deeper.py", says=says)
        main([*CALIBRATE, "hook.py:f", "-o", "new", "--json", "result.json", "-q"])
    after = contents(house)
    assert after.keys() - before.keys() == {"new", "result.json"}


def test_what_is_not_read_in_a_folder_of_data_may_be_written(house):
    with pytest.raises(SystemExit) as caught:
        main([*CALIBRATE, "arrays", "-o", "arrays/notes.txt", "-q"])
    assert caught.value.code == 0 and (house / "arrays" / "notes.txt").read_bytes()[:2] == b"PK"


def test_labels_of_pictures_are_not_written_over(house, refused):
    """Of files with other names of the same folder there may be others."""
    (house / "images").mkdir()
    (house / "labels").mkdir()
    for name in ("images/a.png", "images/a.txt", "images/b.jpg", "labels/b.txt", "images/labels.json", "boxes.json"):
        (house / name).write_text("0 0.5 0.5 1 1")
    words = ["eval", "m.onnx", "k.onnx", "--data", "images", "--decode", "hook.py:f"]
    for path in ("images/a.txt", "labels/b.txt"):
        refused(*words, "--json", path, says=[f"--json {path}: is --data already"])
    refused(*words, "--json", "hook.py", says=["--json hook.py: is --decode already"])
    for labels, path in (("boxes.json", "boxes.json"), ("labels", "labels/b.txt")):
        refused(*words, "--labels", labels, "--json", path, says=[f"--json {path}: is --"])


def test_two_outputs_are_two_files(house, refused):
    (house / "link").symlink_to("q")
    quantize = ["quantize", "m.onnx", "--calibration", "m.calib", "-o", "q"]
    for path in ("q", "./q", "link", "Q"):
        refused(*quantize, "--json", path, says=[f"--json {path}: is --output already; name another file"])
    refused(*CALIBRATE, "good.npz", "-o", "q", "--json", "q.checkpoint", says=["q.checkpoint: is --json already"])
    for option in ("-o", "--save-plan"):
        refused(*quantize[:-2], option, "-", says=["-: cannot be printed; name a file"])


def full(*_, **__):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("place", ["qtool.cli.outputs.write_text", "qtool.cli.outputs.print_document"])
def test_an_output_that_cannot_be_written_leaves_all_as_it_was(house, refused, monkeypatch, place):
    """Its checkpoint too."""
    (house / "q").write_bytes(b"old")
    path = "-" if "print" in place else "j"
    monkeypatch.setattr(place, full)
    for words in (["quantize", "m.onnx", "--calibration", "m.calib"], [*CALIBRATE, "good.npz"], ["merge", "m.calib"]):
        refused(*words, "-o", "q", "--json", path, says=["No space left on device; nothing was written"])
    with pytest.raises(KeyboardInterrupt):
        _stopped_calibration(house)
    refused(*CALIBRATE, "good.npz", "-o", "q", "--json", path, says=["No space left on device"])
    assert (house / "q.checkpoint").exists()


def _stopped_calibration(house):
    import qtool

    def stop(step, done, total):  # noqa: ARG001
        if done > 2:
            raise KeyboardInterrupt

    qtool.calibrate("m.onnx", "good.npz", house / "q", checkpoint=0, progress=stop)


def test_a_tuned_model_is_taken_back_where_the_command_fails(house, refused, monkeypatch):
    (house / "q").write_bytes(b"old")

    def failing(*_, **__):
        Path("q").unlink()
        Path("q").write_bytes(b"the best so far")
        raise DataError("x: is bad; mend it")

    monkeypatch.setattr("qtool.cli.tune.tune", failing)
    refused("tune", "m.onnx", "--data", "good.npz", "-o", "q", says=["x: is bad"])


def test_what_is_there_is_said_where_a_command_is_stopped_after_its_end(house, monkeypatch, capsys):
    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("qtool.cli.merge.show", stop)
    with pytest.raises(SystemExit) as caught:
        main(["merge", "m.calib", "-o", "new", "--json", "j"])
    assert (caught.value.code, capsys.readouterr().err) == (130, "\nqtool: interrupted; j and new are written\n")
    assert json.loads((house / "j").read_text())["schema"] == "qtool.merge"


class Failing(io.StringIO):
    """A stream that takes nothing."""

    def __init__(self, code):
        super().__init__()
        self.code = code

    def write(self, _):
        raise OSError(self.code, os.strerror(self.code))

    def fileno(self):
        return os.open(os.devnull, os.O_WRONLY)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("words", "number", "code", "said"),
    [
        # what is written is there: its summary is not needed
        (["merge", "m.calib", "-o", "new"], 28, 0, "what it should show is lost; new is written"),
        (["merge", "m.calib", "-o", "new"], 32, 0, None),
        (["merge", "m.calib", "-o", "new", "--json", "-"], 28, 2, "give it a file or pipe that takes it"),
        (["merge", "m.calib", "-o", "new", "--json", "-"], 32, 0, None),
        (["--version"], 28, 2, "give it a file or pipe that takes it"),
        (["--version"], 32, 0, None),
        (["merge", "--help"], 28, 2, "give it a file or pipe that takes it"),
    ],
)
def test_standard_output_that_takes_nothing(monkeypatch, capsys, words, number, code, said):
    monkeypatch.setattr(sys, "stdout", Failing(number))
    monkeypatch.setattr("qtool.cli.streams._point_to_nothing", lambda _: None)
    with pytest.raises(SystemExit) as caught:
        main(words)
    err = capsys.readouterr().err
    assert caught.value.code == code
    assert err == (
        "" if said is None else f"qtool: standard output: cannot be written ({os.strerror(number)}); {said}\n"
    )
    assert Path("new").exists() == (code == 0 and "new" in words)


def shell(folder, line):
    """Runs a line of the shell, in which $Q is qtool: exit code, stdout and stderr."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "Q": f"{sys.executable} -m qtool"}
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize(
    ("line", "code", "err"),
    [
        ("$Q --version >&-", 0, ""),
        ("$Q --nonsense >&- 2>&-", 2, ""),
        ("$Q >/dev/full 2>/dev/full", 2, ""),
        ("$Q --version >/dev/full", 2, "standard output: cannot be written (No space left on device)"),
        ("set -o pipefail; $Q --help | head -c 0", 0, ""),
    ],
)
def test_streams_of_a_process(tmp_path, line, code, err):
    ended = shell(tmp_path, line)
    assert (
        ended[0] == code and ended[2].startswith(f"qtool: {err}" if err else "") and ended[2].count("\n") == bool(err)
    )


def test_a_document_is_alone_on_standard_output(folder):
    """Whatever a function prints, by whatever way and whenever; warnings are not shown at all."""
    (folder / "noisy.py").write_text(
        "import atexit, logging, os, subprocess, warnings\nimport numpy\n\nprint('import')\n\n\ndef f():\n"
        "    print('hook')\n    os.write(1, b'number\\n')\n    subprocess.run(['echo', 'child'])\n"
        "    warnings.warn('a warning')\n    logging.getLogger('x').warning('a log line')\n"
        "    atexit.register(print, 'late')\n"
        "    yield {'x': numpy.ones((1, 3, 8, 8), 'f')}\n    yield {'x': -numpy.ones((1, 3, 8, 8), 'f')}\n"
    )
    code, out, err = shell(folder, "$Q calibrate m.onnx --data noisy.py:f -o c --json -")
    assert (code, json.loads(out)["samples"]) == (0, 2)
    assert sorted(err.split()) == sorted(["import", "hook", "number", "child", "late"])


def test_a_document_says_what_was_asked_and_digests_what_was_read(house):
    """The digest is that of sha256sum, or of the files one after another."""
    words = ["calibrate", "e.onnx", "--data", "arrays", "--config", "c.toml", "-o", "e.calib", "--json", "j.json", "-q"]
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 0
    document = json.loads((house / "j.json").read_text())
    assert schema_faults(document) == []
    call = document["call"]
    assert call["command"] == "calibrate"
    assert call["options"].items() >= {"MODEL": ["e.onnx"], "--samples": ["2"], "--output": ["e.calib"]}.items()
    read = {one["option"]: one for one in call["read"]}
    assert set(read) == {"MODEL", "--data", "--config"}
    for option, files in {"MODEL": "e.onnx e.data", "--data": "arrays/0.npy arrays/1.npy arrays/labels.csv"}.items():
        content = b"".join(Path(file).read_bytes() for file in files.split())
        assert read[option]["sha256"] == hashlib.sha256(content).hexdigest(), option
        assert read[option]["bytes"] == len(content)
    assert read["MODEL"]["sha256"] == document["model_sha256"] and read["--data"]["path"] == "arrays"
