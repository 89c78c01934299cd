"""Models that cannot be quantised: one line that names the culprit and the remedy, exit 2, nothing written."""

import math
import os
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qtool
from qtool.cli import main
from qtool.core.errors import QtoolError
from tests.support.patterns import Net
from tests.support.refusals import SAMPLES


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


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_model(folder, seed):
    """A few bytes changed, inserted or lost: it may still be a model; if not, the reason is said in one line."""
    whole = (folder / "m.onnx").read_bytes()
    before = sorted(folder.iterdir())
    rng = np.random.default_rng(seed)
    refusals = 0
    for _ in range(40):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 2):
            damaged[place : place + rng.integers(4)] = rng.bytes(rng.integers(4))
        (folder / "damaged.onnx").write_bytes(damaged)
        try:
            qtool.quantize("damaged.onnx", "q.onnx", data={"x": SAMPLES[:2]}, calibrator="max")
            (folder / "q.onnx").unlink()
        except QtoolError as error:
            refusals += 1
            assert "\n" not in str(error)
            assert len(str(error)) > 20
        (folder / "damaged.onnx").unlink()
        assert sorted(folder.iterdir()) == before
    assert refusals >= 10


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
        no_model("e.onnx", "outside the model's folder", "refused", "with its data beside it")


@pytest.mark.parametrize("place", ["link.bin", "sub/link.bin"])
def test_external_data_is_not_read_through_a_link_to_elsewhere(folder, no_model, tmp_path_factory, capsys, place):
    """Every command says so, be the model read by qtool or by onnxruntime; what is told helps."""
    outside = tmp_path_factory.mktemp("outside")
    external(folder / "e.onnx", place)
    shutil.move(folder / "w.bin", outside / "w.bin")
    link = folder / place
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside / "w.bin")
    no_model("e.onnx", place, f"is a link to {outside / 'w.bin'}, outside the model's folder", "in the link's place")
    with pytest.raises(SystemExit) as refused:
        main(["eval", "m.onnx", "e.onnx", "--data", "good.npz"])
    told = capsys.readouterr().err
    assert refused.value.code == 2 and told.count("\n") == 1
    assert f"is a link to {outside / 'w.bin'}, outside the model's folder" in told
    link.unlink()
    shutil.copy(outside / "w.bin", link)
    assert qtool.evaluate("m.onnx", ["e.onnx"], "good.npz").candidates[0].sqnr_db == math.inf
    qtool.quantize("e.onnx", "q.onnx", data="good.npz", calibrator="max")


def test_external_data_that_is_a_link_to_itself(folder, no_model):
    external(folder / "e.onnx", "link.bin")
    (folder / "link.bin").symlink_to("link.bin")
    no_model("e.onnx", "link.bin", "is missing")


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
