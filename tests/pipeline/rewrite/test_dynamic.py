"""Dynamic and weight-only layers: what onnxruntime really runs, and that it computes what the model says."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

import qtool
from qtool.cli import main
from qtool.core.errors import NothingToQuantizeError, UsageError, VerificationError
from qtool.core.numerics.sqnr import signal_to_noise
from qtool.core.records.options import Scheme
from qtool.core.records.plan import load_plan
from qtool.graph import model_io
from qtool.pipeline.prepare import prepare
from qtool.pipeline.verify.structure import check_structure
from qtool.runtime.census import take_census
from qtool.runtime.session import Session
from qtool.targets.tables import TARGETS
from tests.support.patterns import Net
from tests.support.since import has
from tests.support.token_models import encoder, recurrent, sentences


@pytest.fixture
def text_model(tmp_path):
    path = tmp_path / "encoder.onnx"
    onnx.save(encoder(), path)
    return path


def kernels(path: Path) -> Counter[str]:
    return Counter(take_census(path.read_bytes())[1].kernels)


def noise_db(exact: Path, other: Path, feeds) -> float:
    a, b = Session(exact), Session(other)
    rows = [(a.run_list(f, a.outputs)[0], b.run_list(f, a.outputs)[0]) for f in feeds]
    return signal_to_noise(np.concatenate([r[0] for r in rows]), np.concatenate([r[1] for r in rows]))


def test_dynamic_needs_no_data(text_model, tmp_path):
    output = tmp_path / "int8.onnx"
    result = qtool.quantize(text_model, output, form="dynamic")
    found = kernels(output)
    assert found["DynamicQuantizeMatMul"] + found["MatMulIntegerToFloat"] == 7
    assert found["MatMulIntegerToFloat"] == 3, "the three that read one input share its quantisation"
    assert found["Gemm"] == 0 and found["MatMul"] + found["FusedMatMul"] == 2, "only activation x activation is float"
    assert result.verification.examples == 0 and np.isnan(result.verification.output_sqnr_db)
    assert result.verification.integer_layers == 7
    assert noise_db(text_model, output, sentences(20)) > 20.0


def test_the_optimised_graph_computes_what_the_written_one_says(text_model, tmp_path):
    output = tmp_path / "int8.onnx"
    qtool.quantize(text_model, output, form="dynamic")
    for feed in sentences(5):
        plain, fast = Session(output, optimize=False).run(feed), Session(output).run(feed)
        for name, array in plain.items():
            assert signal_to_noise(array, fast[name]) > 35.0


def test_per_tensor_weights_have_one_scale(text_model, tmp_path):
    output = tmp_path / "int8.onnx"
    result = qtool.quantize(text_model, output, form="dynamic", scheme=Scheme(granularity="per-tensor"))
    assert {len(w.params.scale) for w in result.plan.dynamic} == {1}
    assert noise_db(text_model, output, sentences(20)) > 12.0


def test_an_embedding_is_stored_in_8_bit_rows(text_model, tmp_path):
    output = tmp_path / "int8.onnx"
    result = qtool.quantize(text_model, output, form="dynamic")
    tables = [w for w in result.plan.stored if len(w.params.scale) == 4096]
    assert len(tables) == 1
    assert output.stat().st_size < 0.4 * text_model.stat().st_size
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(output).graph.initializer}
    assert stored["table_quantized"].dtype == np.int8
    exact = onnx.numpy_helper.to_array(next(i for i in onnx.load(text_model).graph.initializer if i.name == "table"))
    rounded = stored["table_quantized"] * stored["table_scale"]
    assert (np.abs(rounded - exact) <= stored["table_scale"] * 0.5001).all()


def test_weight_only_rounds_inputs_alone_where_onnxruntime_has_blocks(text_model, tmp_path):
    output = tmp_path / "int8.onnx"
    result = qtool.quantize(text_model, output, form="weight-only")
    products = 7 if has("blocks-by-channel") else 0
    assert kernels(output)["MatMulNBits"] == products
    assert result.verification.integer_layers == products
    assert result.verification.integer_kernels == ("MatMulNBits",) * bool(products)
    assert "weight-only" in result.plan.skipped["query"]
    assert ("query" in result.verification.float_layers) == (not products)
    assert noise_db(text_model, output, sentences(20)) > 30.0


@pytest.mark.parametrize("directions", [1, 2])
def test_lstm_becomes_dynamic_quantize_lstm(directions, tmp_path):
    net = recurrent("LSTM", directions=directions)
    source = net.save(tmp_path / "float.onnx", "y_out")
    output = tmp_path / "int8.onnx"
    result = qtool.quantize(source, output, form="dynamic")
    assert kernels(output)["DynamicQuantizeLSTM"] == 1 and kernels(output)["LSTM"] == 0
    assert [w.readers[0][0] for w in result.plan.dynamic] == ["recurrent", "recurrent"]
    assert noise_db(source, output, [net.samples(7)]) > 25.0


@pytest.mark.parametrize("op", ["GRU", "RNN"])
def test_other_recurrent_layers_are_weight_only_and_said_so(op, tmp_path):
    net = recurrent(op)
    source = net.save(tmp_path / "float.onnx", "y_out")
    output = tmp_path / "int8.onnx"
    result = qtool.quantize(source, output, form="dynamic")
    assert kernels(output)[op] == 1
    assert result.verification.float_layers == {"recurrent": "weight-only: its input stays float"}
    assert output.stat().st_size < source.stat().st_size / 2
    assert noise_db(source, output, [net.samples(7)]) > 30.0


@pytest.mark.parametrize(("op", "directions"), [("GRU", 2), ("RNN", 1)])
def test_large_weights_of_recurrent_layers_are_stored_in_every_form(op, directions, tmp_path):
    net = recurrent(op, inputs=16, hidden={"GRU": 128, "RNN": 256}[op], directions=directions)
    net("Relu", net("MatMul", "x", net.weight(16, 8, inputs=16), name="product"), name="z")
    source = net.save(tmp_path / "float.onnx", "y_out", "z_out")
    output = tmp_path / "int8.onnx"
    result = qtool.quantize(source, output, data=net.samples(7), form="static", calibrator="max")
    assert result.plan.layers == ("recurrent", "product")
    assert list(result.plan.integer) == ["product"]
    assert [row.readers[0] for row in result.plan.stored] == [("recurrent", 1), ("recurrent", 2)]
    assert output.stat().st_size < source.stat().st_size / 3
    # they become float32 when the model is loaded: nothing is left of it in a run
    found = kernels(output)
    assert found[op] == 1
    assert found["DequantizeLinear"] == found["Cast"] == found["Mul"] == 0
    assert noise_db(source, output, [net.samples(7)]) > 30.0


def test_where_nothing_else_is_there_the_reason_and_the_form_that_helps_are_named(tmp_path):
    net = recurrent("GRU", hidden=256)
    source = net.save(tmp_path / "float.onnx", "y_out")
    with pytest.raises(NothingToQuantizeError, match=r"GRU: it has no integer kernel for .*weight-only"):
        qtool.quantize(source, tmp_path / "int8.onnx", data=net.samples(7))


def test_small_ones_stay_float_and_excluded_ones_too(tmp_path):
    for hidden, exclude in ((24, ()), (256, ("GRU",))):
        net = recurrent("GRU", hidden=hidden)
        net("Relu", net("MatMul", "x", net.weight(16, 8, inputs=16), name="product"), name="z")
        source = net.save(tmp_path / "float.onnx", "y_out", "z_out")
        scheme = Scheme(exclude_ops=exclude)
        options = {"data": net.samples(7), "form": "static", "calibrator": "max", "scheme": scheme}
        assert qtool.quantize(source, tmp_path / "int8.onnx", **options).plan.stored == ()


def test_a_convolution_needs_calibrated_ranges(tmp_path):
    net = Net()
    source = net.save(tmp_path / "float.onnx", net.conv("x", 3, 8))
    with pytest.raises(NothingToQuantizeError, match="its integer kernel needs calibrated ranges"):
        qtool.quantize(source, tmp_path / "int8.onnx", form="dynamic")


@pytest.mark.parametrize("trans", [0, 1])
def test_gemm_with_bias_is_dynamic_either_way_round(trans, tmp_path):
    net = Net(20)
    source = net.save(tmp_path / "float.onnx", net.gemm("x", 20, 12, trans=trans))
    output = tmp_path / "int8.onnx"
    qtool.quantize(source, output, form="dynamic")
    assert kernels(output)["DynamicQuantizeMatMul"] == 1
    assert noise_db(source, output, [net.samples(9)]) > 30.0


def test_an_excluded_layer_stays_float(text_model, tmp_path):
    output = tmp_path / "int8.onnx"
    result = qtool.quantize(text_model, output, form="dynamic", scheme=Scheme(exclude=("widen", "embedding")))
    assert result.verification.float_layers["widen"] == "excluded by 'widen'"
    found = kernels(output)
    assert found["DynamicQuantizeMatMul"] + found["MatMulIntegerToFloat"] == 6


def test_the_plan_goes_round(text_model, tmp_path):
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    feeds = sentences(6)
    qtool.quantize(text_model, first, form="dynamic", data=feeds, save_plan=tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json").dynamic
    qtool.quantize(text_model, second, data=feeds, plan=tmp_path / "plan.json")
    assert first.read_bytes() == second.read_bytes()


def test_a_foreign_scale_is_found_out(text_model, tmp_path):
    output = tmp_path / "int8.onnx"
    qtool.quantize(text_model, output, form="dynamic")
    model = onnx.load(output)
    scale = next(i for i in model.graph.initializer if i.name.startswith("c") and i.name.endswith("_scale") and i.dims)
    scale.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * 1.5, scale.name))
    graph = prepare(model_io.load(text_model)).model
    with pytest.raises(VerificationError, match="not what the model holds"):
        check_structure(graph, model_io.from_bytes(model.SerializeToString()))


def test_every_dynamic_row_is_tested_here():
    dynamic = {op for op, rule in TARGETS["x86"].rules.items() if rule.dynamic}
    stored = {op for op, rule in TARGETS["x86"].rules.items() if rule.stored and not rule.static}
    assert dynamic == {"MatMul", "Gemm", "LSTM"}
    assert stored == {"LSTM", "GRU", "RNN", "ConvTranspose"}


def test_unknown_words_are_refused(text_model, tmp_path):
    for words in ({"form": "static"}, {"form": "fast"}):
        with pytest.raises(UsageError):
            qtool.quantize(text_model, tmp_path / "x.onnx", **words)
    with pytest.raises(UsageError, match="smoothing='sometimes': is unknown"):
        qtool.quantize(text_model, tmp_path / "x.onnx", data=sentences(2), smoothing="sometimes")
    assert not (tmp_path / "x.onnx").exists()


def test_on_the_command_line(text_model, tmp_path, capsys):
    output, other = tmp_path / "int8.onnx", tmp_path / "no.onnx"
    with pytest.raises(SystemExit) as caught:
        main(["quantize", str(text_model), "--dynamic", "-o", str(output)])
    said = capsys.readouterr().out
    assert caught.value.code == 0 and output.exists()
    assert "DynamicQuantizeMatMul" in said and "not measured" in said
    with pytest.raises(SystemExit) as caught:
        main(["quantize", str(text_model), "-o", str(other)])
    assert caught.value.code == 2 and "--weight-only, --weights and --plan need neither" in capsys.readouterr().err
    assert not other.exists()


@pytest.mark.parametrize(
    "option",
    [["--smoothing", "on"], ["--optimize-for", "latency"], ["--calibrator", "max"], ["--samples", "3"]],
    ids=lambda option: option[0],
)
def test_what_needs_data_is_refused_without(option, text_model, tmp_path, capsys):
    output = tmp_path / "int8.onnx"
    with pytest.raises(SystemExit) as caught:
        main(["quantize", str(text_model), "--dynamic", *option, "-o", str(output)])
    assert caught.value.code == 2 and not output.exists()
    assert f"{option[0]} says nothing without data" in capsys.readouterr().err
