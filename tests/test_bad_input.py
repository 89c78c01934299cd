"""Bad input: one line that names the culprit and the remedy, exit 2, nothing written. Ctrl-C leaves nothing behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qtool.cli import main
from tests.patterns import Net

REPOSITORY = Path(__file__).resolve().parents[1]
SAMPLES = np.random.default_rng(2).normal(size=(12, 3, 8, 8)).astype(np.float32)


def network(path, tail=None, *, weights=1.0):
    """Conv, Relu, Conv, then what `tail` adds; its input is called x."""
    net = Net(3, 8, 8)
    hidden = net("Relu", net.conv("x", 3, 8, name="first"))
    last = net.conv(hidden, 8, 4, name="last")
    net.constants = {name: array * weights for name, array in net.constants.items()}
    return net.save(path, last if tail is None else tail(net, last))


def classifier(path):
    """[N, 3, 8, 8] -> [N, 5]."""
    net = Net(3, 8, 8)
    flat = net("Flatten", net("GlobalAveragePool", net("Relu", net.conv("x", 3, 8))))
    return net.save(path, net.gemm(flat, 8, 5))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """m.onnx, good.npz, and m.calib made of them, in the current folder."""
    monkeypatch.chdir(tmp_path)
    network(tmp_path / "m.onnx")
    np.savez(tmp_path / "good.npz", x=SAMPLES)
    with pytest.raises(SystemExit) as caught:
        main(["calibrate", "m.onnx", "--data", "good.npz", "-q"])
    assert caught.value.code == 0
    return tmp_path


def contents(folder):
    """Every path below `folder` with its bytes: what must not change."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def refused(folder, capsys):
    """Runs `qtool ...` and returns the one line that it says; everything else about it is asserted here."""

    def call(*arguments, says):
        before = contents(folder)
        with pytest.raises(SystemExit) as caught:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert (caught.value.code, out) == (2, ""), err
        assert err.startswith("qtool: "), err
        assert err.endswith("\n"), err
        assert err.count("\n") == 1, err
        assert "Traceback" not in err
        for word in says:
            assert word in err, (word, err)
        assert contents(folder) == before
        return err

    return call


@pytest.fixture
def no_model(refused):
    """Both commands refuse the model `name` for the same reason."""

    def call(name, *says):
        first = refused("calibrate", name, "--data", "good.npz", "-o", "c", says=[name, *says])
        second = refused("quantize", name, "--calibration", "m.calib", "-o", "q", says=[name, *says])
        assert first == second

    return call


# -- models -------------------------------------------------------------------------------------------------------


def test_not_a_model(folder, no_model):
    (folder / "text.onnx").write_text("This is a text, and not a model.\n" * 20)
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "numbers.onnx").write_bytes(bytes(range(256)) * 64)
    (folder / "d").mkdir()
    for name in ("text.onnx", "empty.onnx", "numbers.onnx"):
        no_model(name, "not an ONNX model", "again")
    no_model("good.npz", "not an ONNX model")
    no_model("d", "give the path of an ONNX model")
    no_model("absent.onnx", "no such file", "give the path of an ONNX model")


def test_a_truncated_model(folder, no_model):
    whole = (folder / "m.onnx").read_bytes()
    for share in (0.999, 0.5, 0.1):
        (folder / "t.onnx").write_bytes(whole[: int(len(whole) * share)])
        no_model("t.onnx", "again")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_model(folder, no_model):
    (folder / "m.onnx").chmod(0)
    no_model("m.onnx", "permission")


def test_a_model_already_quantised(folder, no_model, capsys):
    with pytest.raises(SystemExit):
        main(["quantize", "m.onnx", "--calibration", "m.calib", "-o", "q.onnx", "-q"])
    assert capsys.readouterr().err == ""
    shutil.move("q.onnx", "done.onnx")
    no_model("done.onnx", "already quantised", "QuantizeLinear", "give the float model")
    assert folder


