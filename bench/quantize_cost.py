"""What `qtool quantize` costs from a calibration file, its verification included: whole processes, the defaults.

    python -m bench.quantize_cost [--model mobilenetv2 bert] [--rounds 3] [--cores N]

Prints a table: medians of wall time, CPU time and peak memory, and, to scale, of a process that loads the float model
and runs it on the eight samples that verification runs it on. Both are interleaved. MobileNetV2 is calibrated on 100
pictures of the zoo; BERT-base (random weights) on 48 sentences of 43 to 128 tokens, padded to 128.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from bench.calibration_cost import case_of
from bench.machine import machine
from bench.process import Outcome, demand
from qtool.pipeline.verify.original import CHECKED
from qtool.report.text import markdown

SAMPLES = {"mobilenetv2": 100, "bert": 48}
HEAD = ["model", "cores", "s", "CPU s", "peak, MB", "float load and run, s", "its CPU s", "its peak, MB"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SAMPLES, nargs="+", default=list(SAMPLES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, help="let processes use so many alone")
    options = parser.parse_args()
    if options.cores is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    with tempfile.TemporaryDirectory(prefix="qtool-bench-") as folder:
        rows = [quantize_cost(model, Path(folder), options.rounds) for model in options.model]
    print(machine())
    print(markdown(HEAD, rows))


def quantize_cost(model: str, folder: Path, rounds: int) -> list[str]:
    """The row of one model, under `HEAD`; `folder` takes what is made."""
    case, few = case_of(model, folder, SAMPLES[model]), case_of(model, folder, CHECKED)
    preprocess = [] if case.preprocess is None else ["--preprocess", case.preprocess]
    qtool, calibration = [sys.executable, "-m", "qtool"], folder / f"{model}.calib"
    demand([*qtool, "calibrate", case.model, "--data", case.data, *preprocess, "-o", calibration, "-q"])
    ours = [*qtool, "quantize", case.model, "--calibration", calibration, "-o", folder / f"{model}.int8.onnx", "-q"]
    plain = [sys.executable, "-m", "bench.plain_pass", few.model, few.data, few.preprocess or "-", 1]
    runs = [(demand(ours), demand(plain)) for _ in range(rounds)]
    cores = len(os.sched_getaffinity(0))
    return [model, str(cores), *_medians([a for a, _ in runs]), *_medians([b for _, b in runs])]


def _medians(outcomes: list[Outcome]) -> list[str]:
    wall, cpu = (statistics.median(getattr(o, name) for o in outcomes) for name in ("wall", "cpu"))
    return [f"{wall:.1f}", f"{cpu:.1f}", f"{statistics.median(o.peak_kib for o in outcomes) * 1024 / 1e6:.0f}"]


if __name__ == "__main__":
    main()
