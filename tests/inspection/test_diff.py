"""What two files differ in: nothing of a file and itself; else what was changed, and no more."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qtool
from qtool.cli import main
from qtool.core.errors import ModelError, UsageError
from qtool.core.records.plan import load_plan
from qtool.inspection.diff_plans import diff_plans
from qtool.report.diff import diff_text
from tests.inspection import written
from tests.support.patterns import Net


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A float network of three layers, two calibrations, two plans and their models; the second leaves one in float."""
    folder = tmp_path_factory.mktemp("diff")
    net = Net(3, 8, 8)
    x = net("Relu", net.conv("x", 3, 16), name="first")
    y = net("Relu", net.conv(x, 16, 16), name="second")
    path = net.save(folder / "m.onnx", net.conv(y, 16, 16))
    samples = net.samples(12)
    data = {"x": samples["x"] * np.linspace(0.5, 2.0, len(samples["x"]), dtype=np.float32)[:, None, None, None]}
    np.savez(folder / "d.npz", **data)
    qtool.calibrate(path, data, folder / "a.calib")
    qtool.calibrate(path, {"x": data["x"][:4]}, folder / "b.calib")
    layer = load_made(path, folder, "a", "a.calib", ())
    load_made(path, folder, "b", "a.calib", (layer,))
    return folder, layer


def load_made(path, folder, name, calib, exclude):
    result = qtool.quantize(
        path, folder / f"{name}.onnx", calibration=folder / calib, calibrator="max", bias_correction="off",
        optimize_for="size", smoothing="off", save_plan=folder / f"{name}.json", exclude=exclude,
    )  # fmt: skip
    return result.plan.layers[1]


@pytest.mark.parametrize("name", ["a.onnx", "a.calib", "a.json"])
def test_a_file_is_the_same_as_itself(made, name):
    folder, _ = made
    result = qtool.diff(folder / name, folder / name)
    assert result.same
    assert (result.layers, result.ranges, result.weights, result.facts) == ((), (), (), ())
    assert "the same" in diff_text(result)


def test_models_differ_in_the_layer_that_is_left_in_float(made):
    folder, layer = made
    result = qtool.diff(folder / "a.onnx", folder / "b.onnx", data=folder / "d.npz")
    assert not result.same
    assert [(row.name, row.a, row.b) for row in result.layers] == [(layer, "QLinearConv", "Conv in float")]
    assert result.alike == 2
    assert result.kernels["QLinearConv"] == (3, 2)
    # a grid that is not needed any more is one of the first alone, and none moved
    assert {row.what for row in result.ranges} <= {"in 8 bits in A alone", "in 8 bits in B alone"}
    assert result.weights == ()
    (db,) = result.outputs.values()
    assert 20.0 < db < 60.0
    assert result.speed is None
    assert result.inputs_from.startswith("8 samples of ")


def test_models_are_timed_side_by_side(made):
    folder, _ = made
    result = qtool.diff(folder / "a.onnx", folder / "a.onnx", latency=True)
    assert result.same
    assert result.speed is not None and result.speed.float_ms is not None
    assert list(result.outputs.values()) == [float("inf")]
    assert "as fast" in diff_text(result)
    written = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert written["outputs"]["Conv_4_out"] is None and written["not_finite"]["/outputs/Conv_4_out"] == "inf"


def test_calibrations_differ_by_steps_and_by_how_their_values_are_spread(made):
    folder, _ = made
    result = qtool.diff(folder / "a.calib", folder / "b.calib")
    assert result.facts == ("samples: 12 and 4",)
    whole, part = (qtool.load_statistics(folder / f"{name}.calib").tensors["x"] for name in "ab")
    row = next(row for row in result.ranges if row.tensor == "x")
    assert row.a == (whole.minimum, whole.maximum) and row.b == (part.minimum, part.maximum)
    step = (whole.maximum - whole.minimum) / 255
    ends = max(abs(whole.minimum - part.minimum), abs(whole.maximum - part.maximum))
    assert row.steps == pytest.approx(ends / step, rel=1e-5)
    shares = whole.counts / whole.count, part.counts / part.count
    assert row.moved == pytest.approx(np.maximum(shares[0] - shares[1], 0.0).sum())
    assert [one.steps for one in result.ranges] == sorted((one.steps for one in result.ranges), reverse=True)
    by_percentile = qtool.diff(folder / "a.calib", folder / "b.calib", calibrator="percentile:99")
    assert next(one for one in by_percentile.ranges if one.tensor == "x").a != row.a


