"""onnxruntime sessions: the one place that knows onnxruntime's options, types and error messages."""

import ctypes
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from qtool.core.errors import DataError, ModelError, UsageError
from qtool.core.recognition import not_onnx
from qtool.core.records.recipe import FIXED
from qtool.core.tensorspec import InputSpec
from qtool.core.text import in_utf8
from qtool.graph import external
from qtool.graph.loading import check_loadable
from qtool.graph.quantizers import has_quantizers
from qtool.graph.serialized import Serialized
from qtool.runtime.providers import device_failure, find_provider, node_counts, start

_FATAL_ONLY = 4
# of a message, in characters
_BATCH_FIRST = "layout_ == 0"
"""Of the message of its recurrent kernels (`core/providers/cpu/rnn/`)."""
_LONGEST = 400
_FOLDER = "session.model_external_initializers_file_folder_path"
_OPTIMIZED = "session.optimized_model_external_initializers_"
_BFLOAT16 = "tensor(bfloat16)"
_NUMPY_TYPES = {
    "float": np.float32,
    "double": np.float64,
    "float16": np.float16,
    "int8": np.int8,
    "uint8": np.uint8,
    "int16": np.int16,
    "uint16": np.uint16,
    "int32": np.int32,
    "uint32": np.uint32,
    "int64": np.int64,
    "uint64": np.uint64,
    "bool": np.bool_,
    "string": np.object_,
}


class Session:
    """A loaded model, ready to run.

    Args:
        model: a path, a serialised model, or one as bytes.
        threads: intra-op threads; 1 runs in the calling thread and gives the same bits every time.
        optimize: False switches every graph optimisation off, which executes the model as it is written.
        save_optimized: a path where onnxruntime writes the graph that it will really execute.
        save_weights: the name of a file beside it for the large weights of that graph, or of a link.
        config: session configuration entries.
        name: what to call the model in messages.
        provider: where it runs, see `qtool.runtime.providers`.
        profile_to: how the path of a profile begins, which `end_profile` writes.

    `nodes` counts the nodes that each execution provider took, where that is not the CPU's alone to do. `fixed` holds
    the inputs for one value of which alone the model was made, with that value.

    Raises:
        ModelError: onnxruntime cannot load the model.
        UsageError: there is no such provider, or it cannot be used on this machine.
    """

    def __init__(
        self,
        model: str | Path | bytes | Serialized,
        *,
        threads: int = 1,
        optimize: bool = True,
        save_optimized: str | Path | None = None,
        save_weights: str | None = None,
        config: Mapping[str, str] | None = None,
        name: str | None = None,
        provider: str = "cpu",
        profile_to: Path | None = None,
    ) -> None:
        external.forget_files()
        runs_on = find_provider(provider)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _FATAL_ONLY
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if profile_to is not None:
            options.enable_profiling, options.profile_file_prefix = True, in_utf8(profile_to)
        if save_optimized is not None:
            options.optimized_model_filepath = in_utf8(save_optimized)
        if save_weights is not None:
            options.add_session_config_entry(_OPTIMIZED + "file_name", save_weights)
            options.add_session_config_entry(_OPTIMIZED + "min_size_in_bytes", str(external.LARGE))
        for key, value in (config or {}).items():
            options.add_session_config_entry(key, value)
        self.name = name or (str(model) if isinstance(model, str | Path) else "the model")
        if isinstance(model, str | Path):
            check_loadable(Path(model))
        if isinstance(model, Serialized) and runs_on.one_file:
            model = model.joined()
        if isinstance(model, Serialized):
            self._weights = _hand_over(model, options)
            model = model.graph
        try:
            source = model if isinstance(model, bytes) else in_utf8(model)
            quantized = bool(runs_on.explicit) and has_quantizers(source)
            self._session = start(source, options, runs_on, quantized=quantized)
        except UsageError:
            raise
        except Exception as error:
            if isinstance(model, str | Path) and "Protobuf parsing failed" in str(error):
                raise ModelError(f"{self.name}: {not_onnx(model)}") from error
            there = "" if provider == "cpu" else f" with provider {provider}"
            why = _with_remedy(error, _remedy(error))
            raise ModelError(f"{self.name}: onnxruntime cannot load it{there}: {why}") from error
        self.nodes = () if provider == "cpu" else node_counts(self._session)
        self.inputs = [_spec(argument) for argument in self._session.get_inputs()]
        self.output_specs = [_spec(argument) for argument in self._session.get_outputs()]
        self.outputs: list[str] = [spec.name for spec in self.output_specs]
        self.fixed = _fixed(self._session)

    def end_profile(self) -> str:
        """Write the profile, and return its path."""
        return str(self._session.end_profiling())

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the model once on `feeds`, arrays by input name, and return arrays by output name.

        Raises:
            DataError: onnxruntime refuses the arrays, or a layer fails on them.
        """
        return dict(zip(self.outputs, self.run_list(feeds, self.outputs), strict=True))

    def run_list(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        """Run once, and return only the outputs `names`, in their order. Raises `DataError` as `run` does."""
        try:
            found = self._run(list(names), dict(feeds))
        except Exception as error:
            why = _with_remedy(error, "correct the data or the model")
            raise DataError(f"{self.name}: onnxruntime cannot run it on this data: {why}") from error
        return [as_array(one) for one in found]

    def _run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[Any]:
        brain = {spec.name for spec in self._session.get_outputs() if spec.type == _BFLOAT16}
        if not brain.intersection(names):
            found: list[Any] = self._session.run(names, feeds)
            return found
        # onnxruntime has no NumPy type for them
        fed = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
        values = self._session.run_with_ort_values(names, fed)
        return [_from_bfloat16(v) if name in brain else v.numpy() for name, v in zip(names, values, strict=True)]


def kept(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return copies of outputs, for those that outlive their session.

    An output lies in memory that onnxruntime lends, and with it lives all that the session has reserved for its runs.
    """
    return {name: array.copy() for name, array in arrays.items()}


