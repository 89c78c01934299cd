"""Data, outputs and calibration files that cannot be used: one line with the remedy, exit 2, nothing written."""

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.support.refusals import SAMPLES, classifier, network


def spoiled(value):
    data = SAMPLES.copy()
    data[7, 1, 2, 3] = value
    return data


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"a": SAMPLES, "b": SAMPLES}, ["'a', 'b'", "rename the right one to 'x'"]),
        ({"labels": np.arange(12)}, ["no array for the model's input 'x'", "name the arrays after the inputs"]),
        ({"x": SAMPLES[:, :2]}, ["[12, 2, 8, 8]", "[N, 3, 8, 8]", "give arrays of that shape"]),
        ({"x": SAMPLES[0, 0]}, ["[8, 8]", "[N, 3, 8, 8]"]),
        ({"x": SAMPLES > 0}, ["bool", "'x' takes float32", "convert it"]),
        ({"x": (SAMPLES > 0).astype(np.uint8)}, ["uint8", "'x' takes float32", "--preprocess"]),
        ({"x": SAMPLES.astype(np.complex64)}, ["complex64", "'x' takes float32"]),
        ({"x": SAMPLES[:0]}, ["holds no samples", "give at least one"]),
        ({"x": spoiled(np.nan)}, ["sample 7", "'x' holds NaN"]),
        ({"x": spoiled(np.inf)}, ["sample 7", "'x' holds Inf"]),
        ({"x": spoiled(1.0).astype(np.float64) * 1e300}, ["float32 cannot hold"]),
        ({}, ["d.npz"]),
    ],
)
def test_data_that_does_not_fit(folder, refused, arrays, says):
    np.savez(folder / "d.npz", **arrays)
    first = refused("calibrate", "m.onnx", "--data", "d.npz", "-o", "c", says=["d.npz", *says])
    assert refused("quantize", "m.onnx", "--data", "d.npz", "-o", "q", says=["d.npz", *says]) == first
    assert refused("eval", "m.onnx", "m.onnx", "--data", "d.npz", says=["d.npz", *says]) == first


def test_data_that_is_none(folder, refused):
    (folder / "t.npz").write_text("text")
    (folder / "cut.npz").write_bytes((folder / "good.npz").read_bytes()[:2000])
    (folder / "empty").mkdir()
    np.savez("object.npz", x=np.array([{}, None], dtype=object))
    for data, says in (
        ("absent.npz", "does not exist"),
        ("t.npz", "t.npz"),
        ("cut.npz", "cut.npz"),
        ("empty", "holds no data"),
        ("object.npz", "object.npz"),
        ("nowhere:f", "nowhere"),
        ("os:nothing", "nothing"),
    ):
        for command in (["calibrate", "m.onnx"], ["quantize", "m.onnx"], ["eval", "m.onnx", "m.onnx"]):
            refused(*command, "--data", data, says=[says])


def test_a_function_that_fails_midway(folder, refused):
    (folder / "feed.py").write_text(
        "import numpy\n\n\ndef f():\n"
        "    yield {'x': numpy.zeros((1, 3, 8, 8), 'float32')}\n    raise OSError('disk gone')\n"
    )
    refused("calibrate", "m.onnx", "--data", "feed.py:f", says=["feed.py:f", "OSError", "disk gone", "line 6"])


def test_labels_missing_for_top1(folder, refused):
    classifier(folder / "k.onnx")
    says = ["--metric top1", "has no labels", "add an array 'labels'"]
    refused("eval", "k.onnx", "k.onnx", "--data", "good.npz", "--metric", "top1", says=says)


