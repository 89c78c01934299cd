"""`--provider`: what onnxruntime is asked for, what is refused, and that nothing runs elsewhere quietly.

What a device computes is tested where there is one; elsewhere onnxruntime's sessions are stood in for by such that
note what they are asked for and compute on the CPU.
"""

import datetime
import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner

import qtool
from qtool.cli import app
from qtool.core.compute import PROVIDERS
from qtool.core.errors import DataError, ModelError, UsageError
from qtool.core.numerics.calibrators import MSE, Max
from qtool.graph import model_io
from qtool.graph.quantizers import has_quantizers
from qtool.report.evaluation import evaluation_markdown, evaluation_text
from qtool.report.junit import Taken, evaluation_junit
from qtool.report.tune import tuned_text
from qtool.runtime.session import Session
from tests.support.places import SHIPPED

MODEL, CALIB, EVAL = (
    str(SHIPPED / "digits_cnn.onnx"),
    str(SHIPPED / "digits_calib.npz"),
    str(SHIPPED / "digits_eval.npz"),
)
CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
FLOAT32 = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
NO_DEVICE = (
    "/ort/cuda_call.cc:154 void CudaCall(int) [with THRW = true] /ort/cuda_call.cc:146 void CudaCall(int) CUDA failure "
    "100: no CUDA-capable device is detected ; GPU=-1 ; hostname=secret ; line=355 ; expr=cudaSetDevice(0);"
)


@dataclass
class Machine:
    """What is asked of onnxruntime. given: the providers of all sessions, None: as asked for; raised: instead."""

    asked: list[SimpleNamespace] = field(default_factory=list)
    given: list[str] | None = None
    raised: Exception | None = None

    def session(self, source, options, *, providers, enable_fallback=1):
        self.asked.append(
            SimpleNamespace(
                source=source, providers=providers, fallback=enable_fallback, exact=options.use_deterministic_compute
            )
        )
        elsewhere = providers[0][0] != CPU
        if elsewhere and self.raised is not None:
            raise self.raised
        return _Elsewhere(_REAL(source, options, providers=[CPU]), self.given or [name for name, _ in providers])

    @property
    def devices(self) -> list[list[tuple[str, dict[str, str]]]]:
        """The providers of the sessions that were not for the CPU."""
        return [call.providers for call in self.asked if call.providers[0][0] != CPU]


_REAL = ort.InferenceSession


class _Elsewhere:
    """A session that says that it runs on the providers that it was asked for."""

    def __init__(self, session, providers):
        self._session, self._providers = session, providers

    def get_providers(self):
        return self._providers

    def get_provider_graph_assignment_info(self):
        counts = {self._providers[0]: 3, self._providers[-1]: 1}
        return [SimpleNamespace(ep_name=name, get_nodes=lambda n=n: [None] * n) for name, n in counts.items()]

    def __getattr__(self, name):
        return getattr(self._session, name)


@pytest.fixture
def machine(monkeypatch) -> Machine:
    found = Machine()
    monkeypatch.setattr(ort, "InferenceSession", found.session)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    return found


