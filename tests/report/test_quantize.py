"""What `quantize` prints of its proof."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

import qtool
from qtool.cli.group import app
from qtool.core.numerics.calibrators import Calibrator
from qtool.core.numerics.sqnr import Uneven
from qtool.core.records.results import Asked, FilePart, LeftFloat, Trial, Verdict
from qtool.core.records.timing import Timing
from qtool.report.quantize import bad_verdict, quantized_text, slow_verdict
from tests.support.patterns import Net
from tests.support.refusals import SAMPLES, network


def test_the_line_of_integers_names_their_kernels_alone(tmp_path):
    net = Net()
    hidden = net.conv(net("Relu", net.conv("x", net.shape[0], 8)), 8, 8)
    y = net.gemm(net("Flatten", net("GlobalAveragePool", hidden)), 8, 5)
    result = qtool.quantize(net.save(tmp_path / "m.onnx", y), tmp_path / "q.onnx", data=[net.samples(4)])
    (line,) = [line for line in quantized_text(result).splitlines() if line.startswith("  integer")]
    assert line.endswith("in integer kernels: 1 QGemm, 2 QLinearConv, 1 QLinearGlobalAveragePool")
    proof = result.to_dict()["verification"]
    assert proof["kernels"].keys() > {"QGemm", "QLinearConv", "QuantizeLinear"} and "integer_kernels" not in proof


PARTS = (
    FilePart(FilePart.IN_8_BITS, 600, "w"), FilePart("tables in float", 300, "t"), FilePart("9 nodes", 100, ""),
)  # fmt: skip


@pytest.mark.parametrize(
    ("was", "now", "parts", "words"),
    [
        (3000, 1000, (), "(3.0x smaller)"),
        (1150, 1000, PARTS, "(1.15x smaller)\n              30.0 % of it are tables in float (t the largest)"),
        (980, 1000, PARTS[::2], "(about as large)\n              60.0 % of it are weights in 8 bits (w the largest)"),
        (1000, 2000, PARTS, "(2.0x larger)\n              15.0 % of it are tables in float (t the largest)"),
    ],
)
def test_the_size_is_said_as_it_is(tmp_path, was, now, parts, words):
    made = qtool.quantize(network(tmp_path / "m.onnx"), tmp_path / "q.onnx", form="weight-only")
    result = replace(made, float_size=was, size=now, parts=parts)
    head, _, rest = quantized_text(result).partition("\n")
    assert rest.startswith("  size        ") and f"{words}\n" in rest
    assert f": {words[1:].partition(')')[0]}; weights alone in 8 bits" in head


def test_the_first_line_fits_a_hundred_columns(tmp_path):
    made = qtool.quantize(network(tmp_path / "m.onnx"), tmp_path / "q.onnx", data={"x": SAMPLES})
    tried = [Trial(Calibrator.parse("percentile:99.999"), True, 1.0)] * 12
    for name in ("q.onnx", "folder/" * 40 + "mobilenetv2.int8.onnx"):
        plan = replace(made.plan, calibrator="percentile 99.999")
        head = quantized_text(replace(made, output=Path(name), plan=plan, trials=tuple(tried))).splitlines()[0]
        assert len(head) <= 100 and re.search(
            r"calibrator percentile 99.999( corrected)?, -?[0-9.]+ dB, best of 12$", head
        )
        assert head.startswith(name[-20:]) or "mobilenetv2.int8.onnx: " in head


def test_what_was_tried_is_told_apart_and_is_not_what_was_written_with_layers_in_float(tmp_path):
    made = qtool.quantize(network(tmp_path / "m.onnx"), tmp_path / "q.onnx", form="weight-only")
    largest, clipped = Calibrator.parse("max"), Calibrator.parse("entropy")
    trials = (
        Trial(largest, False, 9.0, "dynamic"), Trial(clipped, False, 8.0, "dynamic"), Trial(clipped, True, 7.0),
        Trial(largest, True, 6.0, "dynamic"),
    )  # fmt: skip
    shown = replace(made, trials=trials)
    table = quantized_text(shown, verbose=True)
    found = re.findall(r"^(?:  tried|       ) {7}(\w.*?)  +(\d\.0)  +0(  chosen)?$", table, re.MULTILINE)
    assert [(words, float(db)) for words, db, _ in found] == [
        ("dynamic max", 9.0), ("dynamic entropy", 8.0), ("entropy corrected", 7.0), ("dynamic corrected", 6.0)
    ]  # fmt: skip
    assert "\n  tried " not in quantized_text(shown) and "chosen" in table
    timed = quantized_text(replace(made, trials=(replace(trials[0], latency_ms=1.25), *trials[1:])), verbose=True)
    assert re.search(r"samples +ms\n +dynamic max +9\.0 +0 +1\.25 +chosen\n", timed) and " ms\n" not in table
    verdict = Verdict(20.0, asked=False, met=True, left=(LeftFloat(("n",), 0.1, 6.0),))
    assert "measured before layers were left in float" in quantized_text(replace(shown, verdict=verdict), verbose=True)


def test_more_in_float_than_the_default_is_explained(tmp_path):
    result = qtool.quantize(network(tmp_path / "m.onnx"), tmp_path / "q.onnx", data=SAMPLES, calibrator="max")
    for share, said in ((0.1, False), (0.1292, True)):
        verdict = Verdict(20.0, asked=False, met=True, left=(LeftFloat(("n",), share, 6.0),), max_float_macs=0.1)
        text = quantized_text(replace(result, verdict=verdict))
        assert f"1 node for accuracy, {100 * share:.1f} % of multiply-accumulates" in text
        assert ("more than the 10 % of the default" in text and "--max-float-macs 10% keeps to it" in text) is said


def test_a_size_that_is_no_gain_is_not_set_against_the_speed(tmp_path):
    made = qtool.quantize(network(tmp_path / "m.onnx"), tmp_path / "q.onnx", form="weight-only")
    result = replace(made, float_size=1000, size=2000, parts=PARTS, timing=Timing(0.5, 2.0, 1.0, 90))
    text = quantized_text(result)
    assert "WARNING: slower than float on this machine: 0.50x, and 2.0x larger\n" in text
    assert f"`qtool quantize {made.asked.model} --data DATA -o {made.output} --optimize-for latency` lets" in text


def test_a_file_that_is_hardly_smaller_says_what_its_bytes_are(tmp_path):
    net = Net(4, 64)
    hidden = net("MatMul", "x", net.weight(64, 64, inputs=64), name="product")
    net.const(net.rng.normal(size=(1, 4, 64, 80)), "offsets")
    y = net("Add", net("Unsqueeze", hidden, net.const([-1], dtype=np.int64)), "offsets")
    result = qtool.quantize(net.save(tmp_path / "m.onnx", y), tmp_path / "q.onnx", data=[net.samples(4)])
    assert sum(part.size for part in result.parts) == pytest.approx(result.size, rel=0.01)
    kinds = {part.what: part.size for part in result.parts}
    assert kinds[FilePart.IN_8_BITS] == pytest.approx(64 * 64, rel=0.01)
    assert "of it are constants that are no weights of layers (offsets the largest)\n" in quantized_text(result)
    assert result.to_dict()["parts"][0]["largest"] == "offsets"


@pytest.mark.parametrize("op", ["FusedConv", "FusedGemm"])
def test_what_multiplies_without_an_integer_form_holds_weights_of_layers(op, tmp_path):
    net = Net(8, 12, 12) if op == "FusedConv" else Net(8)
    held = net.weight(32, 8, 3, 3, inputs=72) if op == "FusedConv" else net.weight(8, 256, inputs=8)
    fused = net(op, "x", held, domain="com.microsoft", activation="Relu")
    flat = net("Flatten", net("GlobalAveragePool", fused)) if op == "FusedConv" else fused
    width = 32 if op == "FusedConv" else 256
    y = net("MatMul", flat, net.weight(width, 2, inputs=width))
    result = qtool.quantize(net.save(tmp_path / "m.onnx", y), tmp_path / "q.onnx", data=[net.samples(4)])
    largest = result.to_dict()["parts"][0]
    assert (largest["what"], largest["largest"]) == ("weights of layers in float", held)


def test_weights_alone_have_no_kernels_to_name(tmp_path):
    model = network(tmp_path / "m.onnx")
    result = qtool.quantize(model, tmp_path / "q.onnx", form="weight-only")
    assert ", run in integer kernels: none\n" in quantized_text(result)


def test_the_commands_of_the_verdict_name_what_was_given(tmp_path):
    """What a shell would take apart is quoted; how data is read goes with it."""
    result = qtool.quantize(network(tmp_path / "m.onnx"), tmp_path / "q.onnx", data={"x": SAMPLES})
    assert (result.asked.model, result.asked.data) == (str(tmp_path / "m.onnx"), None)
    asked = Asked("a b.onnx", "pictures", "c.calib", (("preprocess", "yolo"), ("max_length", "9")))
    missed = Verdict(90.0, asked=True, met=False)
    last = quantized_text(replace(result, asked=asked, verdict=missed))
    assert "`qtool tune 'a b.onnx' --data pictures --preprocess yolo --max-length 9 --min-sqnr 90`" in last
    assert "`qtool sensitivity 'a b.onnx' --calibration c.calib --data pictures --preprocess yolo --max" in last
    last = quantized_text(replace(result, asked=asked, verdict=replace(missed, met=None)))
    assert f"`qtool eval 'a b.onnx' {tmp_path / 'q.onnx'} --data pictures --preprocess yolo" in last


def test_the_commands_of_the_verdict_have_all_that_they_require(tmp_path):
    result = qtool.quantize(network(tmp_path / "m.onnx"), tmp_path / "q.onnx", data={"x": SAMPLES})
    missed = Verdict(90.0, asked=False, met=False, before_db=None, left=(), max_float_macs=0.1)
    for verdict in (missed, replace(missed, met=None)):
        last = quantized_text(replace(result, verdict=verdict))
        named = re.findall(r"`qtool (\w+) (.*?)`", last)
        assert named
        for command, words in named:
            context = click.Context(app)
            parameters = app.get_command(context, command).params
            needed = [p.opts for p in parameters if isinstance(p, click.Option) and p.required]
            assert all(set(shlex.split(words)) & set(names) for names in needed), words


def test_one_sample_that_decides_is_named(tmp_path):
    result = qtool.quantize(network(tmp_path / "m.onnx"), tmp_path / "q.onnx", data={"x": SAMPLES})
    proof = replace(result.verification, output_sqnr_db=9.0, examples=17, uneven=Uneven(17, 0.998, 46.0, 44.0))
    proof = replace(proof, sqnr_db_by_output={"y": 9.0})
    missed = Verdict(20.0, asked=False, met=False)
    lines = quantized_text(replace(result, verification=proof, verdict=missed)).splitlines()
    assert f"{'':14}one of these makes 99.8 % of the noise: 46.0 dB on the others, 44.0 dB in the median" in lines
    still = replace(proof, uneven=Uneven(17, 0.998, 46.0, None))
    assert "46.0 dB on the others, no noise in the median\n" in quantized_text(replace(result, verification=still))
    assert "  verdict     ACCURATE BUT FOR ONE SAMPLE: outputs 9.0 dB SQNR, at least 20 dB wanted" in lines
    assert "  cause       one sample, at a threshold or unlike the others: 46.0 dB without it" in lines
    assert lines[-2] == "  next        calibrate with more samples" and "`qtool eval " in lines[-1]
    missed = Verdict(50.0, asked=True, met=False)
    assert "NOT ACCURATE" in quantized_text(replace(result, verification=proof, verdict=missed))


@pytest.mark.parametrize(("db", "said"), [(20.4, True), (22.1, False)])
def test_a_figure_that_is_hardly_enough_says_that_new_data_may_give_less(db, said, tmp_path):
    result = qtool.quantize(network(tmp_path / "m.onnx"), tmp_path / "q.onnx", data={"x": SAMPLES})
    proof = replace(result.verification, output_sqnr_db=db, sqnr_db_by_output={"y": db})
    for most, expected in ((0.1, said), (None, False)):
        met = Verdict(20.0, asked=False, met=True, max_float_macs=most)
        lines = quantized_text(replace(result, verification=proof, verdict=met)).splitlines()
        line = f"{'':14}new data may give less than 20 dB: few samples say no more; --min-sqnr 22 leaves room"
        assert (line in lines) is expected


def test_a_form_that_leaves_most_in_float_says_so(tmp_path):
    """In the words of the verdict, and where nothing else is printed."""
    net = Net(3, 8, 8)
    hidden = net("Flatten", net("GlobalAveragePool", net("Relu", net.conv("x", 3, 8))))
    model = net.save(tmp_path / "m.onnx", net.gemm(hidden, 8, 4))
    result = qtool.quantize(model, tmp_path / "q.onnx", form="dynamic")
    layers = result.verification.layers
    verdict, command = quantized_text(result).splitlines()[-2:]
    judged = verdict.removeprefix("  verdict     ")
    assert judged.startswith("HARDLY QUANTISED: ") and f"of {layers} layers have integer kernels" in judged
    advised = f"`qtool quantize {model} --data DATA -o {tmp_path / 'q.onnx'}`, without --dynamic"
    assert command == f"  next        {advised}"
    assert bad_verdict(result) == f"{tmp_path / 'q.onnx'}: {judged}; next: {advised}"
    assert bad_verdict(qtool.quantize(model, tmp_path / "q.onnx", form="weight-only")) == ""
    slow = slow_verdict(replace(result, timing=Timing(0.5, 2.0, 1.0, 9)), ["quantize", "m.onnx", "-q"])
    assert slow.startswith(f"{tmp_path / 'q.onnx'}: WARNING: slower than float on this machine: 0.50x, ")
    again = "next: `qtool quantize m.onnx -q --optimize-for latency` lets this machine's clock choose what stays float"
    assert slow.endswith(again)
    assert slow_verdict(replace(result, timing=Timing(2.0, 1.0, 2.0, 9))) == ""


HARDLY = "1 of 2 layers, 1.8 % of multiply-accumulates, in integers"


def test_a_model_that_is_hardly_quantised_is_not_just_called_good(tmp_path):
    net = Net(3, 8, 8)
    hidden = net("Flatten", net("MaxPool", net("Relu", net.conv("x", 3, 8)), kernel_shape=[4, 4], strides=[4, 4]))
    model = net.save(tmp_path / "m.onnx", net.gemm(hidden, 32, 8))
    output = tmp_path / "q.onnx"
    result = qtool.quantize(model, output, data=net.samples(8), exclude=["Conv*"], calibrator="max")
    assert result.verdict.met and result.verification.integer_share == pytest.approx(32 * 8 / (8 * 8 * 8 * 27 + 32 * 8))
    lines = quantized_text(result).splitlines()
    (verdict,) = [n for n, line in enumerate(lines) if line.startswith("  verdict")]
    judged, *said = (line[14:] for line in lines[verdict:])
    assert judged.startswith("HARDLY QUANTISED, though accurate: outputs ")
    assert said[0] == f"{HARDLY}: nearly all of these dB are float's"
    assert said[1] == "1 of 1 layer in float: excluded by 'Conv*'"
    assert said[2] == f"`qtool inspect {model}` says of each layer why it is float, and what helps"
    assert said[3].startswith("`qtool eval ") and not any("above 30 is good" in line for line in lines)
    # with -q it is news to those alone who did not ask for it
    assert bad_verdict(result) == ""
    news = bad_verdict(replace(result, asked=Asked(str(model), "d.npz")))
    assert news.startswith(f"{output}: HARDLY QUANTISED: {HARDLY}; 1 of 1 layer in float: excluded by 'Conv*'; next: ")
    assert f"`qtool inspect {model} --data d.npz`" in news


def test_a_model_that_is_quantised_is_called_good_alone(tmp_path):
    result = qtool.quantize(network(tmp_path / "m.onnx"), tmp_path / "q.onnx", data=SAMPLES, calibrator="max")
    assert "HARDLY" not in quantized_text(result) and ": above 30 is good" not in bad_verdict(result)
    stored = qtool.quantize(network(tmp_path / "m.onnx"), tmp_path / "q.onnx", data=SAMPLES, form="weight-only")
    assert stored.verification.integer_share == 0.0 and "HARDLY" not in quantized_text(stored)


def test_how_data_was_read_is_known_of_a_calibration_file(tmp_path):
    model = network(tmp_path / "m.onnx")
    calibration = tmp_path / "m.calib"
    (tmp_path / "as.json").write_text('{"preset": "unet", "size": 8}')
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(tmp_path / "a.png")
    qtool.calibrate(model, tmp_path, calibration, preprocess=tmp_path / "as.json")
    result = qtool.quantize(model, tmp_path / "q.onnx", calibration=calibration, min_sqnr=90)
    assert result.asked.reading == (("preprocess", str(tmp_path / "as.json")),)
    assert f"`qtool tune {model} --data DATA --preprocess {tmp_path / 'as.json'} --min-sqnr 90`" in quantized_text(
        result
    )


def test_a_detector_is_to_be_compared_by_its_boxes(tmp_path):
    result = qtool.quantize(network(tmp_path / "m.onnx"), tmp_path / "q.onnx", data={"x": SAMPLES}, min_sqnr=1)
    assert result.decoders == ()
    found = replace(result, decoders=("yolox", "yolov5"), asked=Asked("m.onnx", "pictures"))
    (last,) = [line for line in quantized_text(found).splitlines() if line.startswith("  next")]
    assert f"`qtool eval m.onnx {tmp_path / 'q.onnx'} --data pictures --decode yolox` compares boxes" in last
    assert last.endswith("; --decode yolov5 has the same shapes")
