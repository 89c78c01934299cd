"""The section "Other makers": what `qtool inspect` says of int8 models of other makers, and what its remedies bring."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.environments import REQUIREMENTS, Environment, environment
from bench.peers.samples import Samples
from bench.process import measure, shortened
from bench.side_by_side import samples_of, stored
from bench.zoo_models import ZooModel
from qtool.core.errors import QtoolError
from qtool.evaluation.latency import measure_speed
from qtool.report.text import ABSENT, markdown
from qtool.runtime.session import Session

SAMPLES = 16
SECONDS = 1800
TIMED, ROUNDS = 4.0, 300
TRAINED = "a small network"
_TRAINED_ON = "mlperf_resnet8"
_QTOOL = "qtool"
_QUIET = {"NNCF_CI": "1", "OMP_NUM_THREADS": "1"}  # NNCF's telemetry off


@dataclass(frozen=True, slots=True)
class Way:
    """A way to make an int8 model: whose, what it is called, and how its program is called behind MODEL SAMPLES OUTPUT.

    environment: in which `module` of `bench.peers` runs; "qtool" is the command, with these options.
    """

    maker: str
    name: str
    environment: str
    module: str = ""
    options: tuple[str, ...] = ()

    def command(self, home: Environment | None, model: Path, samples: Path, output: Path) -> list[object]:
        """The process to run."""
        if home is None:
            own = [sys.executable, "-m", "qtool", "quantize", model, "--data", samples, "-o", output, "-q"]
            return [*own, *self.options]
        return [home.python, "-m", f"bench.peers.{self.module}", model, samples, output, *self.options]


_ORT = ("onnxruntime", "onnxruntime_quantizer")
_U8S8 = Way("onnxruntime", "static, QDQ, U8S8", *_ORT)
_S8S8 = Way("onnxruntime", "static, QDQ, S8S8 symmetric", *_ORT, ("--signed",))
_OPERATORS = Way("onnxruntime", "static, QOperator, S8S8", *_ORT, ("--signed", "--form", "QOperator"))
_DYNAMIC = Way("onnxruntime", "dynamic", *_ORT, ("--method", "dynamic"))
_NNCF = Way("NNCF", "default", "nncf", "nncf_quantizer")
_NNCF_FUSIBLE = Way(
    "NNCF", "mixed preset, one range a tensor", "nncf", "nncf_quantizer", ("--preset", "mixed", "--for-onnxruntime")
)
_XINT8 = Way("AMD Quark", "XINT8", "quark", "quark_quantizer", ("--config", "XINT8"))
_QUARK = Way("AMD Quark", "U8S8_AAWS", "quark", "quark_quantizer", ("--config", "U8S8_AAWS"))
_MODELOPT = Way("NVIDIA ModelOpt", "int8", "modelopt", "modelopt_quantizer")
_PYTORCH = Way("PyTorch", "trained with Q/DQ", "pytorch", "trained", ("--with", "pytorch"))
_BREVITAS = Way("Brevitas", "QCDQ", "brevitas", "trained", ("--with", "brevitas"))
_OWN = Way("qtool", "default", _QTOOL)
CASES: tuple[tuple[str, Way], ...] = (
    ("mlperf_resnet8", _U8S8),
    ("mlperf_resnet8", _S8S8),
    ("mlperf_resnet8", _OPERATORS),
    ("mlperf_resnet8", _DYNAMIC),
    ("mobilenetv2", _NNCF),
    ("squeezenet1_1", _NNCF),
    ("squeezenet1_1", _XINT8),
    ("squeezenet1_1", _QUARK),
    ("squeezenet1_1", _MODELOPT),
    (TRAINED, _PYTORCH),
    (TRAINED, _BREVITAS),
    ("squeezenet1_1", _OWN),
)
"""Model and way of the lines of the first table."""
REMEDIES: tuple[tuple[str, Way, Way], ...] = (
    ("mlperf_resnet8", _OPERATORS, _U8S8),
    ("mlperf_resnet8", _DYNAMIC, _U8S8),
    ("mobilenetv2", _NNCF, _NNCF_FUSIBLE),
    ("mobilenetv2", _NNCF, _OWN),
    ("squeezenet1_1", _XINT8, _QUARK),
    ("squeezenet1_1", _MODELOPT, _OWN),
    (TRAINED, _PYTORCH, _OWN),
)
"""Model, the way that is slow, and the way that its remedy asks for."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What `inspect` says of a model, and the speed-up that was measured; `failure`: why there is none."""

    found: Mapping[str, Any]
    speedup: float | None
    failure: str | None = None


