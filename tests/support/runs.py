"""Prepare or quantise a small model, and look at the result with onnxruntime alone."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

import qtool
from qtool.core.numerics.sqnr import signal_to_noise
from qtool.core.records.options import Scheme
from qtool.core.records.results import Quantized
from qtool.graph import model_io
from qtool.graph.optimized import ExecutedNode
from qtool.pipeline.prepare import Prepared, prepare
from qtool.runtime.census import take_census
from qtool.runtime.session import Session
from qtool.targets.kernels import COMPUTING
from qtool.targets.tables import TARGETS
from tests.support.patterns import Net

Arrays = dict[str, np.ndarray]
Build = Callable[[Net], str | tuple[str, ...]]


@dataclass(frozen=True)
class Run:
    """What was written, the optimised graph's operators, and the outputs of the three executions."""

    result: Quantized
    model: onnx.ModelProto
    kernels: dict[str, int]
    nodes: tuple[ExecutedNode, ...]
    optimized: Arrays
    plain: Arrays
    exact: Arrays

    @property
    def edges(self) -> tuple[int, int]:
        """How many QuantizeLinear and DequantizeLinear onnxruntime executes."""
        return self.kernels.get("QuantizeLinear", 0), self.kernels.get("DequantizeLinear", 0)

    def constants(self) -> Arrays:
        """The initializers that were written."""
        return {i.name: onnx.numpy_helper.to_array(i) for i in self.model.graph.initializer}


def run(net: Net, outputs: tuple[str, ...], folder: Path, target: str = "x86", scheme: Scheme | None = None) -> Run:
    """Quantise as a user would, then look at it with onnxruntime alone."""
    source = net.save(folder / "float.onnx", *outputs)
    statistics = qtool.calibrate(source, net.samples()).statistics
    quantized = folder / "int8.onnx"
    result = qtool.quantize(
        source,
        quantized,
        calibration=statistics,
        target=target,
        scheme=scheme,
        calibrator="max",
        bias_correction="off",
        smoothing="off",
        optimize_for="size",
        partial=False,
    )
    session, census = take_census(quantized.read_bytes(), TARGETS[target].session)
    fed = net.samples()
    plain = Session(quantized, optimize=False).run(fed)
    return Run(
        result, onnx.load(quantized), census.kernels, census.nodes, session.run(fed), plain, Session(source).run(fed)
    )


_SUFFIX = re.compile(r"(_token_\d+|/duplicated(_token_\d+)?|_nchwc)+$")
_MAKES_FLOAT = ("DequantizeLinear", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM")


def integer_nodes(nodes: Sequence[ExecutedNode], names: Collection[str]) -> list[str]:
    """Those of an optimised graph that stand for one of the names, and compute on 8-bit numbers or move them."""
    in_8_bits: set[str] = set()
    found = []
    for node in nodes:
        reads = node.inputs[0] in in_8_bits if node.inputs else False
        integer = node.op_type in COMPUTING
        if (
            node.op_type == "QuantizeLinear"
            or (integer and node.op_type not in _MAKES_FLOAT)
            or (reads and node.op_type not in _MAKES_FLOAT)
        ):
            in_8_bits.update(node.outputs)
        if _SUFFIX.sub("", node.name) in names and (integer or (reads and node.op_type != "DequantizeLinear")):
            found.append(f"{node.name} ({node.op_type})")
    return found


def steps_apart(run: Run) -> float:
    """The largest distance between optimised and unoptimised outputs, in steps of an 8-bit grid over the output."""
    return max(float(np.abs(run.optimized[o] - a).max() / (np.ptp(a) / 255)) for o, a in run.plain.items())


def sqnr(run: Run) -> float:
    """The int8 model's outputs against the float model's, in dB (the worst output)."""
    return min(signal_to_noise(a, run.optimized[o]) for o, a in run.exact.items())


def prepared(net: Net, outputs: str | tuple[str, ...], folder: Path) -> Prepared:
    """Prepare a model, and check that it computes the same, at two batch sizes where it has a free one."""
    names = (outputs,) if isinstance(outputs, str) else outputs
    source = net.save(folder / "float.onnx", *names)
    loaded = model_io.load(source)
    before = model_io.to_bytes(loaded.model)
    result = prepare(loaded)
    assert model_io.to_bytes(loaded.model) == before
    data = model_io.to_bytes(result.model)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    expected, got = Session(source, optimize=False), Session(data, optimize=False)
    for batch in (1, 3) if isinstance(net.batch, str) else (net.batch,):
        fed = net.samples(batch)
        wanted, found = expected.run(fed), got.run(fed)
        assert list(found) == list(wanted) == list(names)
        for name, array in wanted.items():
            assert np.ptp(array) > 0.0 or array.size == 1
            assert found[name].shape == array.shape and found[name].dtype == array.dtype
            np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5)
    return result


def operators(result: Prepared) -> dict[str, int]:
    """Operator -> how often the prepared graph holds it."""
    return dict(Counter(node.op_type for node in result.model.graph))