@pytest.fixture(scope="module")
def int8(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "trt.onnx"
    qtool.quantize(MODEL, path, data=CALIB, samples=8, target="tensorrt", calibrator="max", bias_correction="off")
    return path


@pytest.mark.parametrize(("provider", "wanted"), [("cuda", CUDA), ("tensorrt", TENSORRT)])
@pytest.mark.parametrize(
    "words",
    [
        ("calibrate", "m.onnx", "--data", "good.npz", "-o", "c"),
        ("quantize", "m.onnx", "--data", "good.npz", "-o", "q", "--save-plan", "p"),
        ("eval", "m.onnx", "m.onnx", "--data", "good.npz", "--json", "e"),
        ("tune", "m.onnx", "--data", "good.npz", "-o", "t"),
    ],
)
def test_a_provider_that_onnxruntime_lacks_is_refused(refused, monkeypatch, words, provider, wanted):
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    line = refused(*words, "--provider", provider, says=[wanted, ort.__version__, "onnxruntime-gpu"])
    assert ("pip install tensorrt" in line) == (provider == "tensorrt")


def test_unknown_names_are_refused(tmp_path):
    for call in (
        lambda: qtool.calibrate(MODEL, CALIB, tmp_path / "c", provider="gpu"),
        lambda: qtool.quantize(MODEL, tmp_path / "q", data=CALIB, provider="gpu"),
        lambda: qtool.evaluate(MODEL, MODEL, EVAL, provider="gpu"),
        lambda: qtool.tune(MODEL, EVAL, tmp_path / "t", provider="gpu"),
    ):
        with pytest.raises(UsageError, match="unknown provider 'gpu'; choose one of cpu, cuda, tensorrt"):
            call()
    assert list(tmp_path.iterdir()) == []
    answer = CliRunner().invoke(app, ["calibrate", MODEL, "--data", CALIB, "--provider", "gpu"])
    assert answer.exit_code == 2


def test_cpu_is_the_default(tmp_path):
    for name, words in (("a", []), ("b", ["--provider", "cpu"])):
        command = ["calibrate", MODEL, "--data", CALIB, "--samples", "16", "-o", str(tmp_path / name)]
        assert CliRunner().invoke(app, [*command, *words]).exit_code == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    plain, explicit = (qtool.evaluate(MODEL, MODEL, EVAL, samples=8, **more) for more in ({}, {"provider": "cpu"}))
    assert plain.to_dict() == explicit.to_dict()
    assert plain.to_dict()["provider"] == "cpu" and plain.to_dict()["candidates"][0]["nodes"] == {}
    assert "provider" not in evaluation_text(plain)


def test_the_cpu_is_asked_for_as_ever(machine):
    Session(MODEL)
    (call,) = machine.asked
    assert (call.providers, call.fallback, call.exact) == ([(CPU, {})], 1, False)


def test_cuda_is_asked_for_float32_and_the_same_numbers_every_time(machine):
    session = Session(MODEL, provider="cuda")
    (call,) = machine.asked
    assert call.providers == [(CUDA, FLOAT32), (CPU, {})]
    assert (call.fallback, call.exact) == (0, True)
    assert session.nodes == ((CUDA, 3), (CPU, 1))


def test_tensorrt_is_told_of_the_grids_in_the_model_alone(machine, int8):
    for model, integer in ((MODEL, "False"), (str(int8), "True"), (int8.read_bytes(), "True")):
        Session(model, provider="tensorrt")
        first, *others = machine.asked[-1].providers
        assert first == (
            TENSORRT,
            {"trt_fp16_enable": "False", "trt_int8_enable": integer, "trt_engine_cache_enable": "False"},
        )
        assert others == [(CUDA, FLOAT32), (CPU, {})]


def test_tensorrt_gets_the_weights_inside_of_the_model(machine):
    model = model_io.load(MODEL).model
    serialized = model_io.serialize(model)
    assert serialized.tensors
    for provider, inside in (("tensorrt", True), ("cuda", False)):
        session = Session(serialized, provider=provider)
        handed = onnx.load_from_string(machine.asked[-1].source)
        assert all(t.data_location != onnx.TensorProto.EXTERNAL for t in handed.graph.initializer) == inside
        (expected,) = Session(MODEL).run(x := _input(session)).values()
        (found,) = session.run(x).values()
        assert np.array_equal(found, expected)


def _input(session: Session) -> dict[str, np.ndarray]:
    (spec,) = session.inputs
    shape = [d if isinstance(d, int) else 1 for d in spec.shape or ()]
    return {spec.name: np.linspace(0.0, 1.0, int(np.prod(shape)), dtype=np.float32).reshape(shape)}


def test_quantizers_are_found_in_bodies_too():
    scale = onnx.helper.make_tensor("s", onnx.TensorProto.FLOAT, [], [0.5])
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy")
    inner = [
        onnx.helper.make_node("QuantizeLinear", ["x", "s"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "s"], ["z"]),
    ]
    z = onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [2])
    body = onnx.helper.make_graph(inner, "body", [], [z])
    branch = onnx.helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    condition = onnx.helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, [])
    graph = onnx.helper.make_graph([branch], "g", [condition, x], [y], [scale])
    assert has_quantizers(onnx.helper.make_model(graph).SerializeToString())
    plain = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    assert not has_quantizers(onnx.helper.make_model(plain).SerializeToString())


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_quiet_fallback_is_refused(machine, refused, provider):
    machine.given = [CPU]
    for words in (
        ("calibrate", "m.onnx", "--data", "good.npz", "-o", "c"),
        ("eval", "m.onnx", "m.onnx", "--data", "good.npz", "--json", "e"),
        ("tune", "m.onnx", "--data", "good.npz", "-o", "t"),
    ):
        refused(*words, "--provider", provider, says=[f"provider {provider}", "cannot use", "it needs an NVIDIA GPU"])


