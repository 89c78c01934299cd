"""Models that onnxruntime's own quantiser writes: what is planned and executed, errors, speed, the command."""

import json
import logging
import re
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from qtool import inspect_model, quantize
from qtool.anatomy.opened import open_model
from qtool.cli import app
from qtool.core.errors import AlreadyQuantizedError
from qtool.core.records.inspection import REQUANTISE, TIME_IT
from qtool.core.records.results import Asked
from qtool.inspection.makers import maker_of
from qtool.report.inspect import inspection_text
from tests.inspection import written
from tests.support.patterns import Net

RNG = np.random.default_rng(1)
DATA = RNG.normal(size=(4, 3, 12, 12)).astype(np.float32)


def float_net(path):
    """Conv, Relu, Conv, Relu, GlobalAveragePool, Flatten, Gemm."""
    arrays = {
        "w1": RNG.normal(size=(8, 3, 3, 3)), "b1": RNG.normal(size=8), "w2": RNG.normal(size=(8, 8, 3, 3)) / 8,
        "b2": RNG.normal(size=8), "w3": RNG.normal(size=(8, 5)), "b3": RNG.normal(size=5),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="conv1"),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], name="conv2"),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], name="gemm"),
    ]
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Form -> path."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = [{"x": DATA[i : i + 1]} for i in range(len(DATA))]

        def get_next(self):
            return self.left.pop() if self.left else None

    logging.disable(logging.WARNING)
    folder = tmp_path_factory.mktemp("makers")
    source = float_net(folder / "float.onnx")
    made = {"float": source}
    uint8 = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    for form, options in {
        "qdq": {"quant_format": QuantFormat.QDQ, "per_channel": True, **uint8},
        "signed": {"activation_type": QuantType.QInt8, "extra_options": {"ActivationSymmetric": True}},
        "qoperator": {"quant_format": QuantFormat.QOperator, **uint8},
    }.items():
        made[form] = folder / f"{form}.onnx"
        quantize_static(source, made[form], Reader(), **options)
    made["dynamic"] = folder / "dynamic.onnx"
    quantize_dynamic(source, made["dynamic"])
    np.savez(folder / "data.npz", x=DATA)
    made["data"] = folder / "data.npz"
    logging.disable(logging.NOTSET)
    return made


MACS = [8 * 10 * 10 * 3 * 9, 8 * 8 * 8 * 8 * 9, 8 * 5]


@pytest.mark.parametrize(
    ("form", "said", "kernels"),
    [
        ("qdq", "QDQ", ["QLinearConv", "QLinearConv", "QGemm"]),
        ("qoperator", "QOperator", ["QLinearConv", "QLinearConv", "QGemm"]),
        ("dynamic", "dynamic", ["ConvInteger", "ConvInteger", "DynamicQuantizeMatMul"]),
    ],
)
def test_layers_as_planned_and_as_executed(models, form, said, kernels):
    found = inspect_model(models[form])
    assert (found.kind, found.form, found.maker) == ("int8", said, "onnxruntime.quantization")
    assert [layer.kernel for layer in found.layers] == kernels
    assert all(layer.planned and layer.integer for layer in found.layers)
    assert [layer.macs for layer in found.layers] == MACS
    assert [layer.share for layer in found.layers] == pytest.approx(np.array(MACS) / sum(MACS))
    assert found.verdict.startswith("3 of 3 layers, 100 % of multiply-accumulates in integers")


def test_grids_are_those_of_the_file(models):
    found = inspect_model(models["qdq"])
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(models["qdq"]).graph.initializer}
    first = found.layers[0]
    assert first.weight.scale == pytest.approx(stored["w1_scale"])
    assert (first.weight.dtype, first.weight.axis) == ("int8", 0)
    assert (first.input.dtype, first.input.axis) == ("uint8", None)
    assert first.input.scale == pytest.approx([float(stored["x_scale"])])
    assert first.input.zero_point == (int(stored["x_zero_point"]),)


@pytest.mark.parametrize("form", ["qdq", "qoperator", "dynamic"])
def test_the_error_of_each_layer_and_of_the_output(models, form):
    found = inspect_model(models[form], models["float"], {"x": DATA})
    exact, made = (ort.InferenceSession(str(models[name])).run(["y"], {"x": DATA[:1]})[0] for name in ("float", form))
    signal, noise = (exact**2).sum(), ((exact - made) ** 2).sum()
    one = inspect_model(models[form], models["float"], {"x": DATA[:1]})
    assert one.errors[-1].tensor == "y"
    assert one.errors[-1].sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=1.0)
    layers = found.layers
    assert all(15 < layer.sqnr_db < 60 for layer in layers)
    assert layers[0].alone_db == pytest.approx(layers[0].sqnr_db, abs=0.5), "nothing stands in front of it"
    assert layers[2].alone_db > layers[2].sqnr_db


