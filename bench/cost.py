"""The sections "Cost of calibration" and "Cost of quantize"."""

from pathlib import Path

from bench.calibration_cost import HEAD, SAMPLES, calibration_cost
from bench.quantize_cost import HEAD as QUANTIZE_HEAD
from bench.quantize_cost import SAMPLES as QUANTIZED
from bench.quantize_cost import quantize_cost
from qtool.report.text import markdown

THREADS = [1, 2]


def calibration_section(folder: Path, pairs: int) -> str:
    """The section's text."""
    rows = []
    for model, samples in SAMPLES.items():
        rows += calibration_cost(model, folder, THREADS, samples, pairs)
    text = (
        "`qtool calibrate` over a plain float pass over the same data with the same threads "
        "(`python -m bench.plain_pass`), whole processes (imports and all). Medians of "
        f"{pairs} pairs. The ResNet-50 and the BERT-base are generated: their shape, with random weights."
    )
    return "\n".join(["## Cost of calibration", "", text, "", markdown(HEAD, rows), ""])


def quantize_section(folder: Path, rounds: int) -> str:
    """The section's text."""
    rows = [quantize_cost(model, folder, rounds) for model in QUANTIZED]
    text = (
        "`qtool quantize` with its defaults from a calibration file, the proof of the result included, and to scale a "
        "process that loads the float model and runs it on the few samples that the proof runs it on. Whole "
        f"processes, medians of {rounds} interleaved rounds; the BERT-base has random weights."
    )
    return "\n".join(["## Cost of quantize", "", text, "", markdown(QUANTIZE_HEAD, rows), ""])
