"""SHA-256 of all that `calibrate` and `quantize` write for each model of the zoo: has a refactoring kept it?

    python -m bench.fingerprints [MODEL...] > after.txt

Each command is a process of its own, run in an empty folder, so that what it writes depends on nothing but its inputs.
Of int8 models the digest is that of the file. Of plans and calibration files it is that of what they hold; which form
of document it is, and the versions that wrote it (the header), may differ.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

FORMS: dict[str, tuple[str, ...]] = {
    "default": ("--calibration", "m.calib"),
    "static": ("--calibration", "m.calib", "--static"),
    "dynamic": ("--dynamic",),
    "weight-only": ("--weight-only",),
}
"""Name -> options of `quantize`."""
_HEADER = ("schema", "schema_version", "versions", "qtool_plan", "qtool_calibration")
"""Keys of a header, today's and earlier ones."""
_CONTEXT = 64
"""Samples of the frame before that silero_vad wants in front of each frame."""


def main() -> None:
    """Print a line for each file: digest, model, form, file; what a command refuses is a line too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="names of the zoo's folders  [default: all]")
    zoo = Path(os.environ.get("QTOOL_ZOO", Path.cwd().parent / "shared" / "zoo"))
    for name in parser.parse_args().models or [*_names(zoo)]:
        with tempfile.TemporaryDirectory() as folder:
            for line in _lines(zoo.resolve(), name, Path(folder)):
                print(line, flush=True)


def _names(zoo: Path) -> Iterator[str]:
    for folder in sorted(zoo.iterdir()):
        if (folder / "model.onnx").exists():
            yield folder.name


def _lines(zoo: Path, name: str, folder: Path) -> Iterator[str]:
    model = str(zoo / name / "model.onnx")
    ended = _qtool(folder, "calibrate", model, *_reading(zoo, name, folder), "-o", "m.calib")
    yield f"{_digest(folder / 'm.calib') if ended is None else ended}  {name}  calibration"
    for form, options in FORMS.items():
        files = (f"{form}.onnx", f"{form}.plan.json")
        ended = _qtool(folder, "quantize", model, *options, "-o", files[0], "--save-plan", files[1])
        if ended is not None:
            yield f"{ended}  {name}  {form}"
            continue
        for file in files:
            yield f"{_digest(folder / file)}  {name}  {file}"


def _reading(zoo: Path, name: str, folder: Path) -> tuple[str, ...]:
    """The options of `calibrate` that read the model's calibration data."""
    own = zoo / name
    spec = ("--preprocess", str(own / "preprocess.json")) if (own / "preprocess.json").exists() else ()
    if name == "silero_vad":
        with np.load(own / "audio.npz") as stored:
            frames = stored["audio"][:1].astype(np.float32) / 32767
        before = np.zeros((*frames.shape[:2], _CONTEXT), np.float32)
        before[:, 1:] = frames[:, :-1, -_CONTEXT:]
        np.savez(folder / "calib.npz", input=np.concatenate([before, frames], axis=2))
        return "--data", "calib.npz", "--state", "state=stateN"
    if not (own / "calib.npz").exists():
        return "--data", str(zoo / "imagenet" / "calib"), *spec
    trim = ("--trim", "attention_mask") if name == "minilm_sst2" else ()
    return "--data", str(own / "calib.npz"), *spec, *trim


def _qtool(folder: Path, *arguments: str) -> str | None:
    """None where the command is done, else its one line."""
    command = [sys.executable, "-m", "qtool", *arguments, "-q"]
    ended = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    return None if ended.returncode == 0 else f"exit {ended.returncode}: {ended.stderr.strip()}"


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    if file.suffix == ".json":
        digest.update(_content(file.read_bytes()))
    elif file.suffix == ".calib":
        with zipfile.ZipFile(file) as archive:
            for name in sorted(archive.namelist()):
                data = archive.read(name)
                digest.update(name.encode() + (_content(data) if name.endswith(".json") else data))
    else:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _content(document: bytes) -> bytes:
    found = json.loads(document)
    return json.dumps({key: value for key, value in found.items() if key not in _HEADER}, sort_keys=True).encode()


if __name__ == "__main__":
    main()
