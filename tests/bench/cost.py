"""The section "Cost of calibration"."""

from pathlib import Path

from qtool.report.text import markdown
from tests.bench.calibration_cost import HEAD, SAMPLES, calibration_cost

THREADS = [1, 2]


def calibration_section(folder: Path, pairs: int) -> str:
    """The section's text."""
    rows = []
    for model, samples in SAMPLES.items():
        rows += calibration_cost(model, folder, THREADS, samples, pairs)
    text = (
        "`qtool calibrate` over a plain float pass over the same data with the same threads "
        "(`python -m tests.bench.plain_pass`), whole processes (imports and all). Medians of "
        f"{pairs} pairs. The ResNet-50 and the BERT-base are generated: their shape, with random weights."
    )
    return "\n".join(["## Cost of calibration", "", text, "", markdown(HEAD, rows), ""])
