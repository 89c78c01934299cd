"""The section "Learned rounding": `qtool finetune` beside AdaRound and AdaQuant of peers that take ONNX files."""

import sys
from pathlib import Path

import qtool
from bench.environments import LEARNING, Environment, environment
from bench.kernels import integer_layers
from bench.process import measure
from bench.side_by_side import samples_of, stored
from bench.zoo_models import ZooModel
from qtool.core.records.evaluation import ModelResult
from qtool.report.text import markdown

MODELS = ("mlperf_resnet8", "mobilenetv1_025", "mobilenetv2")
ITERATIONS = 500
EPOCHS = 30
SECONDS = 7200
_SAMPLES = 100
_LEARNED = ("--iterations", str(ITERATIONS))
PEERS = {
    "AIMET": ("aimet", ()),
    "AIMET, AdaRound": ("aimet", ("--adaround", str(ITERATIONS))),
    "Quark": ("quark", ()),
    "Quark, AdaRound": ("quark", ("--learn", "adaround", *_LEARNED)),
    "Quark, AdaQuant": ("quark", ("--learn", "adaquant", *_LEARNED)),
}
_TEXT = (
    f"Every tool is a process with one thread and the same {_SAMPLES} calibration samples, the peers in environments "
    f"of their own: `qtool quantize` as it comes, `qtool finetune --epochs {EPOCHS} --no-partial` (every layer in "
    "integers), AIMET (`QuantizationSimModel`, written by `to_onnx_qdq`) and Quark (U8S8, per channel), both alone and "
    f"with AdaRound or AdaQuant, {ITERATIONS} iterations a layer. SQNR, metric and speed of what came out (over float, "
    "one thread, interleaved) on the evaluation set, as one onnxruntime runs it; `integer`: of its convolutions and "
    "products. CPU seconds are those of the whole process."
)
_HEAD = ["model", "tool", "SQNR dB", "metric", "float", "speed-up", "integer", "CPU s"]


def learned_rounding(models: list[ZooModel], folder: Path) -> str:
    """The section's text."""
    homes = {name: environment(name) for name in LEARNING}
    rows = [row for model in models if model.name in MODELS for row in _rows(model, homes, folder / model.name)]
    return "\n".join(["## Learned rounding", "", _TEXT, "", markdown(_HEAD, rows, left=(0, 1)), ""])


def _rows(model: ZooModel, homes: dict[str, Environment], folder: Path) -> list[list[str]]:
    samples = stored(samples_of(model, model.calibration, _SAMPLES), folder / "samples")
    program = (sys.executable, "-m", "qtool")
    files = {name: folder / f"{name}.onnx" for name in ("qtool", "qtool finetune", *PEERS)}
    tuned = ("--epochs", EPOCHS, "--no-partial", "--threads", 1)
    commands: dict[str, list[object]] = {
        "qtool": [*program, "quantize", model.model, "--data", samples, "-o", files["qtool"], "-q"],
        "qtool finetune": [
            *program, "finetune", model.model, "--data", samples, "-o", files["qtool finetune"], "-q", *tuned
        ],
    }  # fmt: skip
    for name, (home, options) in PEERS.items():
        module = f"bench.peers.{home}_quantizer"
        commands[name] = [homes[home].python, "-m", module, model.model, samples, files[name], *options]
    taken, failed = {}, {}
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    for name, words in commands.items():
        outcome = measure(words, seconds=SECONDS, variables=one)
        taken[name] = outcome.cpu
        if outcome.failure is not None:
            failed[name] = outcome.failure
        print(f"{model.name}: {name}: {outcome.failure or f'{outcome.cpu:.0f} s'}", file=sys.stderr)
    made = [name for name in commands if name not in failed]
    found = qtool.evaluate(
        model.model, [files[name] for name in made], str(model.evaluation), metrics=[model.metric],
        preprocess=model.preprocess, latency=True,
    )  # fmt: skip
    judged = dict(zip(made, found.candidates, strict=True))
    exact = f"{found.float_model.scores[0].value:.4f}"
    return [
        [model.name, name, *_figures(judged[name], exact), f"{taken[name]:.0f}"]
        if name in judged
        else [model.name, name, failed[name], "", exact, "", "", ""]
        for name in commands
    ]


def _figures(result: ModelResult, exact: str) -> list[str]:
    integer, layers = integer_layers(Path(result.path))
    speed = "" if result.latency is None else f"{result.latency.speedup:.2f}x"
    sqnr = float("nan") if result.sqnr_db is None else result.sqnr_db
    return [f"{sqnr:.1f}", f"{result.scores[0].value:.4f}", exact, speed, f"{integer} of {layers}"]