@pytest.mark.parametrize(
    ("operator", "tail"),
    [
        ("Log", lambda net, h: net("Log", h, name="culprit")),
        ("Sqrt", lambda net, h: net("Sqrt", h, name="culprit")),
        ("Div", lambda net, h: net("Div", h, net("Relu", net("Neg", net("Abs", h))), name="culprit")),
        ("Exp", lambda net, h: net("Exp", net("Mul", h, net.const(1e4)), name="culprit")),
        ("Where", lambda net, h: net("Where", net("Less", h, h), h, net("Neg", net("Log", h, name="culprit")))),
        ("Conv", lambda net, h: net("Conv", h, net.const(np.full((4, 4, 3, 3), 1e38)), name="culprit")),
    ],
)
@pytest.mark.parametrize("threads", ["1", "2"])
def test_nan_or_inf_born_in_a_layer(folder, refused, operator, tail, threads):
    network(folder / "n.onnx", lambda net, h: net.conv(tail(net, h), 4, 4), weights=3.0)
    says = ["good.npz, sample 0", "NaN or Inf", "'culprit'", "Log" if operator == "Where" else operator]
    refused("calibrate", "n.onnx", "--data", "good.npz", "--threads", threads, says=says)


# -- outputs ------------------------------------------------------------------------------------------------------


def test_outputs_that_cannot_be_written(folder, refused):
    (folder / "d").mkdir()
    commands = {
        "calibrate": ["m.onnx", "--data", "good.npz"],
        "quantize": ["m.onnx", "--calibration", "m.calib"],
        "eval": ["m.onnx", "m.onnx", "--data", "good.npz"],
    }
    outputs = {"calibrate": ["-o", "--json"], "quantize": ["-o", "--json", "--save-plan"]}
    for command, arguments in commands.items():
        for option in outputs.get(command, ["--json", "--junit", "--markdown"]):
            refused(command, *arguments, option, "no/such/file", says=["no/such/file", "does not exist", "create it"])
            refused(command, *arguments, option, "d", says=["d: is a folder", "name a file"])
            refused(command, *arguments, option, "m.onnx", says=["m.onnx", "is ", "name another file"])
            refused(command, *arguments, option, "./d/../m.onnx", says=["m.onnx", "name another file"])
    refused("calibrate", "m.onnx", "--data", "good.npz", "-o", "good.npz", says=["good.npz", "--data"])
    refused("quantize", "m.onnx", "--calibration", "m.calib", "-o", "m.calib", says=["m.calib", "--calibration"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(folder, refused):
    (folder / "d").mkdir(mode=0o555)
    refused("calibrate", "m.onnx", "--data", "good.npz", "-o", "d/c", says=["d/c", "not writable", "another"])


def test_a_full_disk_leaves_the_old_file(folder, refused, monkeypatch):
    (folder / "q.onnx").write_bytes(b"old")
    for method in ("write_bytes", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, _full)
            refused("quantize", "m.onnx", "--calibration", "m.calib", "-o", "q.onnx", says=["q.onnx", "No space left"])
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", _full)
        arguments = ("--calibration", "m.calib", "-o", "q.onnx", "--save-plan", "p.json")
        refused("quantize", "m.onnx", *arguments, says=["p.json", "No space left"])


def test_no_room_for_temporary_files(refused, monkeypatch):
    monkeypatch.setattr("tempfile.mkdtemp", _full)
    says = [tempfile.gettempdir(), "No space left on device", "set TMPDIR"]
    refused("quantize", "m.onnx", "--calibration", "m.calib", says=says)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("pipe", "is a device or pipe; name a file"),
        ("/dev/null", "is in /dev, where streams and devices are; name a file"),
        ("/dev/stdout", "is in /dev, where streams and devices are; name a file"),
        ("/proc/self/fd/1", "is in /proc, where streams and devices are; name a file"),
        ("link", "leads to /dev/stdout, which is in /dev"),
        ("to/link", "leads to /dev/stdout, which is in /dev"),
        ("fds/1", "leads to /dev/fd, which is in /dev"),
        ("../" * 40 + "dev/stdout", "leads to /dev/stdout, which is in /dev"),
    ],
)
def test_a_device_is_not_replaced_by_a_file(folder, refused, path, says):
    os.mkfifo(folder / "pipe")
    for name, lead in (("link", "/dev/stdout"), ("fds", "/dev/fd"), ("to", ".")):
        (folder / name).symlink_to(lead)
    refused("quantize", "m.onnx", "--calibration", "m.calib", "-o", path, says=[path, says])
    assert not Path("/dev/null").is_file()


