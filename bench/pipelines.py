"""The section "Pipelines": the examples of this repository, several models and their loop, float beside int8."""

import os
import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import qtool
from bench.process import REPOSITORY
from qtool.core.records.evaluation import Evaluation, ModelResult
from qtool.core.records.results import Quantized
from qtool.core.records.verification import percent
from qtool.feeds import Batch
from qtool.generation.description import Description, read_description
from qtool.generation.pipeline import Pipeline, open_pipeline_data
from qtool.report.text import ABSENT, markdown

_ROUNDS, _TIMED = 9, 20
_HEADER = ["", "metric", "float", "int8", "agreement", "integer", "smaller", "speed-up", "model alone"]


@dataclass(frozen=True, slots=True)
class _Example:
    """A folder of examples/, the pipeline in it, its two sets, and what it does."""

    folder: str
    file: str
    calibration: str
    evaluation: str
    does: str


_EXAMPLES = (
    _Example("translation", "numbers.toml", "calib.jsonl", "eval.jsonl", "encoder-decoder, numbers to words"),
    _Example("speech", "ctc.toml", "speech.py:calibration", "speech.py:evaluation", "CTC, spoken digits"),
    _Example(
        "speech",
        "transducer.toml",
        "speech.py:calibration_features",
        "speech.py:evaluation_features",
        "streaming transducer, spoken digits",
    ),
)


def pipelines(folder: Path) -> str:
    """Return the section's text."""
    rows = [row for example in _EXAMPLES for row in _rows(example, folder)]
    text = (
        "The examples of the repository, each calibrated and evaluated as a pipeline ([generation.md](generation.md)), "
        "on 400 samples. Below a pipeline each model alone in int8. `agreement`: samples of which float and int8 say "
        "the same. `integer`: of the multiply-accumulates of all runs. `speed-up`: of the pipeline, its loop in Python "
        f"included, {_TIMED} samples, one thread, interleaved, median of {_ROUNDS} rounds. `model alone`: what "
        "`quantize` measures."
    )
    return "\n".join(["## Pipelines", "", text, "", markdown(_HEADER, rows), ""])


def _rows(example: _Example, folder: Path) -> list[list[str]]:
    place = folder / f"pipeline-{example.file}"
    shutil.copytree(REPOSITORY / "examples" / example.folder, place)
    before = Path.cwd()
    os.chdir(place)
    try:
        description = read_description(example.file)
        qtool.calibrate_pipeline(example.file, example.calibration)
        made = {
            part.name: qtool.quantize(part.float_model, part.int8_model, calibration=part.calibration)
            for part in description.parts
            if part.int8_model is not None
        }
        found = qtool.evaluate_pipeline(example.file, example.evaluation)
        runs, speedup = _timed(description, example.evaluation)
    finally:
        os.chdir(before)
    whole, *alone = found.candidates
    rows = []
    for index, info in enumerate(found.metrics):
        first = not index
        share = percent(_share(made, runs)) if first else ""
        speed = f"{speedup:.2f}" if first else ""
        rows.append([example.does if first else "", info.name, *_scores(found, whole, index), share])
        rows[-1] += [f"{found.float_model.size_bytes / whole.size_bytes:.1f}" if first else "", speed, ""]
    for result, (name, one) in zip(alone or [whole], made.items(), strict=True):
        scores = _scores(found, result, 0) if alone else [ABSENT] * 3
        rest = [percent(one.verification.integer_share), f"{one.float_size / one.size:.1f}", "", _speed(one)]
        rows.append([f"- {name}", found.metrics[0].name, *scores, *rest])
    return rows


def _scores(found: Evaluation, result: ModelResult, index: int) -> list[str]:
    agreement = ABSENT if result.agreement is None else f"{result.agreement:.4f}"
    return [f"{found.float_model.scores[index].value:.4f}", f"{result.scores[index].value:.4f}", agreement]


def _speed(made: Quantized) -> str:
    speedup = made.timing.speedup
    return ABSENT if speedup is None else f"{speedup:.2f}"


def _share(made: dict[str, Quantized], runs: dict[str, int]) -> float:
    """Of the multiply-accumulates of all runs, what integer kernels do."""
    sums = [
        (runs[name] * one.verification.integer_macs, runs[name] * (one.verification.macs or 0))
        for name, one in made.items()
    ]
    return sum(integer for integer, _ in sums) / sum(macs for _, macs in sums)


def _timed(description: Description, data: str) -> tuple[dict[str, int], float]:
    """Return how often each part runs in float, and the median of float's time over that of int8."""
    runs: dict[str, int] = {part.name: 0 for part in description.parts}

    def count(name: str, _: object) -> None:
        runs[name] += 1

    counted = Pipeline(description, int8=False, heard=count)
    batches = list(open_pipeline_data(description, counted, data, _TIMED))
    _run(counted, batches)
    both = [Pipeline(description, int8=int8) for int8 in (False, True)]
    ratios = []
    for _ in range(_ROUNDS):
        exact, found = (_run(pipeline, batches) for pipeline in both)
        ratios.append(exact / found)
    return runs, statistics.median(ratios)


def _run(pipeline: Pipeline, batches: list[Batch]) -> float:
    begin = time.perf_counter()
    for batch in batches:
        pipeline(batch)
    return time.perf_counter() - begin
