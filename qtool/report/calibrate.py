"""The lines that `calibrate` and `merge` print."""

from collections.abc import Sequence
from pathlib import Path

from qtool.core.records.results import Calibrated
from qtool.core.text import amount, line
from qtool.report.text import file_size


def calibrated_text(result: Calibrated) -> str:
    """Return one line: how many samples and tensors, where the statistics are, and what they are good for."""
    statistics, part = result.statistics, result.statistics.part
    use = "serves every calibrator and target"
    if part is not None:
        use = f"shard {part.shard}, for `qtool merge`"
    samples = amount(statistics.samples, "sample") + (f" ({result.resumed} of them before)" if result.resumed else "")
    tensors = amount(len(statistics.tensors), "tensor")
    if statistics.mask:
        use = f"padding left out by '{statistics.mask}'; {use}"
    return line(f"{result.output}: {samples}, {tensors}, {file_size(result.size)}; {use}")


def calibrated_parts_text(parts: Sequence[tuple[str, Path, Calibrated | None, Path | None]], pipeline: str) -> str:
    """Return a line for each part of a pipeline, and the commands that come next.

    parts: of each its name, its float model, what came of calibrating it, None where there is nothing to quantise, and
    where its int8 model shall be; None where the description does not say.
    """
    lines = [
        calibrated_text(made) if made else line(f"{name}: nothing to quantise in {model}; it stays float")
        for name, model, made, _ in parts
    ]
    quantised = [(model, made, wanted) for _, model, made, wanted in parts if made is not None]
    lines += [
        line(f"next: qtool quantize {model} --calibration {made.output} -o {wanted or model.with_suffix('.int8.onnx')}")
        for model, made, wanted in quantised
    ]
    missing = "" if all(wanted for *_, wanted in quantised) else ", once it names the int8 models"
    return "\n".join([*lines, line(f"then: qtool eval --pipeline {pipeline} --data DATA --max-drop 1%{missing}")])