def test_signed_symmetric_activations_are_the_cause_of_float_islands(models):
    found = inspect_model(models["signed"], models["float"], {"x": DATA}, latency=True)
    rules = {finding.rule for finding in found.findings}
    assert "relu-zero-point" in rules
    assert "QUInt8" in next(one.remedy for one in found.findings if one.rule == "relu-zero-point")
    assert "float island" in found.verdict
    assert found.speed.speedup == pytest.approx(found.speed.float_ms[0] / found.speed.ms[0])
    assert found.speed.ms[1] <= found.speed.ms[0] <= found.speed.ms[2]
    assert 0 < sum(node.ms for node in found.nodes) < 1000
    assert all(0 <= (one.ms_share or 0) <= 1 for one in found.findings)


def test_without_data_errors_are_not_measured(models):
    found = inspect_model(models["qdq"], models["float"])
    assert found.errors == ()
    assert all(layer.sqnr_db is None for layer in found.layers)
    assert any("errors" in text for text in found.not_measured)
    assert found.inputs_from == "made-up inputs"


def test_the_command_prints_the_verdict_and_writes_it(models, tmp_path):
    target = tmp_path / "found.json"
    words = ["inspect", str(models["signed"]), "--float", str(models["float"]), "--data", str(models["data"])]
    done = CliRunner().invoke(app, [*words, "--json", str(target)])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0].startswith(f"{models['signed']}: int8, QDQ, by onnxruntime.quantization; opset 13")
    assert "in integers" in lines[1] and lines[2].startswith("next: ")
    assert f"qtool quantize {models['float']} --data {models['data']} -o" in lines[2]
    written = json.loads(target.read_text(encoding="utf-8"))
    assert (written["schema"], written["verdict"]) == ("qtool.inspect", lines[1])
    assert [layer["kernel"] for layer in written["layers"]]


def test_a_bad_verdict_is_all_that_is_printed_where_only_that_is_wanted(models, tmp_path):
    """On standard error, with what comes next; of a good model nothing is."""
    other = onnx.load(models["float"])
    weight = next(one for one in other.graph.initializer if one.name == "w3")
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), "w3"))
    onnx.save(other, tmp_path / "other.onnx")
    words = ["--data", str(models["data"]), "-q"]
    done = CliRunner().invoke(app, ["inspect", str(models["qdq"]), "--float", str(tmp_path / "other.onnx"), *words])
    assert (done.exit_code, done.stdout) == (0, "")
    assert re.fullmatch(rf"{models['qdq']}: output SQNR .* dB: it COSTS ACCURACY; next: .*\n", done.stderr)
    good = CliRunner().invoke(app, ["inspect", str(models["qdq"]), "--float", str(models["float"]), *words])
    assert (good.exit_code, good.output) == (0, "")


@pytest.mark.parametrize("how", [{"data": {"x": DATA}, "calibrator": "max"}, {"form": "dynamic"}])
def test_a_model_of_qtool_is_known_and_not_to_be_made_again(models, tmp_path, how):
    quantize(models["float"], tmp_path / "own.onnx", **how)
    found = inspect_model(tmp_path / "own.onnx")
    assert found.maker == "qtool"
    assert REQUANTISE not in found.next
    assert inspection_text(found).splitlines()[2] == (
        "next: time it beside the float model, with the float model as --float and your samples as --data: "
        f"qtool inspect {tmp_path / 'own.onnx'} --latency"
    )


def test_names_in_a_report_do_nothing_to_a_terminal(models, tmp_path):
    model = onnx.load(models["qdq"])
    next(node for node in model.graph.node if node.op_type == "Conv").name = "conv\x1b[31m"
    path = tmp_path / "odd.onnx"
    onnx.save(model, str(path))
    assert "\x1b" not in inspection_text(inspect_model(path))


def test_quantize_refuses_it_and_names_inspect(models, tmp_path):
    with pytest.raises(AlreadyQuantizedError, match="give the float model; qtool inspect"):
        quantize(models["qdq"], tmp_path / "out.onnx", form="dynamic")


