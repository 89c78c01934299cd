"""The section "Side by side": qtool, onnxruntime's quantizer and NNCF, each a process in an environment of its own.

All read the same preprocessed samples and run interleaved with a plain float pass, which is the unit of work. Then one
process with one onnxruntime runs all models that came out.
"""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.contenders import PLAIN, Contender, contenders, introduction, plain_command
from bench.environments import INSPECTED, LEARNING, OPTIONAL, REQUIREMENTS, TRAINING, Environment, environment
from bench.judging import judged
from bench.peers.samples import Samples
from bench.process import Outcome, measure
from bench.resnet import resnet50
from bench.standing import Line, ahead, cost, cost_table, interleaved, table
from bench.zoo_models import ZooModel, language_model, vision_models
from qtool.feeds import open_feeds
from qtool.runtime.session import Session

SAMPLES = 64
SECONDS = 300
MANY = 200
NAMES = ("mobilenetv2", "squeezenet1_1", "mlperf_resnet8", "mlperf_kws", "ultraface_rfb320", "minilm_sst2", "resnet50")

Environments = Mapping[str, Environment]


def side_by_side(zoo: Path, folder: Path, only: list[str] | None, rounds: int, peers: Sequence[str]) -> str:
    """The section's text."""
    elsewhere = (*LEARNING, *INSPECTED, *TRAINING, *OPTIONAL)
    homes = {name: environment(name) for name in REQUIREMENTS if name not in elsewhere or name in peers}
    for name in ("qtool", "onnxruntime"):
        if homes[name].failure is not None:
            sys.exit(f"no environment for {name}: {homes[name].failure}")
    every = (*vision_models(zoo), language_model(zoo), _generated(zoo, folder))
    models = [model for model in every if model.name in (only or NAMES)]
    parts = ["## Side by side", "", introduction(homes, SAMPLES, rounds, SECONDS), ""]
    for model in models:
        text = _compared(model, homes, folder / f"{model.name} aside", rounds)
        parts += [f"### {model.name}, side by side", "", text, ""]
    for model in (model for model in models if model.name == "mobilenetv2"):
        parts += [_MANY, "", _costs(model, homes, folder / "many"), ""]
    return "\n".join(parts)


def _generated(zoo: Path, folder: Path) -> ZooModel:
    """ResNet-50 with random weights: few samples are enough to compare costs, speed and SQNR."""
    pictures = zoo / "imagenet" / "calib", zoo / "imagenet" / "eval"
    file = resnet50(folder / "resnet50.onnx")
    return ZooModel("resnet50", file, *pictures, "imagenet", "sqnr", calibrate_with=16, evaluate_with=32)


_MANY = f"""### {MANY} samples

MobileNetV2, only the cost, one round."""


def _compared(model: ZooModel, homes: Environments, folder: Path, rounds: int) -> str:
    samples = stored(samples_of(model, model.calibration, model.calibrate_with or SAMPLES), folder / "samples")
    entries = contenders(homes, transformer=model.trim is not None)
    lines, found = _run_all(model, entries, homes, samples, folder, rounds)
    lines = judged(model, lines, {entry.name: folder / f"{entry.name}.onnx" for entry in entries})
    own = next(line for line in lines if line.name == "qtool")
    peers = [line for line in lines if line.name not in (PLAIN, *(e.name for e in entries if e.environment == "qtool"))]
    seconds = f"The plain pass took {found:.1f} s, {len(Samples(samples))} samples."
    return "\n\n".join([table(lines), f"{ahead(own, peers)} {seconds}"])


def _costs(model: ZooModel, homes: Environments, folder: Path) -> str:
    """More samples: calibration pictures, and pictures of the evaluation set behind them."""
    more = [*samples_of(model, model.calibration, MANY), *samples_of(model, model.evaluation, MANY)][:MANY]
    samples = stored(more, folder / "samples")
    entries = contenders(homes, transformer=False)
    lines, seconds = _run_all(model, entries, homes, samples, folder, rounds=1)
    return f"{cost_table(lines)}\n\nThe plain pass took {seconds:.1f} s."


def samples_of(model: ZooModel, data: Path, count: int) -> list[Mapping[str, np.ndarray]]:
    """The first so many samples of a model's data, as its preprocessing makes them."""
    feeds = open_feeds(data, Session(model.model).inputs, preprocess=model.preprocess, trim=model.trim, samples=count)
    return [batch.inputs for batch in feeds]


def stored(samples: Iterable[Mapping[str, np.ndarray]], folder: Path) -> Path:
    """The folder, with a file for each sample as the peers read them."""
    folder.mkdir(parents=True)
    for index, sample in enumerate(samples):
        arrays: dict[str, Any] = dict(sample)
        np.savez(folder / f"{index:05}.npz", **arrays)
    return folder


def _run_all(
    model: ZooModel, entries: Iterable[Contender], homes: Environments, samples: Path, folder: Path, rounds: int
) -> tuple[list[Line], float]:
    """A line for the plain pass and each tool, in order, and the seconds that the last plain pass took."""
    memory = _memory_limit()
    unit = plain_command(homes["onnxruntime"], model.model, samples)
    commands: dict[str, Callable[[], Outcome]] = {PLAIN: lambda: measure(unit, seconds=SECONDS)}
    for entry in entries:
        home = homes[entry.environment]
        words = entry.command(home, model.model, samples, folder / f"{entry.name}.onnx")
        commands[entry.name] = _attempt(words, home, memory, entry.variables)

    def tell(name: str, outcome: Outcome) -> None:
        said = outcome.failure or f"{outcome.wall:.1f} s, CPU {outcome.cpu:.1f} s, {outcome.peak_kib / 1024:.0f} MiB"
        print(f"{model.name}: {name}: {said}", file=sys.stderr)

    found = interleaved(commands, rounds, tell)
    plain = found[PLAIN]
    if any(outcome.failure for outcome in plain):
        sys.exit(f"{model.name}: the plain pass failed: {plain[-1].failure}")
    lines = [Line(name, cost(runs, plain), None, runs[-1].failure) for name, runs in found.items()]
    return lines, plain[-1].wall


def _attempt(
    words: list[object], home: Environment, memory: int, variables: Mapping[str, str]
) -> Callable[[], Outcome]:
    if home.failure is not None:
        failed = Outcome(0.0, 0.0, 0, f"no environment: {home.failure}")
        return lambda: failed
    return lambda: measure(words, seconds=SECONDS, memory=memory, variables=variables)


def _memory_limit() -> int:
    """Three quarters of the machine's memory, so that a tool that wants it all fails alone."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4 * 3
