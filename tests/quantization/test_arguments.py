"""Arguments of the library that contradict each other, or would be ignored: each is one line that names them."""

import pickle

import pytest

import qtool
from qtool.cli import main
from qtool.core.errors import UsageError, VerificationError, arg
from tests.support.patterns import Net


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with m.onnx, m.calib and m.plan, and samples."""
    folder = tmp_path_factory.mktemp("made")
    net = Net(12)
    h = net("Relu", net.gemm("x", 12, 16))
    net.save(folder / "m.onnx", net.gemm(h, 16, 4))
    data = net.samples()
    qtool.calibrate(folder / "m.onnx", data, folder / "m.calib")
    qtool.quantize(folder / "m.onnx", folder / "q.onnx", calibration=folder / "m.calib", save_plan=folder / "m.plan")
    return folder, data


@pytest.mark.parametrize(("argument", "other"), [("save_plan", "m.calib"), ("output", "m.calib"), ("output", "m.plan")])
def test_what_is_read_is_not_overwritten(made, argument, other):
    folder, _ = made
    before = (folder / other).read_bytes()
    given = {"output": folder / "new.onnx", argument: folder / other}
    read = {"plan": folder / "m.plan"} if other == "m.plan" else {"calibration": folder / "m.calib"}
    with pytest.raises(UsageError, match=f"{argument}='.*{other}': is .* already; name another file"):
        qtool.quantize(folder / "m.onnx", given.pop("output"), **given, **read)
    assert (folder / other).read_bytes() == before


def test_two_outputs_are_two_files(made):
    folder, _ = made
    with pytest.raises(UsageError, match="is output already"):
        qtool.quantize(
            folder / "m.onnx", folder / "n.onnx", calibration=folder / "m.calib", save_plan=folder / "n.onnx"
        )
    assert not (folder / "n.onnx").exists()


@pytest.mark.parametrize(
    "given",
    [
        {"calibrator": "max"},
        {"target": "arm64"},
        {"exclude": ["Gemm_0"]},
        {"form": "dynamic"},
        {"optimize_for": "latency", "calibration": "m.calib"},
        {"bias_correction": "off"},
        {"equalize": True},
    ],
)
def test_a_plan_has_decided(made, given):
    folder, _ = made
    if "calibration" in given:
        given = {**given, "calibration": folder / "m.calib"}
    name = next(iter(given))
    with pytest.raises(UsageError, match=f"^{name} says nothing to plan, which has decided it"):
        qtool.quantize(folder / "m.onnx", folder / "n.onnx", plan=folder / "m.plan", **given)


@pytest.mark.parametrize("form", ["dynamic", "weight-only"])
@pytest.mark.parametrize("given", [{"calibrator": "max"}, {"scheme": qtool.Scheme("symmetric")}])
def test_forms_without_calibrated_ranges(made, form, given):
    folder, data = made
    with pytest.raises(UsageError, match=f"says nothing to form='{form}', which has no calibrated ranges"):
        qtool.quantize(folder / "m.onnx", folder / "n.onnx", form=form, **given)
    with pytest.raises(UsageError, match=f"says nothing to form='{form}', which has no calibrated ranges"):
        qtool.sensitivity(folder / "m.onnx", data, calibration=folder / "m.calib", form=form, **given)


@pytest.mark.parametrize(
    ("form", "given"),
    [
        ("dynamic", {"bias_correction": "on"}),
        ("weight-only", {"bias_correction": "on"}),
        ("weight-only", {"smoothing": "on"}),
    ],
)
def test_steps_that_a_form_leaves_without_effect(made, form, given):
    folder, _ = made
    name = next(iter(given))
    with pytest.raises(UsageError, match=f"^{name}='on' says nothing to form='{form}'; leave one of them out"):
        qtool.quantize(folder / "m.onnx", folder / "n.onnx", calibration=folder / "m.calib", form=form, **given)


def test_a_form_in_the_scheme_counts(made):
    folder, _ = made
    result = qtool.quantize(folder / "m.onnx", folder / "n.onnx", form="weight-only")
    same = qtool.Scheme(form="weight-only")
    with pytest.raises(UsageError, match="form='dynamic': the scheme says weight-only"):
        qtool.quantize(folder / "m.onnx", folder / "n.onnx", form="dynamic", scheme=same)
    calibrated = qtool.quantize(folder / "m.onnx", folder / "n.onnx", calibration=folder / "m.calib", scheme=same)
    assert result.plan.stored and calibrated.plan.stored == result.plan.stored


def test_one_name_is_one_thing(made, tmp_path):
    folder, data = made
    found = qtool.sensitivity(folder / "m.onnx", data, calibration=folder / "m.calib", views="alone")
    assert found.views == ("alone",)
    assert qtool.merge(folder / "m.calib", tmp_path / "n.calib").statistics.samples == len(data["x"])


def test_a_message_is_told_as_it_was_written_wherever_it_goes():
    error = VerificationError(f"leave it float with {arg('exclude', 'conv')}")
    assert error.args == (str(error),) == ("leave it float with exclude='conv'",)
    again = pickle.loads(pickle.dumps(error))
    assert again.worded(lambda name, value: f"--{name} {value}") == "leave it float with --exclude conv"


def test_the_command_line_names_options_where_verification_fails(made, tmp_path, monkeypatch, capsys):
    folder, _ = made

    def fail(*_):
        raise VerificationError(f"leave it float with {arg('exclude', 'conv')}")

    monkeypatch.setattr("qtool.pipeline.verify._verified", fail)
    with pytest.raises(SystemExit) as ended:
        main(["quantize", str(folder / "m.onnx"), "--calibration", str(folder / "m.calib"), "-o", str(tmp_path / "q")])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "leave it float with --exclude conv" in said
