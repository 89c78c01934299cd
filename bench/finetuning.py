"""The section "Fine-tuning": `qtool finetune` on small vision models of the zoo, every layer in integers."""

import sys
from pathlib import Path

import qtool
from bench.zoo_models import ZooModel
from qtool.core.records.options import Scheme
from qtool.report.text import decibels, markdown

MODELS = ("mlperf_resnet8", "mlperf_kws", "mobilenetv1_025")
EPOCHS = 30


def finetuning(models: list[ZooModel], folder: Path) -> str:
    """The section's text; the figures are of evaluation data that neither trained nor chose."""
    rows = []
    for model in models:
        if model.name not in MODELS:
            continue
        for granularity in ("per-channel", "per-tensor"):
            rows.append(_row(model, granularity, folder))
            print(f"{model.name} {granularity}: fine-tuned", file=sys.stderr)
    head = ["model", "weights", "SQNR dB", "finetuned", "score of float", "int8", "finetuned", "steps", "seconds"]
    text = (
        f"`qtool finetune --no-partial --epochs {EPOCHS} --threads 1` on the calibration data, of which half to eight "
        "of ten samples train; figures of the evaluation data, of the int8 model before and after."
    )
    return "\n".join(["## Fine-tuning", "", text, "", markdown(head, rows, left=(0, 1))])


def _row(model: ZooModel, granularity: str, folder: Path) -> list[str]:
    data, shown = str(model.calibration), model.preprocess
    before, after = (folder / f"{model.name}.{name}.onnx" for name in ("before", "after"))
    statistics = qtool.calibrate(model.model, data, preprocess=shown).statistics
    scheme = Scheme(granularity=granularity)  # type: ignore[arg-type]
    begun = qtool.quantize(model.model, before, calibration=statistics, scheme=scheme, partial=False)
    result = qtool.finetune(model.model, data, after, plan=begun.plan, epochs=EPOCHS, threads=1, preprocess=shown)
    found = qtool.evaluate(
        model.model, [before, after], str(model.evaluation), metrics=[model.metric], preprocess=shown
    )
    one, two = found.candidates
    scores = (found.float_model.scores[0].value, one.scores[0].value, two.scores[0].value)
    figures = [decibels(one.sqnr_db), decibels(two.sqnr_db), *(f"{score:.4f}" for score in scores)]
    return [model.name, granularity, *figures, str(result.steps), f"{result.seconds:.0f}"]
