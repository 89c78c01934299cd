"""The tools that the section "Side by side" compares, each with its settings: the lines of its tables."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.environments import REQUIREMENTS, Environment

PLAIN = "float, plain pass"
_NOTHING_SENT = {"NNCF_CI": "1"}  # NNCF's telemetry off


@dataclass(frozen=True, slots=True)
class Contender:
    """A line of the tables.

    options: what stands behind MODEL, samples and output.
    transformer: for transformers alone (True), for other models alone (False), for both (None).
    """

    name: str
    environment: str
    options: tuple[str, ...] = ()
    transformer: bool | None = None

    def command(self, home: Environment, model: Path, samples: Path, output: Path) -> list[object]:
        """The process to run."""
        if self.environment == "qtool":
            threads = os.cpu_count() or 1
            words = [home.programs / "qtool", "quantize", model, "--data", samples, "-o", output, "-q"]
            return [*words, "--threads", threads, *self.options]
        module = f"bench.peers.{self.environment}_quantizer"
        return [home.python, "-m", module, model, samples, output, *self.options]

    @property
    def variables(self) -> Mapping[str, str]:
        """Environment variables of the process."""
        return _NOTHING_SENT if self.environment == "nncf" else {}


_FUSIBLE = ("--preset", "mixed", "--for-onnxruntime")
_CORRECTED = (*_FUSIBLE, "--full-bias-correction")
_PRODUCTS = ("--operators", "MatMul", "Gemm")
CONTENDERS = (
    Contender("qtool", "qtool"),
    Contender("qtool, only max", "qtool", ("--calibrator", "max", "--bias-correction", "off")),
    Contender("onnxruntime min-max", "onnxruntime", transformer=False),
    Contender("onnxruntime percentile", "onnxruntime", ("--method", "percentile"), transformer=False),
    Contender("onnxruntime min-max", "onnxruntime", _PRODUCTS, transformer=True),
    Contender("onnxruntime percentile", "onnxruntime", ("--method", "percentile", *_PRODUCTS), transformer=True),
    Contender("onnxruntime dynamic, no data", "onnxruntime", ("--method", "dynamic"), transformer=True),
    Contender("NNCF", "nncf", transformer=False),
    Contender("NNCF for onnxruntime", "nncf", _FUSIBLE, transformer=False),
    Contender("NNCF for onnxruntime, full correction", "nncf", _CORRECTED, transformer=False),
    Contender("NNCF", "nncf", ("--transformer",), transformer=True),
    Contender("NNCF, full correction", "nncf", ("--transformer", "--full-bias-correction"), transformer=True),
    Contender("Neural Compressor", "neural_compressor"),
)


def contenders(environments: Collection[str], *, transformer: bool) -> list[Contender]:
    """Those of these environments that take part on such a model, each name once."""
    return [c for c in CONTENDERS if c.environment in environments and c.transformer in (None, transformer)]


def plain_command(home: Environment, model: Path, samples: Path) -> list[object]:
    """The float pass that is the unit of work."""
    return [home.python, "-m", "bench.peers.plain", model, samples]


def introduction(environments: Collection[str], samples: int, rounds: int, seconds: int) -> str:
    """What the tables show and how every tool was called."""
    versions = "; ".join(f"{name} ({', '.join(REQUIREMENTS[name])})" for name in environments)
    return (
        "Every tool is a process in a virtual environment of its own: "
        f"{versions}. It gets the float model and the same {samples} preprocessed samples (fewer where the "
        "text says so), and makes an int8 model of them in one call. CPU work and wall time are those of the whole "
        "process, imports and all, over those of a plain float pass over the same samples in the same "
        f"round (onnxruntime's defaults); medians of {rounds} interleaved rounds. All may use all cores: "
        "onnxruntime and NNCF run the model on all by default, "
        f"qtool has `--threads {os.cpu_count()}`. A process fails where it takes longer than {seconds} s or more than "
        "three quarters of the machine's memory. What came out then runs in one process with one onnxruntime, CPU "
        "provider: speed-up over float (one sample, one thread, interleaved), SQNR and metric on the evaluation set, "
        "and how many convolutions, matrix products and recurrences onnxruntime computes in integers there. "
        "`resnet50` has random weights, so no metric.\n\n"
        "`qtool` is `qtool quantize --data` as it comes: it tries five calibrators with and without bias correction, "
        "and proves the result. `only max` tries nothing (`--calibrator max --bias-correction off`). `onnxruntime` "
        "is `quant_pre_process` and `quantize_static` (QDQ, U8S8, per channel; `MatMul` and `Gemm` of a transformer), "
        "or `quantize_dynamic`. `NNCF` is `nncf.quantize` as its documentation has it; it places Q/DQ pairs for "
        "OpenVINO. `for onnxruntime` helps it to what onnxruntime's kernels take: batch normalisations folded first, "
        "one range a tensor, the mixed preset. `full correction` is `fast_bias_correction=False`."
        + (
            " `Neural Compressor` is `quantize` with `StaticQuantConfig`."
            if "neural_compressor" in environments
            else ""
        )
    )