def other_makers(models: Sequence[ZooModel], folder: Path) -> str:
    """The section's text."""
    wanted = list(dict.fromkeys((*CASES, *((model, way) for model, *ways in REMEDIES for way in ways))))
    homes = {way.environment: environment(way.environment) for _, way in wanted if way.environment != _QTOOL}
    samples, floats = {}, {}
    for model in models:
        if model.name in {_TRAINED_ON, *(name for name, _ in wanted)}:
            taken = samples_of(model, model.calibration, SAMPLES)
            samples[model.name], floats[model.name] = stored(taken, folder / f"{model.name} samples"), model.model
    samples[TRAINED], floats[TRAINED] = samples[_TRAINED_ON], folder / "trained.onnx"
    seen: dict[tuple[str, Way], Seen] = {}
    for name, way in wanted:
        output, home = folder / f"{name} {way.maker} {len(seen)}.onnx", homes.get(way.environment)
        command = way.command(home, floats[name], samples[name], output)
        found = seen[name, way] = _seen(command, home, floats[name], samples[name], output)
        print(name, way.maker, way.name, found.failure or found.speedup, file=sys.stderr, flush=True)
    first = [_row(name, way, seen[name, way]) for name, way in CASES]
    second = [_mended(name, slow, way, seen) for name, slow, way in REMEDIES]
    return "\n".join([
        "## Other makers", "", _text(homes), "",
        markdown(["maker", "how", "model", "speed-up", "the verdict", "to blame"], first, left=(0, 1, 2, 4, 5)),
        "", "What the next step brings that `inspect` names, for slow ones:", "",
        markdown(["model", "maker", "speed-up", "next", "applied", "then"], second, left=(0, 1, 3, 4)), "",
    ])  # fmt: skip


def _text(homes: Mapping[str, Environment]) -> str:
    versions = "; ".join(f"{name} ({', '.join(REQUIREMENTS[name])})" for name in homes)
    return (
        f"Every tool is a process in an environment of its own: {versions}. It gets the float model and the same "
        f"{SAMPLES} samples. `{TRAINED}` has three blocks of convolutions, a residual branch and a linear layer, and "
        "is trained for a few steps with Q/DQ in it, which the tool exports. Then `qtool inspect --float --data "
        "--latency` looks at what came out: its verdict as it stands, and the finding that costs most. Speed-up: over "
        "float, one sample, one thread, the processor's time, medians of interleaved rounds; measured anew, while "
        "`inspect`'s own is in the verdict."
    )


def _seen(command: Sequence[object], home: Environment | None, model: Path, samples: Path, output: Path) -> Seen:
    if home is not None and home.failure is not None:
        return Seen({}, None, f"no environment: {home.failure}")
    made = measure(command, seconds=SECONDS, variables=_QUIET)
    if made.failure is not None:
        return Seen({}, None, made.failure)
    report = output.with_suffix(".json")
    words = ["--float", model, "--data", samples, "--latency", "--json", report, "-q"]
    looked = measure([sys.executable, "-m", "qtool", "inspect", output, *words], seconds=SECONDS)
    if looked.failure is not None:
        return Seen({}, None, looked.failure)
    found = json.loads(report.read_text(encoding="utf-8"))
    try:
        both = [Session(path) for path in (model, output)]
        (_, latency), _ = measure_speed(both, list(Samples(samples)), TIMED, ROUNDS)
    except QtoolError as error:
        return Seen(found, None, shortened(str(error)))
    return Seen(found, latency.speedup)


def _row(model: str, way: Way, seen: Seen) -> list[str]:
    if not seen.found:
        return [way.maker, way.name, model, ABSENT, f"not made: {seen.failure}", ABSENT]
    return [way.maker, way.name, model, _speed(seen), seen.found["verdict"], _blamed(seen)]


def _speed(seen: Seen) -> str:
    return ABSENT if seen.speedup is None else f"{seen.speedup:.2f}"


def _blamed(seen: Seen) -> str:
    findings = seen.found["findings"]
    if not findings:
        return "nothing"
    # what costs accuracy stands first, whatever it takes
    dearest = max(findings, key=lambda one: one["ms_share"] or 0.0)
    share = dearest["ms_share"]
    return str(dearest["rule"]) + ("" if share is None else f", {100 * share:.0f} % of the time")


def _mended(model: str, slow: Way, way: Way, seen: Mapping[tuple[str, Way], Seen]) -> list[str]:
    before, after = seen[model, slow], seen[model, way]
    remedy = before.found.get("next", ABSENT)
    return [model, f"{slow.maker}, {slow.name}", _speed(before), remedy, f"{way.maker}, {way.name}", _speed(after)]
