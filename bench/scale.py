"""What calibration at scale would take, worked out from rates that are measured here; writes the end of docs/scale.md.

python -m bench.scale
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

from bench.calibration_cost import case_of
from bench.machine import machine
from bench.process import REPOSITORY, Outcome, demand
from qtool.core.records.merging import Sum
from qtool.core.records.parts import Part, Shard
from qtool.core.records.statistics import load_statistics, read_statistics
from qtool.execution.supplies import ModelFile
from qtool.pipeline.calibration.run import block_size
from qtool.report.text import markdown

DOCUMENT = REPOSITORY / "docs" / "scale.md"
MARK = "## An estimate"
CORES = 2
MACHINES = (1, 16, 256)
IMAGENET = 1_281_167
SEQUENCES, TOKENS = 512, 2048
PARAMETERS, LAYERS, WIDTH = 6.7e9, 32, 4096
"""Of a decoder of LLaMA's shape."""
BERT_PARAMETERS, BERT_LAYERS, BERT_WIDTH, BERT_TOKENS = 85e6, 12, 768, 128
"""Of the layers, without the embeddings, which cost no arithmetic."""
SIZE_RATIO = 1.16
"""Peak memory over the model's size: tests/graph/test_large.py, the slow test."""
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Rate:
    """CPU seconds to start and of a sample, and seconds to merge a block where the results are collected."""

    start: float
    sample: float
    merge: float


def main() -> None:
    """Measure, work out, write."""
    with tempfile.TemporaryDirectory(prefix="qtool-bench-") as name:
        folder = Path(name)
        rates = {
            "MobileNetV2": measured("mobilenetv2", folder, 100, 300),
            "ResNet-50": measured("resnet", folder, 20, 60),
            "BERT-base": measured("bert", folder, 8, 40),
        }
        digest = digest_rate(folder / "bert.onnx")
    before, _, _ = DOCUMENT.read_text(encoding="utf-8").partition(MARK)
    DOCUMENT.write_text(before + estimate(rates, digest), encoding="utf-8")


def measured(model: str, folder: Path, few: int, many: int) -> Rate:
    """From whole processes over few and many samples, in turns; the first writes what is merged."""
    output = folder / f"{model}.calib"
    runs: dict[int, list[Outcome]] = {few: [], many: []}
    for _ in range(ROUNDS):
        for samples, row in runs.items():
            case = case_of(model, folder, samples)
            line = [sys.executable, "-m", "qtool", "calibrate", case.model, "--data", case.data, "-q", "-o", output]
            line += ["--threads", 1]
            line += ["--preprocess", case.preprocess] if case.preprocess is not None else []
            row.append(demand(line))
    low, high = (statistics.median(run.cpu for run in row) for row in runs.values())
    sample = (high - low) / (many - few)
    return Rate(low - few * sample, sample, merging(output))


def merging(file: Path) -> float:
    """Seconds to read the statistics of a block and add them."""
    part = Part(Shard(), ((0, 1),), complete=False, settings="", origin="", rows=())
    whole = load_statistics(file)
    data = replace(whole, examples=(), part=part).to_bytes()
    total = Sum(read_statistics(BytesIO(data), "a block"))
    seconds = []
    for n in range(1, 20):
        begin = time.perf_counter()
        found = read_statistics(BytesIO(data), "a block")
        total.add(replace(found, part=replace(part, ranges=((n, n + 1),))))
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def digest_rate(model: Path) -> float:
    """Bytes a second at which a model is identified."""
    begin = time.perf_counter()
    ModelFile.of(model)
    return model.stat().st_size / (time.perf_counter() - begin)


def work(parameters: float, layers: int, width: int, tokens: int) -> float:
    """Floating-point operations of one sequence: all weights, and the two products of attention."""
    return 2 * parameters * tokens + 4 * layers * width * tokens**2


def duration(rate: Rate, samples: int, machines: int) -> float:
    """Seconds on so many machines: blocks are counted side by side, and merged one after the other meanwhile."""
    workers = machines * CORES
    blocks = -(-samples // block_size(samples, workers))
    return rate.start + max(-(-samples // workers) * rate.sample, blocks * rate.merge)


def estimate(rates: dict[str, Rate], digest: float) -> str:
    """The section."""
    shown = [
        [name, f"{rate.start:.2f}", f"{1000 * rate.sample:.1f}", f"{1000 * rate.merge:.0f}"]
        for name, rate in rates.items()
    ]
    flops = work(BERT_PARAMETERS, BERT_LAYERS, BERT_WIDTH, BERT_TOKENS) / rates["BERT-base"].sample
    size = 4 * PARAMETERS
    decoder = Rate(
        rates["BERT-base"].start + size / digest,
        work(PARAMETERS, LAYERS, WIDTH, TOKENS) / flops,
        rates["BERT-base"].merge * LAYERS / BERT_LAYERS,
    )
    cases: Sequence[tuple[str, Rate, int]] = (
        ("ImageNet's 1.28 million pictures, MobileNetV2", rates["MobileNetV2"], IMAGENET),
        ("the same, ResNet-50", rates["ResNet-50"], IMAGENET),
        (f"{SEQUENCES} sequences of {TOKENS} tokens, decoder of 7 billion parameters", decoder, SEQUENCES),
    )
    rows = [[name, *(spoken(duration(rate, samples, n)) for n in MACHINES)] for name, rate, samples in cases]
    machines = [f"{n} machine{'s' if n > 1 else ''}" for n in MACHINES]
    return TEXT.format(
        mark=MARK,
        machine=machine(),
        rounds=ROUNDS,
        sentence=BERT_TOKENS,
        rates=markdown(["model", "start, CPU s", "a sample, CPU ms", "merging a block, ms"], shown),
        flops=flops / 1e9,
        digest=digest / 1e9,
        cores=CORES,
        table=markdown(["calibration", *machines], rows),
        parameters=PARAMETERS / 1e9,
        size=size / 1e9,
        layers=LAYERS,
        width=WIDTH,
        work=work(PARAMETERS, LAYERS, WIDTH, TOKENS) / 1e12,
        memory=SIZE_RATIO * size / 1e9,
        ratio=SIZE_RATIO,
    )


TEXT = """{mark}

Written by `python -m bench.scale` on {machine}.

Measured, of `qtool calibrate --threads 1` (medians of {rounds} rounds; pictures are read and decoded; the ResNet-50
and the BERT-base have random weights; BERT-base reads {sentence} tokens a sentence):

{rates}

BERT-base is {flops:.0f} GFLOP/s of one core, observation included; models are identified (SHA-256) at {digest:.1f}
GB/s. Worked out from these, not run, for machines of {cores} cores like this one with `--cluster`:

{table}

The decoder is {parameters:.1f} billion float32 weights, {size:.0f} GB, in {layers} layers of {width}: {work:.0f}
TFLOP a sequence. Each worker process needs {memory:.0f} GB ({ratio} times the model, by `tests/graph/test_large.py`),
so one process with threads on each machine, and the model on a file system that all see. Left out: the time to read it
over a network, and to start the machines. The largest model that was really calibrated is the one of that test, 2.4
GB.

The process that collects merges one block at a time. Where that is the limit (few operations a sample, hundreds of
workers), `--shard K/N` on each machine has none: N files are merged at the end.
"""


def spoken(seconds: float) -> str:
    """In the unit that reads well."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


if __name__ == "__main__":
    main()
