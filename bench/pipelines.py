"""The section "Pipelines": the examples of this repository, several models and their loop, float beside int8."""

import logging
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnxruntime.quantization import QuantType, quantize_dynamic

import qtool
from bench.environments import environment
from bench.language import logits, speedups
from bench.process import REPOSITORY
from qtool.core.numerics.sqnr import signal_to_noise
from qtool.core.records.evaluation import Evaluation, ModelResult
from qtool.core.records.results import Quantized
from qtool.core.records.verification import percent
from qtool.feeds import Batch
from qtool.generation.description import Description, read_description
from qtool.generation.pipeline import Pipeline, open_pipeline_data
from qtool.report.text import ABSENT, markdown

_ROUNDS, _TIMED = 9, 20
_EXAMPLES = REPOSITORY / "examples"
_WIDTH, _STEPS = 512, 600
_WIDE = REPOSITORY / "bench-out" / f"translation-{_WIDTH}"
_HEADER = ["", "metric", "float", "int8", "agreement", "integer", "smaller", "speed-up", "model alone"]


@dataclass(frozen=True, slots=True)
class _Example:
    """A folder, the pipeline in it, its two sets, and what it does."""

    folder: Path
    file: str
    calibration: str
    evaluation: str
    does: str


_SHIPPED = (
    _Example(
        _EXAMPLES / "translation", "numbers.toml", "calib.jsonl", "eval.jsonl", "encoder-decoder, numbers to words"
    ),
    _Example(_EXAMPLES / "speech", "ctc.toml", "speech.py:calibration", "speech.py:evaluation", "CTC, spoken digits"),
    _Example(
        _EXAMPLES / "speech",
        "transducer.toml",
        "speech.py:calibration_features",
        "speech.py:evaluation_features",
        "streaming transducer, spoken digits",
    ),
)


def pipelines(folder: Path) -> str:
    """Return the section's text."""
    wide, failure = _trained()
    rows = [row for example in (*_SHIPPED[:1], *wide, *_SHIPPED[1:]) for row in _rows(example, folder)]
    text = (
        "The examples of the repository, each calibrated and evaluated as a pipeline ([generation.md](generation.md)), "
        "on 400 samples. Below a pipeline each model alone in int8. `agreement`: samples of which float and int8 say "
        "the same. `integer`: of the multiply-accumulates of all runs. `speed-up`: of the pipeline, its loop in Python "
        f"included, {_TIMED} samples, one thread, interleaved, median of {_ROUNDS} rounds. `model alone`: what "
        "`quantize` measures. The wide one is of T5-small's width, with two layers in encoder and decoder; "
        f"`train_numbers.py FOLDER --width {_WIDTH} --layers 2 --steps {_STEPS}` in the example's folder makes it."
    )
    behind = [f"The wide one is not measured: {failure}", ""] if failure else _steps(folder)
    return "\n".join(["## Pipelines", "", text, "", markdown(_HEADER, rows), "", *behind])


def _trained() -> tuple[tuple[_Example, ...], str | None]:
    """The wide translator, trained once; or why it is not there."""
    if not (_WIDE / "decoder_with_past_model.onnx").exists():
        found = environment("translation")
        if found.failure is not None:
            return (), found.failure
        trainer = _EXAMPLES / "translation" / "train_numbers.py"
        command = [found.python, trainer, _WIDE, "--width", _WIDTH, "--layers", 2, "--steps", _STEPS]
        answer = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
        if answer.returncode:
            return (), answer.stderr.strip().splitlines()[-1]
    does = f"the same at a width of {_WIDTH}"
    return (_Example(_WIDE, "numbers.toml", "calib.jsonl", "eval.jsonl", does),), None


def _steps(folder: Path) -> list[str]:
    """The wide one's steps with a cache, beside onnxruntime's own dynamic quantisation; files are those of `_rows`."""
    place = _place(folder, _WIDE)
    exact, ours, theirs = (place / f"decoder_with_past_model{end}.onnx" for end in ("", ".int8", ".dynamic"))
    logging.getLogger().setLevel(logging.ERROR)
    quantize_dynamic(exact, theirs, weight_type=QuantType.QInt8, per_channel=True)
    description = read_description(place / "numbers.toml")
    fed: list[dict[str, np.ndarray]] = []

    def keep(name: str, inputs: Mapping[str, np.ndarray]) -> None:
        if name == "decoder_with_past":
            fed.append(dict(inputs))

    heard = Pipeline(description, int8=False, heard=keep)
    _run(heard, list(open_pipeline_data(description, heard, str(place / "eval.jsonl"), _TIMED)))
    files = {"qtool": ours, "onnxruntime dynamic": theirs}
    found = speedups(exact, files, fed)
    base = logits(exact, fed)
    rows = [
        [name, f"{signal_to_noise(base, logits(file, fed)):.1f}", f"{found[name]:.2f}"] for name, file in files.items()
    ]
    text = (
        f"A step of the wide one with its cache, {len(fed)} of them: over the float decoder at one thread, interleaved."
    )
    return [text, "", markdown(["", "SQNR dB of logits", "speed-up"], rows), ""]


def _place(folder: Path, example: Path) -> Path:
    return folder / f"pipeline-{example.name}"


def _rows(example: _Example, folder: Path) -> list[list[str]]:
    place = _place(folder, example.folder)
    shutil.copytree(example.folder, place, dirs_exist_ok=True)
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
