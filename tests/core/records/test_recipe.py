"""What was done to the float graph travels with calibration files and plans."""

import inspect
import json
from dataclasses import fields, replace

import numpy as np
import pytest

import qtool
from qtool.cli import calibrate, main, quantize
from qtool.core.errors import UsageError
from qtool.core.records.plan import Plan, load_plan
from qtool.core.records.recipe import ASKED, NUMBERS, STEPS, Recipe, read_recipe
from qtool.pipeline.recovery.steps import chosen_steps
from tests.pipeline.recovery.test_equalization import relu_network


def test_the_calibration_file_and_the_plan_say_how_to_prepare(tmp_path):
    net, y = relu_network()
    source = net.save(tmp_path / "float.onnx", y)
    calibrated = qtool.calibrate(source, net.samples(), tmp_path / "c.calib", equalize=True)
    record = calibrated.statistics.recipe
    assert record.steps == ("equalize",)
    assert len(record.scales) == 7
    options = {"target": "x86", "calibrator": "max", "bias_correction": "off"}

    def quantized(name, **more):
        result = qtool.quantize(source, tmp_path / name, **more)
        return result, (tmp_path / name).read_bytes()

    direct, wanted = quantized("a.onnx", data=net.samples(), equalize=True, **options)
    read, from_file = quantized("b.onnx", calibration=tmp_path / "c.calib", save_plan=tmp_path / "p.json", **options)
    said, _ = quantized("c.onnx", calibration=tmp_path / "c.calib", equalize=True, **options)
    assert from_file == wanted
    assert direct.plan == read.plan == said.plan
    assert read.plan.recipe == record
    assert read.to_dict()["preparation"]["equalized pairs"] == 7
    # the plan goes with its own graph, whatever the statistics were collected on
    plainly = qtool.calibrate(source, net.samples()).statistics
    for given in ({"calibration": plainly}, {"data": net.samples()}):
        again, data = quantized("d.onnx", plan=tmp_path / "p.json", **given)
        assert data == wanted
        assert again.plan == read.plan


def test_what_contradicts_is_refused(tmp_path):
    net, y = relu_network()
    source = net.save(tmp_path / "float.onnx", y)
    plainly = qtool.calibrate(source, net.samples(), tmp_path / "c.calib")
    plan = qtool.quantize(source, tmp_path / "q.onnx", calibration=plainly.output, calibrator="max").plan
    with pytest.raises(UsageError, match=r"c\.calib: calibrated without equalize; calibrate again with it"):
        qtool.quantize(source, tmp_path / "x.onnx", calibration=plainly.output, equalize=True)
    with pytest.raises(UsageError, match="equalize says nothing to plan"):
        qtool.quantize(source, tmp_path / "x.onnx", calibration=plainly.output, equalize=True, plan=plan)
    tensor = "Conv_0_out"
    odd = replace(plan, recipe=Recipe(("equalize",), {tensor: (1.0, 2.0)}))
    with pytest.raises(UsageError, match=f"damaged preparation .*{tensor}"):
        qtool.quantize(source, tmp_path / "x.onnx", calibration=plainly.output, plan=odd)
    assert not (tmp_path / "x.onnx").exists()


def test_a_step_that_callers_ask_for_is_an_argument_and_an_option():
    for function, command in ((qtool.calibrate, calibrate.command), (qtool.quantize, quantize.command)):
        assert set(ASKED.values()) <= set(inspect.signature(function).parameters)
        assert set(ASKED.values()) <= {option.name for option in command.params}
    assert set(ASKED) <= set(STEPS)
    assert chosen_steps(**dict.fromkeys(ASKED.values(), True)) == tuple(step for step in STEPS if step in ASKED)
    with pytest.raises(KeyError):
        chosen_steps(equalize=True)


def test_each_step_with_numbers_has_a_field():
    others = {"steps", "fixed", "transposed", "recurrent", "attention"}
    assert {field.name for field in fields(Recipe)} == {*others, *NUMBERS.values()}
    assert set(NUMBERS) <= set(STEPS)


def test_a_step_that_found_nothing_to_do_is_idle():
    steps = ("equalize", "absorb-biases", "soften-masks", "smooth")
    assert Recipe(steps, scales={"t": (1.0,)}).idle == ("absorb-biases", "smooth")
    assert Recipe(("soften-masks",)).idle == ()


@pytest.mark.parametrize(
    "record",
    [
        None,
        {"steps": ["equalize"], "scales": {}},
        {"steps": ["magic"], "scales": {}, "shifts": {}},
        {"steps": ["join-attention"], "scales": {}, "shifts": {}},
        {"steps": [], "scales": {}, "shifts": {}, "attention": ["context"]},
        {"steps": ["absorb-biases", "equalize"], "scales": {}, "shifts": {}},
        {"steps": [], "scales": {"t": [1.0]}, "shifts": {}},
        {"steps": ["equalize"], "scales": {"t": [0.0]}, "shifts": {}},
        {"steps": ["equalize"], "scales": {"t": [True]}, "shifts": {}},
        {"steps": ["equalize"], "scales": {"t": 1.0}, "shifts": {}},
        {"steps": ["equalize"], "scales": [], "shifts": {}},
        {"steps": ["absorb-biases"], "scales": {}, "shifts": {"t": [-1.0]}},
        {"steps": ["absorb-biases"], "scales": {}, "shifts": {"t": [1e39]}},
    ],
    ids=str,
)
def test_a_damaged_record_is_refused(record, tmp_path):
    with pytest.raises(ValueError, match="preparation"):
        read_recipe(record)
    plan = Plan("", "x86", "affine", "per-tensor", "max", (), (), (), (), {}, (), {}).to_dict()
    (tmp_path / "p.json").write_text(json.dumps({**plan, "preparation": record}))
    with pytest.raises(UsageError, match=r"damaged plan .*preparation"):
        load_plan(tmp_path / "p.json")


def test_a_record_comes_back():
    record = Recipe(("equalize", "absorb-biases"), {"t": (0.1, 3e38)}, {"ö": (0.0, 1e-40)})
    assert read_recipe(json.loads(json.dumps(record.to_dict()))) == record


def test_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    net, y = relu_network()
    net.save(tmp_path / "m.onnx", y)
    np.savez(tmp_path / "d.npz", **net.samples())

    def said(*arguments):
        with pytest.raises(SystemExit) as caught:
            main(list(arguments))
        return caught.value.code, *capsys.readouterr()

    assert said("calibrate", "m.onnx", "--data", "d.npz", "--equalize", "-q") == (0, "", "")
    code, out, _ = said("quantize", "m.onnx", "--calibration", "m.calib", "--calibrator", "max", "--json", "-")
    assert (code, json.loads(out)["preparation"]["equalized pairs"]) == (0, 7)
    assert said("quantize", "m.onnx", "--data", "d.npz", "--equalize", "--save-plan", "p.json", "-q")[0] == 0
    code, _, err = said("quantize", "m.onnx", "--calibration", "m.calib", "--plan", "p.json", "--equalize")
    assert (code, err) == (2, "qtool: --equalize says nothing to --plan, which has decided it; leave one of them out\n")
    assert said("calibrate", "m.onnx", "--data", "d.npz", "-q")[0] == 0
    code, _, err = said("quantize", "m.onnx", "--calibration", "m.calib", "--equalize")
    assert code == 2
    assert "m.calib: calibrated without --equalize" in err