def test_plans_differ_in_what_was_changed_and_no_more(made):
    folder, layer = made
    plan = load_plan(folder / "a.json")
    first = plan.activations[0]
    params = replace(first.params, scale=(2.0 * first.params.scale[0],))
    other = replace(plan, activations=(replace(first, params=params), *plan.activations[1:]), target="portable")
    result = diff_plans(plan, other, ("a", "b"))
    assert result.facts == (f"target: {plan.target} and portable",)
    assert [row.tensor for row in result.ranges] == [first.tensor]
    # the longer end moves by its own length, in steps twice as long
    zero = first.params.zero_point[0]
    assert result.ranges[0].steps == pytest.approx(max(zero, 255 - zero) / 2.0)
    weight = plan.weights[0]
    shape = weight.params.scale
    twice = replace(weight, params=replace(weight.params, scale=(*shape[:-1], 3.0 * shape[-1])))
    (row,) = diff_plans(plan, replace(plan, weights=(twice, *plan.weights[1:])), ("a", "b")).weights
    assert row.scales == pytest.approx(3.0) and row.changed is None
    left = qtool.diff(folder / "a.json", folder / "b.json")
    assert [(one.name, one.a) for one in left.layers] == [(layer, "integer")]


@pytest.mark.parametrize(
    ("files", "options", "said"),
    [
        (("a.onnx", "a.calib"), {}, "give two of one kind"),
        (("a.calib", "b.calib"), {"latency": True}, "says nothing to calibration files"),
        (("a.json", "b.json"), {"data": "d.npz"}, "says nothing to plans"),
        (("a.onnx", "b.onnx"), {"calibrator": "mse"}, "is for calibration files"),
        (("a.onnx", "b.onnx"), {"trim": "mask"}, "says how data is read"),
    ],
)
def test_options_that_say_nothing_are_refused(made, files, options, said):
    folder, _ = made
    with pytest.raises(UsageError, match=said):
        qtool.diff(*(folder / name for name in files), **options)


def run(*words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code


def test_the_exit_code_says_whether_they_differ(made, capsys):
    folder, layer = made
    assert run("diff", folder / "a.onnx", folder / "a.onnx") == 0
    assert run("diff", folder / "a.onnx", folder / "b.onnx") == 1
    assert layer in capsys.readouterr().out
    assert run("diff", folder / "a.calib", folder / "b.calib", "--json", "-") == 1
    assert json.loads(capsys.readouterr().out)["compared"] == "calibration files"
    assert run("diff", folder / "a.onnx", folder / "none.onnx") == 2
    assert run("diff", folder / "a.calib", folder / "b.calib", "--json", folder / "a.calib") == 2


def test_inspect_takes_calibration_files(made, capsys):
    folder, _ = made
    assert run("inspect", folder / "a.calib", "-v") == 0
    assert "ranges by calibrator" in capsys.readouterr().out
    assert run("inspect", folder / "a.calib", "--latency") == 2
    assert "--latency: says nothing to a calibration file" in capsys.readouterr().err


def test_float_models_differ_in_their_weights(tmp_path):
    net = Net(3, 8, 8)
    weight = net.weight(4, 3, 3, 3, inputs=27)
    path = net.save(tmp_path / "a.onnx", net("Conv", "x", weight))
    other = onnx.load(path)
    array = numpy_helper.to_array(other.graph.initializer[0]).copy()
    array[0] += 1.0
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, other.graph.initializer[0].name))
    onnx.save(other, tmp_path / "b.onnx")
    result = qtool.diff(path, tmp_path / "b.onnx")
    assert not result.same and not result.layers
    assert [(row.changed, row.most) for row in result.weights] == [(0.25, None)]


def test_the_model_that_onnxruntime_does_not_load_is_named(made, tmp_path):
    io = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Odd", ["x"], ["y"], domain="own")], "g", io[:1], io[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "own.onnx")
    with pytest.raises(ModelError, match=r"own\.onnx: onnxruntime cannot load it"):
        qtool.diff(made[0] / "a.onnx", tmp_path / "own.onnx")


def test_a_file_that_does_not_exist_is_of_no_kind(made):
    folder, _ = made
    with pytest.raises(UsageError, match=r"nosuch\.json: does not exist; give a file that does"):
        qtool.diff(folder / "nosuch.json", folder / "a.json")


def test_integers_of_two_types_differ_by_where_they_lie_and_not_by_how_they_are_written(tmp_path):
    """int8 about 0 and uint8 about 128 are the same weights."""
    paths = []
    for dtype, zero in (("int8", 0), ("uint8", 128)):
        net = written.Net()
        stored = np.arange(-72, 72).reshape(4, 4, 3, 3)
        stored[0, 0, 0, 0] += 3 * (dtype == "uint8")
        weight = net.constant((stored + zero).astype(dtype))
        read = net.add("DequantizeLinear", weight, *net.grid(0.01, zero, dtype))
        made = net.fake(net.add("Conv", net.fake("x"), read, pads=[1, 1, 1, 1], name="layer"))
        paths.append(net.write(tmp_path / f"{dtype}.onnx", made))
    (row,) = qtool.diff(*paths).weights
    assert (row.changed, row.most, row.scales) == (1 / 144, 3, 1.0)