def test_the_remedy_of_a_dynamic_model_is_an_option_of_quantize_dynamic(models):
    """It takes no calibrate_method, as nothing is calibrated."""
    options = maker_of(open_model(models["dynamic"])).options
    assert "quantize_dynamic(nodes_to_exclude=" in options["accuracy"] and "calibrate" not in options["accuracy"]
    assert "calibrate_method" in maker_of(open_model(models["qdq"])).options["accuracy"]


def test_a_model_as_tensorrt_wants_it_may_be_of_two_makers(tmp_path):
    """onnxruntime's quantiser writes so with AddQDQPairToWeight; NVIDIA ModelOpt does, and leaves its name there."""
    net = written.Net(producer="onnx.quantize")
    weight = net.constant(RNG.normal(size=(4, 4, 3, 3)).astype(np.float32))
    read, kept = (net.fake(name, 0.05, 0, "int8") for name in ("x", weight))
    found = inspect_model(net.write(tmp_path / "model.onnx", net.add("Conv", read, kept)))
    assert found.maker == "NVIDIA ModelOpt or onnxruntime.quantization"
    assert "TensorRT provider" in found.next


def test_outputs_far_from_floats_are_said_with_the_layer_to_blame(models, tmp_path):
    model = onnx.load(models["qdq"])
    scale = next(one for one in model.graph.initializer if one.name == "r1_scale")
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) / 16, scale.name))
    bias = next(one for one in model.graph.initializer if one.name == "b2_quantized_scale")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) / 16, bias.name))
    path = tmp_path / "clipped.onnx"
    onnx.save(model, str(path))
    found = inspect_model(path, models["float"], {"x": DATA})
    (lost,) = [one for one in found.findings if one.rule == "accuracy"]
    assert found.findings[0] is lost, "whatever else costs time, this comes first"
    # what its maker takes in, ready to be typed: the layer whose output it is
    assert lost.where[0] == "conv1"
    assert f"nodes_to_exclude={list(lost.where)}" in lost.remedy and lost.remedy == found.next
    assert "COSTS ACCURACY" in found.verdict


def test_to_quantise_again_is_no_remedy_for_its_own_models(tmp_path):
    """By an entry in its metadata the file tells whose it is; its layer has one input channel."""
    net = Net(1, 8, 8)
    source = net.save(tmp_path / "one.onnx", net("Tanh", net("Relu", net.conv("x", 1, 8, name="first"))))
    quantize(source, tmp_path / "own.onnx", data=[net.samples(2)], calibrator="max", optimize_for="size")
    found = inspect_model(tmp_path / "own.onnx")
    assert found.maker == "qtool"
    (one,) = [finding for finding in found.findings if finding.rule == "one-channel"]
    assert one.remedy.startswith("quantise the float model with qtool for latency: ")
    assert not any(finding.remedy for finding in found.findings if finding.rule in ("float-tail", "missing-output-q"))
    mended = replace(found, next=one.remedy)
    lacking = "with the float model that it is made of and your samples as --data"
    assert f": `qtool quantize`, {lacking}" in inspection_text(mended)
    known = inspection_text(replace(mended, float_model=str(source)), Asked(data="a.npz"))
    assert f": qtool quantize {source} --data a.npz --optimize-for latency -o own.qtool.onnx" in known


def test_layers_that_hold_another_scale_have_an_error_all_the_same(tmp_path):
    """qtool folds the 1/6 of a HardSwish into the layers beside it; the output is compared as it is."""
    net = Net(3, 16, 16)
    value = net("HardSwish", net.conv("x", 3, 8))
    value = net("HardSwish", net.conv(value, 8, 16))
    source = net.save(tmp_path / "m.onnx", net.gemm(net("Flatten", net("GlobalAveragePool", value)), 16, 4))
    data = [net.samples(4)]
    quantize(source, tmp_path / "q.onnx", data=data, calibrator="max")
    found = inspect_model(tmp_path / "q.onnx", source, data)
    convolutions = [layer for layer in found.layers if layer.op == "Conv"]
    assert all(layer.sqnr_db > 25 and layer.alone_db > 25 for layer in convolutions)
    assert any("SQNR is beyond a factor a channel" in text for text in found.not_measured)
    twice = onnx.load(tmp_path / "q.onnx")
    scale = next(one for one in twice.graph.initializer if one.name == source_weight(twice))
    scale.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(scale), scale.name))
    onnx.save(twice, tmp_path / "twice.onnx")
    assert "COSTS ACCURACY" in inspect_model(tmp_path / "twice.onnx", source, data).verdict


def source_weight(model):
    """The weight of the last layer, or its scale."""
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    maker = next((node for node in model.graph.node if gemm.input[1] in node.output), None)
    return gemm.input[1] if maker is None else maker.input[1]


