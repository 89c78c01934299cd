"""What the commands of the pages in docs/ read: small stand-ins for `model.onnx`, `images.npz` and the like.

Each is made in the current folder.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from qtool.cli.group import ran
from tests.support.decoders import cached_decoder, token_sequences
from tests.support.evaluation_models import linear
from tests.support.places import REPOSITORY, SHIPPED
from tests.support.recurrent_models import lstm, lstm_scores, sequences


def digits() -> None:
    """The digits network as `model.onnx`, its data in every form, and what earlier commands have made of both."""
    shutil.copy(SHIPPED / "digits_cnn.onnx", Path() / "model.onnx")
    shutil.copy(REPOSITORY / "examples" / "ci" / "qtool.toml", Path())
    shutil.copy(SHIPPED / "digits_calib.npz", Path() / "calibration.npz")
    shutil.copy(SHIPPED / "digits_calib.npz", Path() / "images.npz")
    with np.load(SHIPPED / "digits_eval.npz") as data:
        np.savez("labelled.npz", **{name: data[name][:150] for name in data.files})
    (Path() / "images").mkdir()
    with np.load(SHIPPED / "digits_calib.npz") as data:
        for number, sample in enumerate(data["input"][:32]):
            np.save(Path() / "images" / f"{number:02}.npy", sample[None])
    for name, data, scheme in (("model", "calibration.npz", "affine"), ("b", "images", "symmetric")):
        _call("calibrate", "model.onnx", "--data", data, "-o", f"{name}.calib")
        words = ("--calibration", f"{name}.calib", "--calibrator", "max", "--scheme", scheme)
        _call("quantize", "model.onnx", *words, "-o", f"{name}.int8.onnx", "--save-plan", f"{name}.plan.json")
    for suffix in ("calib", "int8.onnx", "plan.json"):
        shutil.copy(Path() / f"model.{suffix}", Path() / f"a.{suffix}")


def recurrent() -> None:
    """A network with the states h and c as `vad.onnx`, and one with a cache as `decoder.onnx`."""
    model, x = lstm(Path() / "vad.onnx"), sequences(8, 10)
    np.savez(Path() / "streams.npz", x=x)
    np.savez(Path() / "labelled.npz", x=x, labels=np.stack([lstm_scores(model, row)[0].argmax(axis=1) for row in x]))
    cached_decoder(Path() / "decoder.onnx")
    tokens = token_sequences(6, 8)
    rows = [{name: array[row].tolist() for name, array in tokens.items()} for row in range(6)]
    (Path() / "tokens.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def embedding() -> None:
    """A network whose output is a vector as `encoder.onnx`, and pairs of samples that are near each other."""
    random = np.random.default_rng(0)
    linear(Path() / "encoder.onnx", random.normal(size=(16, 8)).astype(np.float32), output_name="embedding")
    first = random.normal(size=(20, 16)).astype(np.float32)
    x = np.concatenate([first, first + np.float32(0.01) * random.normal(size=first.shape).astype(np.float32)])
    np.savez(Path() / "pairs.npz", x=x, labels=np.tile(np.arange(20), 2))
    _call("quantize", "encoder.onnx", "--data", "pairs.npz", "-o", "encoder.int8.onnx")


HOUSES: dict[str, Callable[[], None]] = {
    "ci.md": digits,
    "data.md": recurrent,
    "diff.md": digits,
    "inspect-float.md": digits,
    "inspect.md": digits,
    "json.md": digits,
    "metrics.md": embedding,
    "quantization.md": digits,
    "recovery.md": digits,
    "report.md": digits,
    "scale.md": digits,
    "sensitivity.md": digits,
}
"""Page -> what makes the files that its commands read."""
ELSEWHERE = {
    "README.md": "tests/test_docs.py runs its first block; the others are those of docs/",
    "tutorial.md": "its commands are run and what they print is compared",
    "detection.md": "tests/cli/test_detection.py runs the same on fewer pictures; `tune` on 500 takes minutes",
    "finetuning.md": "tests/finetuning; the command of the page takes minutes of training",
    "generation.md": "tests/generation/test_example.py runs the same on fewer sentences",
    "tuning.md": "the tutorial runs `tune` on the digits; the page's takes a folder of pictures and up to two hours",
}
"""Page -> where its commands are run, and why not here."""
OTHERWISE = {"diff a.int8.onnx b.int8.onnx": 1, "diff a.calib b.calib": 1, "diff a.plan.json b.plan.json": 1}
"""The exit codes of commands that answer no, by how they begin."""


def _call(*words: str) -> None:
    """Run a command in the current folder."""
    assert ran([*words, "-q"]) == 0, words
