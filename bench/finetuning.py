"""The section "Fine-tuning": `qtool finetune` on models of the zoo, every layer in integers that can be."""

import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import qtool
from bench.zoo_models import ZooModel, language_model, vision_models
from qtool.core.records.options import Scheme
from qtool.report.text import decibels, markdown

STEPS = 300
SAMPLES = 100
_HEAD = [
    "model", "weights", "quantize, dB", "refined", "finetuned", "metric of float", "quantize", "refined", "finetuned",
    "begun with, chosen", "trained", "gain by sample", "kept", "steps", "seconds",
]  # fmt: skip
_TEXT = (
    f"`qtool finetune --no-partial --steps {STEPS} --samples {SAMPLES} --threads 1`, beside `quantize --no-partial` "
    "with `--refine off` and `on`, of the same calibration data. SQNR and metric are of all evaluation data, which "
    "neither trained nor chose. Equalised: `calibrate --equalize --absorb-biases` before. `begun with` and "
    "`trained`: dB on the samples that choose, and `gain by sample` the mean of the gains of these with its standard "
    "error; what is not kept is the plan that training began with."
)


@dataclass(frozen=True, slots=True)
class Case:
    """A model of the zoo and a kind of weights.

    form: `static` leaves no layer dynamic. equalized: calibrated with `--equalize --absorb-biases`.
    """

    model: str
    weights: str
    target: str = "x86"
    granularity: Literal["per-channel", "per-tensor"] = "per-channel"
    form: Literal["auto", "static"] = "auto"
    equalized: bool = False


CASES = (
    *(
        Case(name, "per channel")
        for name in (
            "mobilenetv2", "mobilenetv1_025", "mlperf_resnet8", "mlperf_kws", "mlperf_vww", "squeezenet1_1",
            "ultraface_rfb320",
        )
    ),
    *(Case(name, "per tensor", granularity="per-tensor") for name in ("mobilenetv2", "mobilenetv1_025")),
    *(Case(name, "7 bits (x86-avx2)", target="x86-avx2") for name in ("mobilenetv2", "mobilenetv1_025")),
    Case("minilm_sst2", "all static (--static)", form="static"),
    Case("mobilenetv2", "per channel, equalised", equalized=True),
    Case("mobilenetv2", "per tensor, equalised", granularity="per-tensor", equalized=True),
    Case("mobilenetv2", "7 bits (x86-avx2), equalised", target="x86-avx2", equalized=True),
)  # fmt: skip


def finetuning(zoo: Path, folder: Path, only: Collection[str] | None = None) -> str:
    """The section's text; `only`: the models to measure, None for all."""
    models = {model.name: model for model in (*vision_models(zoo), language_model(zoo))}
    rows = []
    for case in CASES:
        if only and case.model not in only:
            continue
        rows.append(_row(models[case.model], case, folder))
        print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    return "\n".join(["## Fine-tuning", "", _TEXT, "", markdown(_HEAD, rows, left=(0, 1)), ""])


def _row(model: ZooModel, case: Case, folder: Path) -> list[str]:
    data = str(model.calibration)
    reading: dict[str, Any] = {"preprocess": model.preprocess, "trim": model.trim}
    asked: dict[str, Any] = {
        "scheme": Scheme(granularity=case.granularity), "target": case.target, "form": case.form, "partial": False,
    }  # fmt: skip
    files = {way: folder / f"{model.name} {way}.onnx" for way in ("off", "on", "finetuned")}
    recovery: dict[str, Any] = {"equalize": case.equalized, "absorb_biases": case.equalized}
    statistics = qtool.calibrate(model.model, data, samples=SAMPLES, **recovery, **reading).statistics
    for way in ("off", "on"):
        qtool.quantize(model.model, files[way], calibration=statistics, refine=way, **asked)
    result = qtool.finetune(
        model.model, data, files["finetuned"], calibration=statistics, steps=STEPS, samples=SAMPLES, threads=1,
        **asked, **reading,
    )  # fmt: skip
    found = qtool.evaluate(model.model, list(files.values()), str(model.evaluation), metrics=[model.metric], **reading)
    gain = result.gain
    figures = [
        *(decibels(one.sqnr_db) for one in found.candidates),
        *(f"{one.scores[0].value:.4f}" for one in (found.float_model, *found.candidates)),
        *map(decibels, result.chosen_db),
        "" if gain is None else f"{gain.mean:+.2f} ± {gain.error:.2f} dB",
        "yes" if result.kept else "no",
    ]
    return [model.name, case.weights, *figures, str(result.steps), f"{result.seconds:.0f}"]
