"""`make bench`: qtool beside onnxruntime's own quantizer, on the same models and data; writes docs/benchmarks.md.

    python -m tests.bench [--only MODEL]... [--section NAME] [--output FILE]

Every figure in that file comes from here. Timings are medians of interleaved runs, as ratios.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

import qtool
from qtool.core.evaluation import Evaluation, ModelResult
from qtool.core.ranges import CANDIDATES
from qtool.report.text import markdown
from qtool.report.tune import step_line
from tests.bench.incumbent import quantize_incumbent
from tests.bench.language import language
from tests.bench.machine import machine
from tests.bench.sensitivity_cost import sensitivity_cost
from tests.bench.zoo_models import ZooModel, vision_models, zoo_folder

SAMPLES = 64
PAIRS = 3
REPOSITORY = Path(__file__).resolve().parents[2]


def main() -> None:
    """Run everything and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="one model of the zoo; again for more")
    parser.add_argument("--section", help="write this section of the file again, and leave the others")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "docs" / "benchmarks.md")
    options = parser.parse_args()
    zoo = zoo_folder()
    if zoo is None:
        sys.exit("no zoo: set QTOOL_ZOO to its folder")
    models = [m for m in vision_models(zoo) if not options.only or m.name in options.only]
    with tempfile.TemporaryDirectory(prefix="qtool-bench-") as name:
        folder = Path(name)
        sections: dict[str, Callable[[], str]] = {
            "Accuracy and speed": lambda: _accuracy(models, folder),
            "Language": lambda: language(zoo, folder),
            "Tuning": lambda: _tuning(models, folder),
            "Cost of sensitivity analysis": lambda: _sensitivity(zoo),
            "Cost of calibration": lambda: _cost(zoo, folder),
            "Start": _start,
        }
        if options.section is None:
            head = HEAD.format(machine=machine(), command=_command(options.only))
            text = "\n".join([head, *(write() for write in sections.values())])
        elif options.section in sections:
            text = _replaced(options.output, options.section, sections[options.section]())
        else:
            sys.exit(f"no section {options.section!r}; there are {', '.join(sections)}")
    options.output.write_text(text, encoding="utf-8")


def _replaced(file: Path, section: str, text: str) -> str:
    """The file with one section written again."""
    before, _, rest = file.read_text(encoding="utf-8").partition(f"## {section}\n")
    _, mark, after = rest.partition("\n## ")
    return before + text + (f"{mark}{after}" if mark else "")


HEAD = """# Benchmarks

Written by `{command}` on {machine}.
Nothing here is typed by hand. Timings are medians of interleaved runs and are given as ratios.
"""


def _command(only: list[str] | None) -> str:
    return "make bench" if not only else "python -m tests.bench " + " ".join(f"--only {name}" for name in only)


def _accuracy(models: list[ZooModel], folder: Path) -> str:
    lines = [
        "## Accuracy and speed",
        "",
        f"Calibration on the first {SAMPLES} samples (or all, where there are fewer); the metric on the whole "
        "evaluation set; SQNR of the outputs there. `onnxruntime` is its own `quantize_static`: QDQ, uint8 "
        "activations, int8 weights per channel; a model below opset 13 is raised for it first, since it writes an "
        "invalid model otherwise. "
        "Speed-up: batch 1, one thread, all models of a table interleaved in one process. `auto` is qtool's "
        "default; `corrected` is bias correction.",
        "",
    ]
    for model in models:
        sentence, evaluation = _compare(model, folder)
        lines += [f"### {model.name}", "", sentence, "", _table(evaluation), ""]
    return "\n".join(lines)