def test_nothing_to_quantise(folder, refused):
    net = Net(3, 8, 8)
    net.save(folder / "relu.onnx", net("Relu", "x"))
    refused(
        "calibrate", "relu.onnx", "--data", "good.npz", says=["relu.onnx", "nothing to quantise", "use it as it is"]
    )
    # a layer whose weights are inputs is named
    weights = helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 3, 3])
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="c")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8]), weights],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, 6, 6])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "w.onnx")
    refused("calibrate", "w.onnx", "--data", "good.npz", says=["Conv: its weight is computed"])
    excluded = ("--exclude", "first", "--exclude", "last")
    refused(
        "quantize", "m.onnx", "--calibration", "m.calib", *excluded, says=["m.onnx", "nothing to quantise", "excluded"]
    )


def external(path, location, *, length=None):
    """m.onnx with its weights at `location`, whatever lies there."""
    model = onnx.load("m.onnx")
    onnx.external_data_helper.convert_model_to_external_data(model, location="w.bin", size_threshold=0)
    path.write_bytes(b"")
    onnx.save(model, path)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
            if entry.key == "length" and length is not None:
                entry.value = length
    path.write_bytes(model.SerializeToString())


def test_external_data(folder, no_model):
    external(folder / "e.onnx", "w.bin")
    # it works where the data is
    with pytest.raises(SystemExit) as caught:
        main(["quantize", "e.onnx", "--data", "good.npz", "-o", "e.int8.onnx", "-q"])
    assert caught.value.code == 0
    whole = (folder / "w.bin").read_bytes()
    (folder / "w.bin").write_bytes(whole[: len(whole) // 2])
    no_model("e.onnx", "w.bin is truncated", "again")
    (folder / "w.bin").unlink()
    no_model("e.onnx", "w.bin", "is missing", "put it there")
    (folder / "w.bin").mkdir()
    no_model("e.onnx", "w.bin")


def test_external_data_is_not_read_from_elsewhere(folder, no_model, tmp_path_factory):
    """The file exists, and would do: it is refused all the same."""
    outside = tmp_path_factory.mktemp("outside")
    external(folder / "e.onnx", "w.bin")
    shutil.move(folder / "w.bin", outside / "w.bin")
    relative = os.path.relpath(outside / "w.bin", folder)
    for location in (relative, str(outside / "w.bin")):
        external(folder / "e.onnx", location)
        (folder / "w.bin").unlink()
        no_model("e.onnx", "outside the model's folder", "refused")
    external(folder / "e.onnx", "link.bin")
    (folder / "w.bin").unlink()
    (folder / "link.bin").symlink_to(outside / "w.bin")
    no_model("e.onnx", "outside the model's folder", "refused")


@pytest.mark.parametrize("length", ["-8", "many", "4", "5", str(2**62)])
def test_external_data_of_impossible_length(folder, no_model, length):
    external(folder / "e.onnx", "w.bin", length=length)
    no_model("e.onnx")


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("size", [0, 4, 10, -6, -1])
def test_a_weight_with_too_few_or_many_bytes(folder, no_model, index, size):
    model = onnx.load("m.onnx")
    tensor = model.graph.initializer[index]
    tensor.raw_data = (tensor.raw_data + b"1234567890")[:size]
    onnx.save(model, folder / "t.onnx")
    no_model("t.onnx", tensor.name, "export it again")


def test_sparse_initializers_and_training_info(folder, no_model):
    model = onnx.load("m.onnx")
    values = numpy_helper.from_array(np.ones(1, np.float32), "sparse")
    places = numpy_helper.from_array(np.zeros(1, np.int64), "places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [3]))
    onnx.save(model, folder / "s.onnx")
    no_model("s.onnx", "sparse initializer 'sparse'", "export it dense")
    model = onnx.load("m.onnx")
    model.training_info.add().initialization.name = "i"
    onnx.save(model, folder / "t.onnx")
    no_model("t.onnx", "training info", "export the model for inference")


def test_weights_that_are_not_finite(folder, refused):
    for value in (np.nan, np.inf):
        model = onnx.load("m.onnx")
        weight = model.graph.initializer[0]
        array = numpy_helper.to_array(weight).copy()
        array.flat[5] = value
        weight.CopyFrom(numpy_helper.from_array(array, weight.name))
        onnx.save(model, folder / "n.onnx")
        refused("quantize", "n.onnx", "--data", "good.npz", says=["NaN or Inf", repr(weight.name), "repair the model"])


def test_a_model_that_onnxruntime_cannot_run(folder, refused):
    net = Net(3, 8, 8)
    made = net.conv("x", 3, 4)
    graph = net.model(made).graph
    graph.node.append(helper.make_node("Frobnicate", [made], ["y"], name="odd", domain="com.example"))
    graph.output[0].name = "y"
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / "odd.onnx")
    refused(
        "calibrate", "odd.onnx", "--data", "good.npz", says=["odd.onnx", "onnxruntime cannot load it", "Frobnicate"]
    )


# -- data ---------------------------------------------------------------------------------------------------------


def spoiled(value):
    data = SAMPLES.copy()
    data[7, 1, 2, 3] = value
    return data


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"y": SAMPLES, "z": SAMPLES}, ["'y', 'z'", "rename the right one to 'x'"]),
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
        ("Log", lambda net, h: net.conv(net("Log", h, name="culprit"), 4, 4)),
        ("Conv", lambda net, h: net("Conv", h, net.const(np.full((4, 4, 3, 3), 1e38)), name="culprit")),
    ],
)
@pytest.mark.parametrize("threads", ["1", "2"])
def test_nan_or_inf_born_in_a_layer(folder, refused, operator, tail, threads):
    network(folder / "n.onnx", tail, weights=3.0)
    says = ["good.npz, sample 0", "NaN or Inf", "'culprit'", operator, "repair the model"]
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
    rewritten("m.calib", "v.calib", lambda h: h.update(qtool_calibration=99))
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