def test_standard_output_that_is_a_file_is_not_replaced_by_name(folder):
    """`/dev/stdout` leads to that file then, which is a regular one."""
    words = [sys.executable, "-m", "qtool", "quantize", "m.onnx", "--calibration", "m.calib", "-o", "/dev/stdout"]
    with (folder / "out").open("wb") as stream:
        done = subprocess.run(words, stdout=stream, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n"), (folder / "out").read_bytes()) == (2, 1, b"")
    assert "/dev/stdout: is in /dev, where streams and devices are; name a file (- is standard output" in done.stderr


def test_a_link_to_a_file_is_written_through(folder, run):
    (folder / "real").mkdir()
    (folder / "link.onnx").symlink_to("real/q.onnx")
    assert run("quantize", "m.onnx", "--calibration", "m.calib", "-o", "link.onnx", "-q")[0] == 0
    assert (folder / "real" / "q.onnx").is_file() and (folder / "link.onnx").is_symlink()


def _full(*_, **__):
    raise OSError(28, "No space left on device")


# -- calibration files --------------------------------------------------------------------------------------------


def test_calibration_files(folder, refused):
    whole = (folder / "m.calib").read_bytes()
    (folder / "cut.calib").write_bytes(whole[: len(whole) // 2])
    (folder / "text.calib").write_text("no zip")
    (folder / "empty.calib").write_bytes(b"")
    (folder / "flipped.calib").write_bytes(bytes(b ^ 0x55 if i % 97 == 50 else b for i, b in enumerate(whole)))
    with zipfile.ZipFile(folder / "other.calib", "w") as archive:
        archive.writestr("a.txt", "hello")
    for name in ("cut", "text", "empty", "flipped", "other"):
        file = f"{name}.calib"
        refused("quantize", "m.onnx", "--calibration", file, says=[file, "not a calibration file", "calibrate again"])
    refused("quantize", "m.onnx", "--calibration", "good.npz", says=["good.npz", "not a calibration file"])
    refused("quantize", "m.onnx", "--calibration", "no.calib", says=["no.calib", "`qtool calibrate`"])


def rewritten(source, target, change):
    """A copy of a calibration file whose header went through `change`."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename == "header.json":
                header = json.loads(data)
                change(header)
                data = json.dumps(header).encode()
            new.writestr(info, data)


def test_calibration_of_another_version_or_model(folder, refused):
    rewritten("m.calib", "v.calib", lambda h: h.update(schema_version=99))
    refused("quantize", "m.onnx", "--calibration", "v.calib", says=["v.calib", "99", "calibrate again"])
    network(folder / "other.onnx", weights=1.5)
    says = ["m.calib", "another model than other.onnx", "calibrate this model"]
    refused("quantize", "other.onnx", "--calibration", "m.calib", says=says)


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h["tensors"].pop(),
        lambda h: h.update(tensors=[]),
        lambda h: h["tensors"][0].update(min=1e9),
        lambda h: h["tensors"][0].update(max="NaN"),
        lambda h: h.update(examples=[]),
        lambda h: h["examples"].append(["x"]),
        lambda h: h.update(examples=[["wrong"]]),
        lambda h: h.update(samples="many"),
        lambda h: h.pop("samples"),
    ],
)
def test_a_spoilt_calibration_file(folder, refused, change):
    rewritten("m.calib", "s.calib", change)
    refused("quantize", "m.onnx", "--calibration", "s.calib", says=["s.calib", "again"])
    assert folder


def test_an_unknown_layer_to_exclude(refused):
    says = ["m.onnx", "'frist'", "names"]
    refused("quantize", "m.onnx", "--calibration", "m.calib", "--exclude", "frist", says=says)
    refused("quantize", "m.onnx", "--calibration", "m.calib", "--exclude", "first", "--exclude", "*.9", says=["'*.9'"])