def test_a_device_that_fails_is_no_fault_of_the_model(machine, refused):
    machine.raised = RuntimeError(NO_DEVICE)
    line = refused("eval", "m.onnx", "m.onnx", "--data", "good.npz", "--provider", "cuda", says=["cannot use"])
    assert "secret" not in line and "CudaCall" not in line and "m.onnx" not in line


def test_a_model_that_the_provider_refuses_is_named(machine, monkeypatch):
    monkeypatch.setattr("qtool.runtime.providers._missing_library", lambda _: None)
    machine.raised = RuntimeError("TensorRT EP could not build engine")
    with pytest.raises(ModelError, match=r"digits_cnn.onnx: .* with provider tensorrt: TensorRT EP could not build"):
        Session(MODEL, provider="tensorrt")


@pytest.mark.usefixtures("machine")
def test_a_device_that_fails_in_a_run_is_told_briefly(monkeypatch):
    session = Session(MODEL, provider="cuda")

    def fail(*_):
        raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : void f() CUDA failure 2: out of memory ; GPU=0 ; line=3")

    monkeypatch.setattr(session._session, "run", fail, raising=False)
    with pytest.raises(DataError, match=r"on this data: CUDA failure 2: out of memory$"):
        session.run(_input(session))


def test_the_float_model_is_calibrated_there(machine, tmp_path):
    here = qtool.calibrate(MODEL, CALIB, tmp_path / "here", samples=16)
    assert machine.devices == []
    qtool.calibrate(MODEL, CALIB, tmp_path / "there", samples=16, provider="cuda")
    assert machine.devices == [[(CUDA, FLOAT32), (CPU, {})]]
    # these fakes compute on the CPU: the statistics are the same, with blocked layouts and without
    assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()
    assert here.statistics.samples == 16


def test_the_channels_of_an_equalisation_are_measured_there(machine):
    qtool.calibrate(MODEL, CALIB, samples=4, equalize=True, provider="cuda")
    assert [providers[0][0] for providers in machine.devices] == [CUDA] * 2


def test_every_model_is_evaluated_there_and_the_reports_say_so(machine, int8):
    result = qtool.evaluate(MODEL, int8, EVAL, samples=8, latency=True, latency_runs=1, provider="tensorrt")
    assert [providers[0][1]["trt_int8_enable"] for providers in machine.devices] == ["False", "True"]
    assert len(machine.asked) == 2
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["provider"] == "tensorrt"
    assert document["candidates"][0]["nodes"] == {TENSORRT: 3, CPU: 1}
    for text in (evaluation_text(result), evaluation_markdown(result)):
        assert "provider tensorrt" in text
        assert f"trt.onnx: nodes on {TENSORRT} 3, {CPU} 1" in text
    assert '<property name="provider" value="tensorrt" />' in evaluation_junit(
        result, Taken(datetime.datetime.now(datetime.UTC), 1.0)
    )


