"""How a call computes, as one value: what it refuses, and what of it a worker is sent."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

import qtool
from qtool.core.compute import HERE, PROVIDERS, Compute
from qtool.core.errors import UsageError
from qtool.core.progress import silent


def test_by_default_one_thread_of_this_process_on_the_cpu():
    assert Compute() == HERE == Compute(threads=1, provider="cpu", executor=None, progress=silent)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_known_provider_need_not_be_there(provider):
    assert Compute(provider=provider).provider == provider


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"threads": 0}, "threads=0: give 1 or more"),
        ({"threads": -1}, "threads=-1"),
        ({"provider": "gpu"}, "unknown provider 'gpu'; choose one of cpu, cuda, tensorrt"),
    ],
)
def test_what_is_refused(options, says):
    with pytest.raises(UsageError, match=says):
        Compute(**options)


def test_a_worker_computes_alike_by_itself():
    with ThreadPoolExecutor(1) as executor:
        sent = Compute(3, "cuda", executor, lambda _step, _done, _total: None).in_worker()
    assert pickle.loads(pickle.dumps(sent)) == Compute(3, "cuda")


@pytest.mark.parametrize("options", [{"threads": 0}, {"provider": "gpu"}])
def test_every_function_refuses_it_before_it_reads_a_file(options, tmp_path):
    """The provider of `sensitivity` is always the CPU."""
    calls = {
        "calibrate": lambda **given: qtool.calibrate("none.onnx", "none.npz", **given),
        "quantize": lambda **given: qtool.quantize("none.onnx", tmp_path / "q.onnx", data="none.npz", **given),
        "evaluate": lambda **given: qtool.evaluate("none.onnx", "none.onnx", "none.npz", **given),
        "tune": lambda **given: qtool.tune("none.onnx", "none.npz", tmp_path / "q.onnx", **given),
        "sensitivity": lambda **given: qtool.sensitivity("none.onnx", "none.npz", calibration="none.calib", **given),
    }
    if "provider" in options:
        del calls["sensitivity"]
    for call in calls.values():
        with pytest.raises(UsageError, match=r"threads=0|unknown provider"):
            call(**options)
