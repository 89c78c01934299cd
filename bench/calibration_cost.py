"""What calibration costs beside a plain float pass over the same data, both as whole processes, imports and all.

    python -m bench.calibration_cost --model mobilenetv2|resnet|bert [--threads 1 2] [--samples N] [--pairs 3]

Prints a table: medians, over interleaved pairs, of the ratios of wall time and CPU time, and of the difference in peak
memory. MobileNetV2 and ResNet-50 (bench/resnet.py: random weights) read the zoo's pictures; BERT-base (random
weights) reads sentences of 43 to 128 tokens, padded to 128, from a file.
"""

import argparse
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bench.process import demand
from bench.resnet import resnet50
from bench.zoo_models import zoo_folder
from qtool.report.text import markdown
from tests.support.token_models import encoder, sentences

SAMPLES = {"mobilenetv2": 500, "resnet": 500, "bert": 40}
"""Less of BERT-base, which takes a quarter of a second a sentence: so much dearer are imports and loading there."""
HEAD = ["model", "samples", "threads", "time ratio", "CPU time ratio", "more peak memory, MB"]


@dataclass(frozen=True, slots=True)
class Case:
    """A model, its data, and how that is preprocessed."""

    model: Path
    data: Path
    preprocess: str | None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SAMPLES, default="mobilenetv2")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--samples", type=int)
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qtool-bench-") as folder:
        samples = options.samples or SAMPLES[options.model]
        rows = calibration_cost(options.model, Path(folder), options.threads, samples, options.pairs)
    print(markdown(HEAD, rows))


def calibration_cost(model: str, folder: Path, threads: list[int], samples: int, pairs: int) -> list[list[str]]:
    """The rows of the table of one model, under `HEAD`; `folder` takes the data."""
    case = case_of(model, folder, samples)
    rows = []
    for count in threads:
        plain = [sys.executable, "-m", "bench.plain_pass", case.model, case.data, case.preprocess or "-", count]
        ours = [sys.executable, "-m", "qtool", "calibrate", case.model, "--data", case.data]
        ours += ["-o", folder / f"{model}.calib", "--threads", count, "-q"]
        if case.preprocess is not None:
            ours += ["--preprocess", case.preprocess]
        measured = [(demand(plain), demand(ours)) for _ in range(pairs)]
        wall = statistics.median(b.wall / a.wall for a, b in measured)
        cpu = statistics.median(b.cpu / a.cpu for a, b in measured)
        more = statistics.median(b.peak_kib - a.peak_kib for a, b in measured)
        rows.append([model, str(samples), str(count), f"{wall:.2f}", f"{cpu:.2f}", f"{more * 1024 / 1e6:.0f}"])
    return rows


def case_of(model: str, folder: Path, samples: int) -> Case:
    """The model and its data, written to `folder` where they are made."""
    if model == "bert":
        return _bert(folder, samples)
    zoo = zoo_folder()
    if zoo is None:
        sys.exit("no zoo: set QTOOL_ZOO to its folder")
    pictures = folder / f"pictures-{samples}"
    pictures.mkdir(exist_ok=True)
    files = [file for split in ("calib", "eval") for file in sorted((zoo / "imagenet" / split).glob("*.jpg"))]
    for file in files[:samples]:
        link = pictures / f"{file.parent.name}-{file.name}"
        if not link.exists():
            link.symlink_to(file)
    home = zoo / "mobilenetv2"
    if model == "mobilenetv2":
        return Case(home / "model.onnx", pictures, str(home / "preprocess.json"))
    return Case(resnet50(folder / "resnet50.onnx"), pictures, "imagenet")


def _bert(folder: Path, samples: int) -> Case:
    model, data = folder / "bert.onnx", folder / f"bert-{samples}.npz"
    onnx.save(encoder(8.0, layers=12, width=768, heads=12, vocabulary=30522), model)
    rows = sentences(samples, padded=True, longest=128, vocabulary=30522)
    arrays: dict[str, Any] = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    np.savez(data, **arrays)
    return Case(model, data, None)


if __name__ == "__main__":
    main()