def _compare(model: ZooModel, folder: Path) -> tuple[str, Evaluation]:
    """A sentence on what the default did, and the comparison."""
    home = folder / model.name
    home.mkdir()
    calibrated = qtool.calibrate(
        model.model, str(model.calibration), samples=min(SAMPLES, _count(model)), preprocess=model.preprocess, threads=2
    )
    files = []
    for name, percentile in (("onnxruntime min-max", None), ("onnxruntime percentile 99.999", 99.999)):
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            files.append(quantize_incumbent(model, home / f"{name}.onnx", percentile=percentile, samples=SAMPLES))
    statistics = calibrated.statistics
    result = qtool.quantize(model.model, home / "qtool auto.onnx", calibration=statistics)
    files.append(result.output)
    for calibrator in CANDIDATES:
        for correction, name in (("on", f"qtool {calibrator}, corrected"), ("off", f"qtool {calibrator}")):
            output = home / f"{name}.onnx"
            qtool.quantize(
                model.model, output, calibration=statistics, calibrator=calibrator, bias_correction=correction
            )
            files.append(output)
    proof = result.verification
    chosen = f"`auto` chose {result.plan.calibrator}{', corrected' if result.plan.shifts else ''}; "
    kernels = f"{100 * proof.integer_share:.1f} % of multiply-accumulates and {proof.integer_layers} of {proof.layers} "
    sentence = chosen + kernels + "layers run in integer kernels."
    print(f"{model.name}: {sentence}", file=sys.stderr)
    return sentence, qtool.evaluate(
        model.model, files, str(model.evaluation), metrics=[model.metric], preprocess=model.preprocess, latency=True
    )


def _count(model: ZooModel) -> int:
    if model.calibration.suffix != ".npz":
        return SAMPLES
    with np.load(model.calibration) as arrays:
        return len(arrays[arrays.files[0]])


def _table(evaluation: Evaluation) -> str:
    def row(result: ModelResult, name: str) -> list[str]:
        score = result.scores[0]
        drop = "" if score.relative_drop is None else f"{100 * score.relative_drop:.2f} %"
        sqnr = "" if result.sqnr_db is None else f"{result.sqnr_db:.1f}"
        speed = "" if result.latency is None else f"{result.latency.speedup:.2f}"
        return [name, f"{score.value:.4f}", drop, sqnr, speed, f"{result.size_bytes / 1e6:.2f}"]

    rows = [row(evaluation.float_model, "float")]
    rows += [row(candidate, Path(candidate.path).stem) for candidate in evaluation.candidates]
    return markdown(["model", "metric", "drop", "SQNR dB", "speed-up", "MB"], rows)


TRAILS = ("mobilenetv2", "mobilenetv1_025")
PAPER = """The paper's table for MobileNet v2 on ImageNet, for comparison (accuracy; from memory of its tables 5 and 6):

| float | max | entropy | 99.9 % | 99.99 % | 99.999 % | 99.9999 % |
| --: | --: | --: | --: | --: | --: | --: |
| 71.88 | 69.41 | 70.28 | 70.68 | 71.14 | 70.72 | 70.23 |
"""


def _tuning(models: list[ZooModel], folder: Path) -> str:
    """`tune` on every model; the figures are of evaluation data that chose nothing."""
    rows, trails = [], []
    for model in models:
        steps: list[str] = []
        result = qtool.tune(
            model.model,
            str(model.calibration),
            folder / f"{model.name}.tuned.onnx",
            eval_data=str(model.evaluation),
            metric=model.metric,
            preprocess=model.preprocess,
            threads=2,
            tell=lambda step, steps=steps: steps.append(step_line(step)),
        )
        score = result.evaluation.candidates[0].scores[0]
        drop = 0.0 if score.relative_drop is None else 100 * score.relative_drop
        share = f"{100 * result.verification.integer_share:.1f} %"
        verdict = "met" if result.met else "missed"
        rows.append([model.name, verdict, f"{drop:.2f} %", share, str(len(steps)), result.best.what])
        if model.name in TRAILS:
            trails += ["", f"The trail of {model.name}:", "", "```text", *steps, "```"]
        print(f"{model.name}: tune {verdict}", file=sys.stderr)
    head = ["model", "1 %", "drop", "integer MACs", "models tried", "kept"]
    text = (
        "`qtool tune` with its defaults (drop at most 1 %): the calibration data calibrates and chooses, and the "
        "figures are of the evaluation data (ultraface's calibration data has no labels: half of its evaluation data "
        "chooses)."
    )
    return "\n".join(["## Tuning", "", text, "", markdown(head, rows, left=(0, 1, 5)), *trails, "", PAPER])


