"""Which convolutions are written with more channels than they have: those that are faster so by the target's table."""

import json

import numpy as np
import pytest

import qtool
from qtool.core.errors import UsageError, VerificationError
from qtool.graph import model_io
from qtool.pipeline.planning.wider import with_wider_kernels
from qtool.pipeline.prepare import prepare
from qtool.quantization import decision
from qtool.report.quantize import quantized_text
from tests.support.patterns import Net

PLAIN = {"calibrator": "max", "bias_correction": "off", "target": "x86", "partial": False, "form": "static"}


def image(net, before=64, after=3, **more):
    """A first convolution and the one that is looked at, as the last of networks that make images larger."""
    x = net("Relu", net.conv("x", 3, before, name="first"))
    return (net.conv(x, before, after, name="last", **more),)


def sharing(net):
    x = net("Relu", net.conv("x", 3, 64, name="first"))
    weight = net.weight(3, 64, 3, 3, inputs=576)
    ways = {"kernel_shape": [3, 3], "pads": [1] * 4}
    other = {"kernel_shape": [3, 3], "pads": [2] * 4, "dilations": [2, 2]}
    return net("Conv", x, weight, name="last", **ways), net("Conv", x, weight, name="other", **other)


def wider_of(tmp_path, make, **options):
    net = Net(3, 48, 48)
    path = net.save(tmp_path / "m.onnx", *make(net))
    result = qtool.quantize(path, tmp_path / "q.onnx", data=net.samples(2), **{**PLAIN, **options})
    return {row.layer: row.channels for row in result.plan.wider}, result


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (image, {"last": 16}),
        (lambda net: image(net, after=1, kernel=(5, 5)), {"last": 16}),
        (lambda net: image(net, after=18, kernel=(5, 5)), {"last": 20}),
        # what is even is run on the image as it is
        (lambda net: image(net, after=16), {}),
        (lambda net: image(net, after=20), {}),
        # and what reads uneven channels is not, however many it makes
        (lambda net: image(net, before=30), {}),
        (lambda net: image(net, before=63, group=3), {}),
        (sharing, {}),
    ],
)
def test_which_are_wider(tmp_path, make, expected):
    found, result = wider_of(tmp_path, make)
    assert found == expected
    line = "1 convolution computes more channels than wanted, which is faster in integers: last"
    assert (line in quantized_text(result)) == bool(expected)
    assert result.verification.output_sqnr_db > 25.0


def test_not_where_files_are_to_be_small_or_nothing_was_measured(tmp_path):
    assert wider_of(tmp_path, image, optimize_for="size")[0] == {}
    assert wider_of(tmp_path, image, target="arm64")[0] == {}


def test_the_plan_makes_the_same_file_again(tmp_path):
    net = Net(3, 48, 48)
    path, plan = net.save(tmp_path / "m.onnx", *image(net)), tmp_path / "plan.json"
    qtool.quantize(path, tmp_path / "a.onnx", data=net.samples(2), save_plan=plan, **PLAIN)
    again = qtool.quantize(path, tmp_path / "b.onnx", plan=plan)
    assert again.plan.wider and (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_tuned_models_have_them_too(tmp_path):
    net = Net(3, 48, 48)
    path = net.save(tmp_path / "m.onnx", *image(net))
    tuned = qtool.tune(path, net.samples(12), tmp_path / "q.onnx", min_sqnr=20.0, target="x86")
    assert [row.layer for row in tuned.plan.wider] == ["last"]


def test_a_model_that_does_not_hold_with_them_is_written_without(tmp_path, monkeypatch):
    """Nothing is refused because of what need not be."""
    verify, seen = decision.verify, []

    def refusing(original, prepared, shifted, quantized, plan, target):
        seen.append(len(plan.wider))
        if plan.wider:
            raise VerificationError("something else came out")
        return verify(original, prepared, shifted, quantized, plan, target)

    monkeypatch.setattr(decision, "verify", refusing)
    found, result = wider_of(tmp_path, image)
    assert found == {} and seen == [1, 0] and result.verification.integer_share == 1.0


def test_shapes_that_only_a_run_tells_leave_a_convolution_as_it_is(tmp_path):
    net = Net(3, 48, 48)
    path = net.save(tmp_path / "m.onnx", *image(net))
    plan = qtool.quantize(path, tmp_path / "q.onnx", data=net.samples(2), **PLAIN).plan
    prepared = prepare(model_io.load(path)).model
    example = {"x": np.zeros((1, 3, 48, 48), np.float32)}
    assert with_wider_kernels(prepared, plan, example).wider == plan.wider
    assert with_wider_kernels(prepared, plan, example, {"x": (1, 3, 48, 48)}).wider == ()


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([("nobody", 16)], r"wider\[0\]: 'nobody' is no convolution"),
        ([("first", 64)], r"wider\[0\]: 'first' has 64 channels already"),
        ([("last", 16), ("last", 20)], r"wider\[1\]: 'last' stands there twice"),
        ([("last", 1)], r"channels: a number from 2"),
        ([("last", 2**20)], r"channels: a number from 2"),
    ],
)
def test_an_edited_plan_is_read_strictly(tmp_path, rows, why):
    net = Net(3, 48, 48)
    path, plan = net.save(tmp_path / "m.onnx", *image(net)), tmp_path / "plan.json"
    qtool.quantize(path, tmp_path / "a.onnx", data=net.samples(2), save_plan=plan, **PLAIN)
    document = json.loads(plan.read_text())
    document["wider"] = [{"layer": layer, "channels": channels} for layer, channels in rows]
    plan.write_text(json.dumps(document))
    with pytest.raises(UsageError, match=why):
        qtool.quantize(path, tmp_path / "b.onnx", plan=plan)
    assert not (tmp_path / "b.onnx").exists()