# -- interrupts ---------------------------------------------------------------------------------------------------


# a new line first: on a terminal the last one begins with ^C
INTERRUPTED = "\nqtool: interrupted; nothing was written\n"


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("place", "command"),
    [
        ("qtool.runtime.session.Session.run_list", "calibrate"),
        ("qtool.runtime.session.Session.run_list", "quantize"),
        ("pathlib.Path.replace", "calibrate"),
        ("pathlib.Path.replace", "quantize"),
        ("pathlib.Path.chmod", "quantize"),
        ("pathlib.Path.write_bytes", "quantize"),
        ("zipfile.ZipFile.writestr", "calibrate"),
        ("qtool.core.plan.Plan.save", "quantize"),
    ],
)
def test_an_interrupt_leaves_nothing(folder, monkeypatch, capsys, place, command):
    arguments = {
        "calibrate": ["calibrate", "m.onnx", "--data", "good.npz", "-o", "new.calib"],
        "quantize": ["quantize", "m.onnx", "--calibration", "m.calib", "-o", "new.onnx", "--save-plan", "p.json"],
    }[command]
    before = contents(folder)
    with monkeypatch.context() as patch:
        patch.setattr(place, interrupt)
        with pytest.raises(SystemExit) as caught:
            main(arguments)
    assert caught.value.code == 130
    assert capsys.readouterr().err == INTERRUPTED
    assert contents(folder) == before


@pytest.mark.parametrize("command", ["calibrate", "quantize"])
@pytest.mark.parametrize("threads", ["1", "2"])
def test_ctrl_c(folder, command, threads):
    """A real SIGINT to a process that waits for its data."""
    (folder / "slow.py").write_text(
        "import pathlib, time\nimport numpy\n\n\ndef feed():\n    while True:\n"
        "        yield {'x': numpy.ones((1, 3, 8, 8), 'float32')}\n"
        "        pathlib.Path('feeding').touch()\n        time.sleep(0.05)\n"
    )
    before = contents(folder)
    process = subprocess.Popen(
        [sys.executable, "-m", "qtool", command, "m.onnx", "--data", "slow.py:feed", "-o", "new", "--threads", threads],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    try:
        while not (folder / "feeding").exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, err) == (130, INTERRUPTED)
    (folder / "feeding").unlink()
    assert contents(folder) == before