def test_a_model_that_is_good_as_far_as_is_known_is_to_be_timed(tmp_path):
    """With one input channel in its first layer, which costs time, and how much only a clock can tell."""
    net = Net(1, 8, 8)
    value = net("Relu", net.conv("x", 1, 8))
    source = net.save(tmp_path / "m.onnx", net("Relu", net.conv(value, 8, 8)))
    quantize(source, tmp_path / "q.onnx", data=[net.samples(2)], calibrator="max", optimize_for="size")
    found = inspect_model(tmp_path / "q.onnx")
    assert "one-channel" in {finding.rule for finding in found.findings}
    assert found.next == TIME_IT


@pytest.mark.parametrize("trained", [True, False])
def test_a_model_that_was_trained_on_is_not_judged_by_its_distance_from_float(models, tmp_path, trained):
    """Its weights are no rounding of float's; multiplied by a factor for each channel they still are."""
    other = onnx.load(models["float"])
    for name in ("w1", "w2"):
        weight = next(one for one in other.graph.initializer if one.name == name)
        array = numpy_helper.to_array(weight)
        moved = array + RNG.normal(size=array.shape) if trained else array * np.linspace(1, 4, 8).reshape(8, 1, 1, 1)
        weight.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), name))
    onnx.save(other, tmp_path / "other.onnx")
    found = inspect_model(models["qdq"], tmp_path / "other.onnx", {"x": DATA})
    rules = {finding.rule for finding in found.findings}
    assert ("trained" in rules, "accuracy" in rules) == (trained, not trained), found.verdict
    assert ("COSTS ACCURACY" in found.verdict) == (not trained)
    assert "trained" not in {
        finding.rule for finding in inspect_model(models["qdq"], models["float"], {"x": DATA}).findings
    }


@pytest.mark.parametrize("scale", [np.float32(0.01), np.full((1, 12, 1), 0.01, np.float32)])
def test_weights_that_a_cast_and_a_mul_make_float_are_planned_as_stored(tmp_path, scale):
    """As qtool stores those of recurrent layers, which onnxruntime computes when it loads."""
    net = written.Net((5, 1, 4))
    cast = net.add("Cast", net.constant(RNG.integers(-99, 99, (1, 12, 4)).astype(np.int8)), to=TensorProto.FLOAT)
    read = net.add("Mul", cast, net.constant(scale))
    kept = net.constant(RNG.normal(size=(1, 12, 4)).astype(np.float32))
    made = net.fake(net.add("GRU", "x", read, kept, hidden_size=4), 0.1)
    (layer,) = inspect_model(net.write(tmp_path / "model.onnx", made)).layers
    assert (layer.weight.dtype, layer.weight.axis, layer.integer) == ("int8", None if scale.ndim == 0 else 1, False)
    assert layer.weight.scale == pytest.approx([0.01] * scale.size)
    assert "int8 weight" in inspection_text(inspect_model(tmp_path / "model.onnx"))


def test_what_costs_next_to_nothing_is_told_where_all_is_wanted(models):
    found = inspect_model(models["signed"])
    first = found.findings[0]
    several = [replace(first, ms_share=share) for share in (0.5, 0.01, 0.004, 0.0, None)]
    texts = [
        inspection_text(replace(found, findings=tuple(several)), every=every).partition("what costs")[2]
        for every in (False, True)
    ]
    assert [text.count("    because  ") for text in texts] == [3, 5], "what was not timed is told"
    assert texts[0].count("with -v: 2 more, of less than 1 % of the time each") == 1 and "with -v" not in texts[1]


def test_a_model_whose_only_weights_are_those_of_a_recurrent_layer_is_no_float_model(tmp_path):
    """qtool stores them without a DequantizeLinear."""
    arrays = {"w": RNG.normal(size=(1, 24, 4)), "r": RNG.normal(size=(1, 24, 8))}
    graph = helper.make_graph(
        [helper.make_node("GRU", ["x", "w", "r"], ["", "y"], "gru", hidden_size=8)],
        "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 8])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()],
    )  # fmt: skip
    source = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), source)
    quantize(source, tmp_path / "q.onnx", form="weight-only")
    found = inspect_model(tmp_path / "q.onnx", source)
    assert (found.kind, found.form, found.maker) == ("int8", "weight-only", "qtool")
    assert [layer.weight.dtype for layer in found.layers] == ["int8"] and "0 of 1 layer" in found.verdict
    assert inspect_model(source).kind == "float"