def test_quantize_calibrates_there_and_proves_on_the_cpu(machine, tmp_path):
    more = {"data": CALIB, "samples": 8, "calibrator": "max", "bias_correction": "off"}
    qtool.quantize(MODEL, tmp_path / "here.onnx", **more)
    qtool.quantize(MODEL, tmp_path / "there.onnx", **more, provider="cuda")
    assert len(machine.devices) == 1
    assert (tmp_path / "here.onnx").read_bytes() == (tmp_path / "there.onnx").read_bytes()


@pytest.mark.usefixtures("machine")
def test_a_provider_without_data_says_nothing(tmp_path):
    qtool.calibrate(MODEL, CALIB, tmp_path / "c", samples=4)
    with pytest.raises(UsageError, match="provider cuda is where data calibrates"):
        qtool.quantize(MODEL, tmp_path / "q", calibration=tmp_path / "c", provider="cuda")
    for words in (["--calibration", str(tmp_path / "c")], ["--dynamic"]):
        answer = CliRunner().invoke(app, ["quantize", MODEL, *words, "--provider", "cpu", "-o", str(tmp_path / "q")])
        assert isinstance(answer.exception, UsageError) and "--provider" in str(answer.exception)
    assert not (tmp_path / "q").exists()


@pytest.mark.parametrize(("provider", "target"), [("tensorrt", "tensorrt"), ("cuda", None)])
def test_tune_judges_there_what_will_run_there(machine, tmp_path, provider, target):
    result = qtool.tune(MODEL, EVAL, tmp_path / "t.onnx", calibrators=[Max()], samples=64, provider=provider)
    assert result.evaluation.provider == provider
    if target is not None:
        assert result.plan.target == target and not result.verification.census
        assert "planned in integer kernels" in tuned_text(result)
    assert result.plan.target == (target or qtool.quantize(MODEL, tmp_path / "q", data=CALIB, samples=4).plan.target)
    # the float model in calibration, in judging and in the report; the candidates in the latter two
    quantized = [providers[0][1].get("trt_int8_enable") for providers in machine.devices].count("True")
    assert len(machine.devices) >= 5 and quantized == (3 if provider == "tensorrt" else 0)


@pytest.mark.long
@pytest.mark.usefixtures("machine")
def test_tune_for_tensorrt_goes_all_the_way(tmp_path):
    result = qtool.tune(
        MODEL, EVAL, tmp_path / "t.onnx", calibrators=[Max(), MSE()], samples=64, min_sqnr=90.0,
        max_float_macs=0.9, provider="tensorrt",
    )  # fmt: skip
    assert not result.met
    assert any("float:" in step.what for step in result.steps)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--provider", "tensorrt", "--target", "x86"], "target x86 is not for provider tensorrt"),
        (["--provider", "cuda", "--target", "tensorrt"], "choose another, or provider='tensorrt'"),
        (["--provider", "tensorrt", "--scheme", "affine"], "only symmetric grids"),
    ],
)
def test_tune_measures_where_the_model_will_run(machine, tmp_path, words, message):
    answer = CliRunner().invoke(app, ["tune", MODEL, "--data", EVAL, "-o", str(tmp_path / "t"), *words])
    assert isinstance(answer.exception, UsageError) and message in str(answer.exception)
    assert machine.asked == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("provider", PROVIDERS[1:])
def test_on_a_real_device(provider, int8, tmp_path):
    try:
        Session(MODEL, provider=provider)
    except UsageError as error:
        pytest.skip(str(error))
    here = qtool.evaluate(MODEL, int8, EVAL, samples=64)
    there = qtool.evaluate(MODEL, int8, EVAL, samples=64, provider=provider)
    nodes = dict(there.candidates[0].nodes)
    assert not nodes or {"cuda": CUDA, "tensorrt": TENSORRT}[provider] in nodes
    assert abs(here.candidates[0].scores[0].value - there.candidates[0].scores[0].value) < 0.05
    for name in ("a", "b"):
        qtool.calibrate(MODEL, CALIB, tmp_path / name, samples=16, provider=provider)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