def _sensitivity(zoo: Path) -> str:
    model = next(m for m in vision_models(zoo) if m.name == "mobilenetv2")
    text = "MobileNetV2, 32 pictures, beside the naive way (one session and one full pass a layer), interleaved:"
    return "\n".join(["## Cost of sensitivity analysis", "", text, "", sensitivity_cost(model, 32, PAIRS), ""])


def _cost(zoo: Path, folder: Path) -> str:
    """Whole processes, in pairs: a plain float pass over 500 pictures, and the calibration of the same."""
    pictures = folder / "pictures"
    pictures.mkdir()
    for split in ("calib", "eval"):
        for file in (zoo / "imagenet" / split).glob("*.jpg"):
            (pictures / f"{split}-{file.name}").symlink_to(file)
    model, preprocess = zoo / "mobilenetv2" / "model.onnx", zoo / "mobilenetv2" / "preprocess.json"
    calibration = folder / "mobilenetv2.calib"
    rows = []
    for threads in (1, 2):
        plain = [sys.executable, "-m", "tests.bench.plain_pass", model, pictures, preprocess, threads]
        ours = [sys.executable, "-m", "qtool", "calibrate", model, "--data", pictures, "--preprocess", preprocess]
        ours += ["-o", calibration, "--threads", threads, "-q"]
        pairs = [(_run(plain), _run(ours)) for _ in range(PAIRS)]
        ratio = statistics.median(b[0] / a[0] for a, b in pairs)
        cpu = statistics.median(b[1] / a[1] for a, b in pairs)
        more = statistics.median(b[2] - a[2] for a, b in pairs)
        rows.append([str(threads), f"{ratio:.2f}", f"{cpu:.2f}", f"{more / 1024:.0f}"])
    quantize = [sys.executable, "-m", "qtool", "quantize", model, "--calibration", calibration, "-q"]
    quantize += ["-o", folder / "mobilenetv2.int8.onnx"]
    one = [*quantize, "--calibrator", "max"]
    seconds = [statistics.median(_run(command)[0] for _ in range(PAIRS)) for command in (quantize, one)]
    return "\n".join(
        [
            "## Cost of calibration",
            "",
            "MobileNetV2, 500 pictures, whole processes (imports and all): `qtool calibrate` over a plain float "
            "pass over the same files with the same threads (`python -m tests.bench.plain_pass`). "
            f"Medians of {PAIRS} pairs.",
            "",
            markdown(["threads", "time ratio", "CPU time ratio", "more peak memory, MB"], rows),
            "",
            f"`qtool quantize` of MobileNetV2 from that file, verification included, whole process: {seconds[0]:.1f} s "
            f"with the default `auto` (five calibrators tried), {seconds[1]:.1f} s with one calibrator.",
            "",
        ]
    )


def _run(command: list[object]) -> tuple[float, float, int]:
    """Wall seconds, CPU seconds and peak memory (KiB) of a process."""
    words = [str(part) for part in command]
    answer = subprocess.run(
        [sys.executable, "-S", "-c", _LAUNCHER, *words], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if answer.returncode:
        sys.exit(f"failed: {' '.join(words)}: {answer.stderr}")
    wall, cpu, peak = answer.stdout.split()
    return float(wall), float(cpu), int(peak)


# A process of its own, small: a child starts with the peak memory of the process that it was forked from.
_LAUNCHER = """
import os, subprocess, sys, time
started = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
sys.exit(1 if status else 0)
"""


def _start() -> str:
    seconds = statistics.median(_run([sys.executable, "-m", "qtool", "--help"])[0] for _ in range(5))
    return f"## Start\n\n`qtool --help`, whole process: {1000 * seconds:.0f} ms.\n"


if __name__ == "__main__":
    main()
