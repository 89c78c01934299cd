"""Execution providers: what `provider` names, what onnxruntime is asked for, and whether it was given.

onnxruntime lists a provider as available where the package was built with it, and computes on the CPU, with no
more than a line of log, where the provider's libraries or the device are not there. Nothing here does that quietly.

Sources: onnxruntime `capi/onnxruntime_inference_collection.py` (fallback), `python/onnxruntime_pybind_state.cc` (how
options are read), `core/providers/cuda/cuda_execution_provider_info.cc`, and its page on the TensorRT provider.
"""

import ctypes
import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from qtool.core.compute import check_provider
from qtool.core.concurrency import without_prints
from qtool.core.errors import UsageError

_WARNING, _FATAL = 2, 4
_RECORD_NODES = "session.record_ep_graph_assignment_info"
Options = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Provider:
    """One choice of an execution provider: what it is called, and what onnxruntime is asked for.

    execution: onnxruntime's execution providers with their options, the one that is meant first; the others take the
        nodes that it does not.
    explicit: options of the first for a model with QuantizeLinear and DequantizeLinear.
    binary: what its library is called behind `onnxruntime_providers_`; None where it is part of onnxruntime.
    needs: what has to be installed.
    one_file: it wants the weights inside of the model that it is handed.
    """

    name: str
    execution: tuple[tuple[str, Options], ...]
    explicit: Options
    binary: str | None = None
    needs: str = ""
    one_file: bool = False

    @property
    def wanted(self) -> str:
        """The name that onnxruntime gives the execution provider that is meant."""
        return self.execution[0][0]

    def handed_over(self, *, quantized: bool) -> list[tuple[str, dict[str, str]]]:
        """Return the argument `providers` of an InferenceSession; `quantized`: the model has Q/DQ."""
        first, *others = [(name, dict(options)) for name, options in self.execution]
        return [(first[0], {**first[1], **(self.explicit if quantized else {})}), *others]


_CPU: tuple[str, Options] = ("CPUExecutionProvider", {})
# float is float32, not TF32; no algorithm is chosen by timing it, so that the same input gives the same numbers
_CUDA = ("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"})
# said, because what is not said is taken from ORT_TENSORRT_* in the environment; only True and False are understood
_TENSORRT = (
    "TensorrtExecutionProvider",
    {"trt_fp16_enable": "False", "trt_int8_enable": "False", "trt_engine_cache_enable": "False"},
)
_CUDA_NEEDS = "an NVIDIA GPU with its driver, CUDA and cuDNN (pip install 'onnxruntime-gpu[cuda,cudnn]')"
_TENSORRT_NEEDS = f"{_CUDA_NEEDS} and TensorRT (pip install tensorrt, with its libraries' folder in LD_LIBRARY_PATH)"

_TABLE = {
    "cpu": Provider("cpu", (_CPU,), {}),
    "cuda": Provider("cuda", (_CUDA, _CPU), {}, "cuda", _CUDA_NEEDS),
    "tensorrt": Provider(
        "tensorrt",
        (_TENSORRT, _CUDA, _CPU),
        # without it TensorRT refuses Q/DQ; with it, it refuses a model that has none, for lack of scales
        {"trt_int8_enable": "True"},
        "tensorrt",
        _TENSORRT_NEEDS,
        one_file=True,
    ),
}


def find_provider(name: str = "cpu") -> Provider:
    """Return the provider called `name`.

    Raises:
        UsageError: there is no such provider, or this onnxruntime was built without it.
    """
    check_provider(name)
    provider = _TABLE[name]
    available = ort.get_available_providers()
    if provider.wanted not in available:
        raise UsageError(
            f"provider {name}: this onnxruntime ({ort.__version__}) has no {provider.wanted}, only "
            f"{', '.join(available)}; pip uninstall onnxruntime: {name} needs {provider.needs}"
        )
    return provider


def start(
    source: str | bytes, options: ort.SessionOptions, provider: Provider, *, quantized: bool
) -> ort.InferenceSession:
    """Start a session that computes where it was asked to; return it, or raise where it would compute elsewhere.

    Raises:
        UsageError: the provider cannot be used on this machine.
        Exception: whatever onnxruntime says of the model.
    """
    if provider.binary is None:
        return ort.InferenceSession(source, options, providers=provider.handed_over(quantized=quantized))
    _preload()
    options.use_deterministic_compute = True
    options.add_session_config_entry(_RECORD_NODES, "1")
    # what fails is said in one line by us
    ort.set_default_logger_severity(_FATAL)
    try:
        # without the fallback, which would print to stdout and go on with another provider, here and in every run
        session = ort.InferenceSession(
            source, options, providers=provider.handed_over(quantized=quantized), enable_fallback=0
        )
    except Exception as error:
        reason = _missing_library(provider.binary) or device_failure(error)
        if reason is None:
            raise
        raise _unusable(provider, reason) from error
    finally:
        ort.set_default_logger_severity(_WARNING)
    found = session.get_providers()
    if not found or found[0] != provider.wanted:
        raise _unusable(
            provider, _missing_library(provider.binary) or f"onnxruntime would compute on {', '.join(found)} instead"
        )
    return session


def node_counts(session: ort.InferenceSession) -> tuple[tuple[str, int], ...]:
    """Return how many nodes each execution provider runs, the most first; empty where onnxruntime does not say."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return ()
    counts: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def device_failure(error: BaseException) -> str | None:
    """Return what CUDA or its libraries say, such as "CUDA failure 2: out of memory"; None for another error."""
    found = re.search(r"\bCU[A-Z]+ failure \d+: [^;]*[^; ]", " ".join(str(error).split()))
    return found and found.group()


def _unusable(provider: Provider, reason: str) -> UsageError:
    return UsageError(
        f"provider {provider.name}: this onnxruntime ({ort.__version__}) cannot use its {provider.wanted} here: "
        f"{' '.join(reason.split())}; it needs {provider.needs}"
    )


@functools.cache
def _preload() -> None:
    """Load the CUDA libraries that are installed as Python packages; prints of what is missing are `start`'s to say."""
    if hasattr(ort, "preload_dlls"):
        with without_prints():
            ort.preload_dlls()


def _missing_library(name: str) -> str | None:
    """Why the driver or the provider's library does not load, in the loader's words; None where they do."""
    folder = Path(ort.__file__).parent / "capi"
    driver, pattern = ("nvcuda.dll", "{}.dll") if os.name == "nt" else ("libcuda.so.1", "lib{}.so")
    parts = [str(folder / pattern.format(f"onnxruntime_providers_{part}")) for part in ("shared", name)]
    for library in (driver, *parts):
        try:
            ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            return str(error)
    return None
