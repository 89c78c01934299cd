"""The section "Tuning": `qtool tune` on the zoo's vision models."""

import sys
from pathlib import Path

import qtool
from bench.zoo_models import ZooModel
from qtool.core.records.tuning import Step
from qtool.core.records.verification import percent
from qtool.report.text import markdown
from qtool.report.tune import step_line

TRAILS = ("mobilenetv2", "mobilenetv1_025")
PAPER = """The paper's table for MobileNet v2 on ImageNet, for comparison (accuracy; from memory of its tables 5 and 6):

| float | max | entropy | 99.9 % | 99.99 % | 99.999 % | 99.9999 % |
| --: | --: | --: | --: | --: | --: | --: |
| 71.88 | 69.41 | 70.28 | 70.68 | 71.14 | 70.72 | 70.23 |
"""


def tuning(models: list[ZooModel], folder: Path) -> str:
    """The section's text; the figures are of evaluation data that chose nothing."""
    rows, trails = [], []
    for model in models:
        steps: list[Step] = []
        result = qtool.tune(
            model.model,
            str(model.calibration),
            folder / f"{model.name}.tuned.onnx",
            eval_data=str(model.evaluation),
            metric=model.metric,
            preprocess=model.preprocess,
            threads=2,
            tell=steps.append,
        )
        score = result.evaluation.candidates[0].scores[0]
        drop = 0.0 if score.relative_drop is None else 100 * score.relative_drop
        share = percent(result.verification.integer_share)
        verdict = "met" if result.met else "missed"
        rows.append([model.name, verdict, f"{drop:.2f} %", share, str(len(steps)), result.best.what])
        if model.name in TRAILS:
            trails += ["", f"The trail of {model.name}:", "", "```text", *map(step_line, steps), "```"]
        print(f"{model.name}: tune {verdict}", file=sys.stderr)
    head = ["model", "1 %", "drop", "integer MACs", "models tried", "kept"]
    text = (
        "`qtool tune` with its defaults (drop at most 1 %): the calibration data calibrates and chooses, and the "
        "figures are of the evaluation data (ultraface's calibration data has no labels: half of its evaluation data "
        "chooses)."
    )
    return "\n".join(["## Tuning", "", text, "", markdown(head, rows, left=(0, 1, 5)), *trails, "", PAPER])