def as_array(found: Any) -> np.ndarray:
    """Return what onnxruntime gives for an output as one array.

    A tensor is one. Of a sequence it is all values behind one another, of a map its values in the order of its keys, of
    a sequence of maps with the same keys (a ZipMap's probabilities) a row each; of an optional that is empty nothing.
    """
    if isinstance(found, np.ndarray):
        return found
    if found is None:
        return np.empty(0, np.float32)
    if isinstance(found, dict):
        return np.array([found[key] for key in sorted(found)])
    if isinstance(found, list):
        if found and all(isinstance(one, dict) and one.keys() == found[0].keys() for one in found):
            return np.stack([as_array(one) for one in found])
        return np.concatenate([as_array(one).reshape(-1) for one in found]) if found else np.empty(0, np.float32)
    return np.asarray(found)


def _from_bfloat16(value: ort.OrtValue) -> np.ndarray:
    """As float32, whose upper half a bfloat16 is."""
    shape = value.shape()
    bits = np.ctypeslib.as_array((ctypes.c_uint16 * math.prod(shape)).from_address(value.data_ptr()))
    return (bits.astype(np.uint32) << 16).view(np.float32).reshape(shape)


def _fixed(session: ort.InferenceSession) -> dict[str, tuple[float, ...]]:
    """What qtool wrote into the metadata; what somebody else wrote is none of it."""
    names = {spec.name for spec in session.get_inputs()}
    found: dict[str, tuple[float, ...]] = {}
    for key, text in session.get_modelmeta().custom_metadata_map.items():
        name = key.removeprefix(FIXED)
        if key.startswith(FIXED) and name in names:
            with suppress(ValueError):
                found[name] = tuple(map(float, text.split(",")))
    return found


def _hand_over(model: Serialized, options: ort.SessionOptions) -> list[ort.OrtValue]:
    """Tell the session where it finds the weights; what is returned must live as long as the session.

    Files are mapped into memory by onnxruntime. What is in memory is given as it lies there; `add_initializer` would
    save the copy that onnxruntime then makes, but ignores what an optimisation makes of the tensor.
    """
    if model.folder is not None:
        options.add_session_config_entry(_FOLDER, in_utf8(model.folder))
    arrays = model.arrays
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
    if values:
        options.add_external_initializers(list(arrays), values)
    return values


def _spec(argument: ort.NodeArg) -> InputSpec:
    element = re.fullmatch(r"tensor\((\w+)\)", argument.type)
    dtype = _NUMPY_TYPES.get(element.group(1), np.object_) if element else np.object_
    shape = argument.shape
    return InputSpec(
        name=argument.name,
        dtype=np.dtype(dtype),
        shape=None if shape is None else tuple(d if isinstance(d, int | str) else None for d in shape),
    )


def _remedy(error: BaseException) -> str:
    """What lets onnxruntime load a model that it refuses; it has recurrent layers for one order of axes alone."""
    if _BATCH_FIRST in str(error):
        return (
            "export its LSTM, GRU and RNN with layout=0, where steps come before examples: with a Transpose in front "
            "of each and one behind it"
        )
    return "give an ONNX model that it loads"


def _with_remedy(error: BaseException, remedy: str) -> str:
    """The message in one line, and what to do; a device that fails says so itself."""
    return one_line(error) if device_failure(error) is not None else f"{one_line(error)}; {remedy}"


def one_line(error: BaseException) -> str:
    """Return an onnxruntime message without its status prefix, its source location and its line breaks."""
    failure = device_failure(error)
    if failure is not None:
        return failure
    # names in it may be of any length
    text = " ".join(str(error)[: 10 * _LONGEST].split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"/\S+\.(?:cc|h):\d+ ", "", text)
    return text[:_LONGEST]
