"""A campaign of changed files against every reader, run by hand: `python -m tests.support.hostile [KIND...] [-n N]`.

Each kind has files that are right. A mutant is one of them with a few bytes or values changed; reading it, and doing
what is done with it then, ends well or in a `QtoolError` of one line, without a warning beside it, within seconds.
Everything else is printed with the seed that makes it again.
"""

import argparse
import copy
import io
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

import qtool
from qtool.cli.group import app
from qtool.core.errors import QtoolError
from qtool.core.tensorspec import InputSpec
from qtool.feeds import open_feeds
from qtool.tuning.sensitivity.resume import load_found
from tests.support.detectors import coco, masks_of, squares, write_masks, write_pictures, write_yolo
from tests.support.fuzz import confine

NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 127, 128, 255, 256, 2**31, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400, 0.5,
    -0.0, 1e-45, 1e-38, 3e38, 3.4028234663852886e38, 1e39, 1e308, "", "x", "w", "c1", "a\nb", "\ud800", "\0", "é" * 50,
    "inf", "nan", [], {}, [[]], [None], {"": 0}, ["x", 0], [0, 0], [1.0] * 9, "1979-05-27",
)  # fmt: skip
SLOW_S = 20.0
RNG = np.random.default_rng(0)


class Campaign:
    """Files of one kind that are right, and what reads them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mutant(self, rng: random.Random) -> Callable[[], object]:
        """Write a changed file, and return what reads it."""
        raise NotImplementedError


def changed_json(rng: random.Random, document: Any) -> Any:
    """Change some values of a copy of the document, at any depth."""
    result = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        spot, parent = result, None
        key: Any = None
        while isinstance(spot, dict | list) and spot and (parent is None or rng.random() < 0.8):
            parent = spot
            key = rng.choice(list(spot)) if isinstance(spot, dict) else rng.randrange(len(spot))
            spot = parent[key]
        if parent is None:
            return rng.choice(NASTY)
        match rng.randrange(6):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, list):
                parent.insert(rng.randrange(len(parent) + 1), copy.deepcopy(rng.choice(parent)))
            case 2 if isinstance(parent, list):
                parent.reverse()
            case 3 if isinstance(spot, int | float) and not isinstance(spot, bool):
                parent[key] = rng.choice(
                    (spot + 1, spot - 1, -spot, spot * 2, spot * (10**30 if isinstance(spot, int) else 1e30), 3e38)
                )
            case 4 if isinstance(parent, dict):
                parent[str(rng.choice(NASTY))] = spot
            case _:
                parent[key] = rng.choice(NASTY)
    return result


def changed_bytes(rng: random.Random, data: bytes) -> bytes:
    """Change some bytes: flipped, cut off, doubled, left out, or text put in."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(len(result) + 1)
        match rng.randrange(6):
            case 0:
                del result[at:]
            case 1:
                result[at:at] = rng.choice(
                    (b"\0", b"\xff\xfe", b"[" * 5000, b"9" * 5000, b"\xed\xa0\x80", b'"', b"\n", b"-")
                )
            case 2:
                result[at:at] = result[at : at + rng.randrange(64)]
            case 3:
                del result[at : at + rng.randrange(16)]
            case _:
                if at < len(result):
                    result[at] = rng.randrange(256)
    return bytes(result)


def written(rng: random.Random, path: Path, document: Any) -> Path:
    """Write a document as JSON with values changed, or with bytes changed."""
    if rng.random() < 0.75:
        path.write_text(json.dumps(changed_json(rng, document)))
    else:
        path.write_bytes(changed_bytes(rng, json.dumps(document).encode()))
    return path


def network(
    path: Path, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], x: list[Any], y: list[Any]
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def convolutions(folder: Path) -> Path:
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c"], name="c1"),
        helper.make_node("Relu", ["c"], ["k"], name="r"),
        helper.make_node("Conv", ["k", "w2"], ["d"], name="c2"),
        helper.make_node("Conv", ["k", "w3"], ["e"], name="c3"),
        helper.make_node("Add", ["d", "e"], ["y"], name="a"),
    ]
    weights = {
        "w1": RNG.normal(size=(4, 3, 3, 3)) / 5,
        "b1": RNG.normal(size=4) / 10,
        "w2": RNG.normal(size=(4, 4, 3, 3)) / 6,
        "w3": RNG.normal(size=(4, 4, 3, 3)) / 6,
    }
    return network(folder / "m.onnx", nodes, weights, ["N", 3, 8, 8], ["N", 4, 4, 4])


def matrices(folder: Path) -> Path:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["k"], name="fc"),
        helper.make_node("Relu", ["k"], ["q"], name="r"),
        helper.make_node("MatMul", ["q", "w2"], ["y"], name="fc2"),
    ]
    weights = {"w": RNG.normal(size=(8, 16)), "w2": RNG.normal(size=(16, 4))}
    return network(folder / "t.onnx", nodes, weights, ["N", 4, 8], ["N", 4, 4])


class Plans(Campaign):
    """Plans of every form, applied."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        m, t = convolutions(folder), matrices(folder)
        images = {"x": RNG.normal(size=(8, 3, 8, 8)).astype(np.float32)}
        rows = {"x": RNG.normal(size=(8, 4, 8)).astype(np.float32)}
        self.plans = []
        kinds: tuple[tuple[Path, Any, dict[str, Any]], ...] = (
            (m, images, {"exclude": "c3"}),
            (m, images, {"target": "x86-avx2", "bias_correction": "on"}),
            (m, images, {"target": "tensorrt"}),
            (t, rows, {"smoothing": "on"}),
            (t, None, {"form": "dynamic"}),
            (t, None, {"form": "weight-only"}),
        )
        for model, data, options in kinds:
            calibration = None if data is None else qtool.calibrate(model, data).statistics
            plan = folder / "p.json"
            qtool.quantize(model, folder / "q.onnx", calibration=calibration, save_plan=plan, **options)
            self.plans.append((model, calibration, json.loads(plan.read_text())))

    def mutant(self, rng: random.Random) -> Callable[[], object]:
        model, calibration, document = rng.choice(self.plans)
        plan = written(rng, self.folder / "f.json", document)
        given = rng.choice((None, calibration))
        return lambda: qtool.quantize(model, self.folder / "q.onnx", calibration=given, plan=plan)


class Calibrations(Campaign):
    """Calibration files without a checksum, from which a model is made."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.files = []
        for model, shape in ((convolutions(folder), (8, 3, 8, 8)), (matrices(folder), (8, 4, 8))):
            data = {"x": RNG.normal(size=shape).astype(np.float32)}
            path = folder / "m.calib"
            qtool.calibrate(model, data, path)
            with zipfile.ZipFile(path) as archive:
                members = {name: archive.read(name) for name in archive.namelist() if name != "sha256"}
            self.files.append((model, members))

    def mutant(self, rng: random.Random) -> Callable[[], object]:
        model, members = rng.choice(self.files)
        members = dict(members)
        header = json.loads(members["header.json"])
        if rng.random() < 0.6:
            header = changed_json(rng, header)
        members["header.json"] = json.dumps(header).encode()
        if rng.random() < 0.5:
            name = rng.choice([name for name in members if name != "header.json"])
            array = np.load(io.BytesIO(members[name]))
            match rng.randrange(5):
                case 0:
                    members[name] = changed_bytes(rng, members[name])
                case 1:
                    del members[name]
                case 2:
                    members[name] = npy(array.reshape(-1)[: rng.randrange(array.size + 1)])
                case 3:
                    members[name] = npy(array.astype(rng.choice(("f2", "f8", "i8", "u1", "U3", "?", ">f4"))))
                case _:
                    flat = array.copy().reshape(-1)
                    if flat.size:
                        flat[rng.randrange(flat.size)] = rng.choice((0, 1, 100))
                    if flat.size and flat.dtype.kind == "f":
                        flat[rng.randrange(flat.size)] = rng.choice((np.nan, np.inf, -np.inf, 3e38, 1e-45))
                    members[name] = npy(flat.reshape(array.shape))
        path = self.folder / "f.calib"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        if rng.random() < 0.2:
            path.write_bytes(changed_bytes(rng, path.read_bytes()))
        calibrator = rng.choice(("max", "auto"))
        return lambda: qtool.quantize(model, self.folder / "q.onnx", calibration=path, calibrator=calibrator)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()


X = InputSpec("x", np.dtype(np.float32), ("N", 3, 8, 8))
IDS = InputSpec("input_ids", np.dtype(np.int64), ("N", "T"))


class Arrays(Campaign):
    """.npz and .npy files, read."""

    def mutant(self, rng: random.Random) -> Callable[[], object]:
        n = rng.choice((1, 4))
        x = RNG.normal(size=(n, 3, 8, 8)).astype(rng.choice(("f4", "f8", "f2", ">f4", "i4", "U1", "c8", "M8[s]", "S3")))
        x = np.asfortranarray(x) if rng.random() < 0.2 else x
        labels = np.arange(n).astype(rng.choice(("i8", "f4", "u8", "U2", "?")))
        members = {"x.npy": npy(x), "labels.npy": npy(labels)}
        name = rng.choice(list(members))
        data = members[name]
        if rng.random() < 0.6:
            # the header only
            members[name] = changed_bytes(rng, data[:128]) + data[128:]
        path = self.folder / rng.choice(("f.npz", "f.npz", "f.npy"))
        if path.suffix == ".npy":
            path.write_bytes(members["x.npy"])
        else:
            kind = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
            with zipfile.ZipFile(path, "w", kind) as archive:
                for name, content in members.items():
                    archive.writestr(name, content)
        if rng.random() < 0.6:
            path.write_bytes(changed_bytes(rng, path.read_bytes()))
        return lambda: list(open_feeds(path, [X]))


class Pictures(Campaign):
    """Pictures of every kind, read."""

    def mutant(self, rng: random.Random) -> Callable[[], object]:
        folder = self.folder / "pictures"
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        mode = rng.choice(("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"))
        picture = Image.fromarray(RNG.integers(0, 255, (20, 30, 3)).astype(np.uint8)).convert(
            "L" if ";" in mode else mode
        )
        if mode == "I;16":
            picture = Image.fromarray(RNG.integers(0, 65535, (20, 30)).astype(np.uint16))
        kinds = {"png": "PNG", "jpg": "JPEG", "bmp": "BMP", "webp": "WEBP", "gif": "GIF", "tiff": "TIFF"}
        kind = rng.choice(list(kinds))
        buffer = io.BytesIO()
        try:
            picture.save(buffer, kinds[kind])
        except (OSError, KeyError, ValueError):
            picture.convert("RGB").save(buffer, kinds[kind])
        path = folder / f"p.{rng.choice(('png', 'jpg', 'bmp', 'webp'))}"
        path.write_bytes(changed_bytes(rng, buffer.getvalue()) if rng.random() < 0.95 else buffer.getvalue())
        settings = {"resize": "center-crop", "crop": 0.5} if rng.random() < 0.5 else "unit"
        return lambda: list(open_feeds(folder, [X], preprocess=settings))


class Preprocesses(Campaign):
    """Settings of preprocessing, with pictures read by them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "im").mkdir(exist_ok=True)
        Image.fromarray(RNG.integers(0, 255, (20, 30, 3)).astype(np.uint8)).save(folder / "im" / "a.png")
        (folder / "im" / "labels.csv").write_text("file,label\na.png,1\n")

    def mutant(self, rng: random.Random) -> Callable[[], object]:
        document: dict[str, Any] = {
            "layout": "NCHW", "color": "RGB", "scale": 0.00392, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.2],
            "size": [8, 8], "resize": "center-crop", "crop": 0.875, "input_name": "x", "label_offset": 1,
        }  # fmt: skip
        if rng.random() < 0.5:
            del document["crop"]
            document |= {
                "preset": "yolo", "resize": "letterbox", "pad": [1, 2, 3], "interpolation": "linear", "edges": [8, 16],
                "categories": "id",
            }  # fmt: skip
        if rng.random() < 0.3:
            path = self.folder / "p.toml"
            text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in document.items())
            path.write_bytes(changed_bytes(rng, text.encode()))
        else:
            path = written(rng, self.folder / "p.json", document)
        spec = InputSpec("x", np.dtype(np.float32), ("N", 3, "H", "W"))
        return lambda: list(open_feeds(self.folder / "im", [spec], preprocess=path))


class Annotations(Campaign):
    """Labels beside pictures: COCO's annotations, YOLO's text files and masks, with the pictures that they are of."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        pictures, self.found = squares(2)
        write_pictures(folder / "images", pictures)
        self.document = coco(self.found)

    def mutant(self, rng: random.Random) -> Callable[[], object]:
        kind = rng.choice(("coco.json", "texts", "masks"))
        labels = self.folder / kind
        if kind == "coco.json":
            written(rng, labels, self.document)
        else:
            shutil.rmtree(labels, ignore_errors=True)
            if kind == "texts":
                write_yolo(labels, self.found)
            else:
                write_masks(labels, masks_of(self.found))
            spoilt = rng.choice(sorted(labels.iterdir()))
            spoilt.write_bytes(changed_bytes(rng, spoilt.read_bytes()))
        spec = InputSpec("x", np.dtype(np.float32), ("N", 3, 32, 48))
        return lambda: list(open_feeds(self.folder / "images", [spec], preprocess="yolo", labels=labels))


class Configs(Campaign):
    """Configurations, with the commands that read them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.model = convolutions(folder)
        self.data = folder / "d.npz"
        np.savez(self.data, x=RNG.normal(size=(2, 3, 8, 8)).astype(np.float32))

    def mutant(self, rng: random.Random) -> Callable[[], object]:
        values = (
            "5", "0.5", "true", "'a'", "[1]", "['a']", "{a = 1}", "nan", "inf", "-1", "2.7", "1979-05-27", "'max'",
            "'1%'", '"a\\u0000b"', "9" * 30, "9" * 5000, "'percentile:'", "07:32:00", "''", "[true]", "'x86-avx2'",
        )  # fmt: skip
        keys = (
            "samples", "batch-size", "threads", "checkpoint", "percentile", "calibrator", "exclude", "scheme", "target",
            "equalize", "dynamic", "preprocess", "provider", "trim", "state", "max-length", "plan", "smoothing",
        )  # fmt: skip
        lines = [f"{rng.choice(keys)} = {rng.choice(values)}" for _ in range(rng.choice((1, 1, 2)))]
        text = "\n".join([f"[{rng.choice(('quantize', 'quantize', 'calibrate', 'x'))}]", *lines]).encode()
        path = self.folder / "c.toml"
        path.write_bytes(changed_bytes(rng, text) if rng.random() < 0.4 else text)
        words = ["quantize", self.model, "--data", self.data, "-o", self.folder / "q.onnx", "--config", path]

        def run() -> None:
            result = CliRunner().invoke(app, [str(word) for word in words], standalone_mode=False)
            error = result.exception
            if error is not None and not isinstance(error, SystemExit) and "click" not in type(error).__module__:
                raise error

        return run


class Texts(Campaign):
    """Texts and their tokenizers, read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2, "[PAD]": 3}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.enable_truncation(16)
        self.tokenizer = json.loads(tokenizer.to_str())

    def mutant(self, rng: random.Random) -> Callable[[], object]:
        path, tokenizer = self.folder / "d.jsonl", self.folder / "tokenizer.json"
        tokenizer.write_text(json.dumps(self.tokenizer))
        line = {"text": "a b c", "label": 1}
        path.write_text(json.dumps(line) + "\n")
        if rng.random() < 0.5:
            written(rng, tokenizer, self.tokenizer)
        else:
            written(rng, path, line)
        options: dict[str, Any] = {"max_length": rng.choice((1, 2, 64, 2**62))} if rng.random() < 0.3 else {}
        spec = IDS if rng.random() < 0.5 else InputSpec("input_ids", np.dtype(np.int32), ("N", 4))
        return lambda: list(open_feeds(path, [spec], tokenizer=tokenizer, **options))


class Tables(Campaign):
    """labels.csv, numbers in .jsonl, and tensors of test sets, read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        for name in ("1", "2"):
            (folder / "data").mkdir(exist_ok=True)
            np.save(folder / "data" / f"{name}.npy", np.zeros((3, 8, 8), np.float32))
        (folder / "test_data_set_0").mkdir(exist_ok=True)

    def mutant(self, rng: random.Random) -> Callable[[], object]:
        match rng.randrange(3):
            case 0:
                data = self.folder / "data"
                (data / "labels.csv").write_bytes(changed_bytes(rng, b"file,label\n1.npy,3\n2.npy,4\n"))
            case 1:
                data = self.folder / "d.jsonl"
                record = {"x": np.zeros((3, 2, 2)).tolist(), "label": 1, "other": [1, 2]}
                written(rng, data, record)
                spec = InputSpec("x", np.dtype(np.float32), ("N", 3, 2, 2))
                return lambda: list(open_feeds(data, [spec]))
            case _:
                data = self.folder / "test_data_set_0"
                tensor = numpy_helper.from_array(np.zeros((1, 3, 8, 8), rng.choice(("f4", "f8", "i8"))), "x")
                (data / "input_0.pb").write_bytes(changed_bytes(rng, tensor.SerializeToString()))
        return lambda: list(open_feeds(data, [X]))


class Analyses(Campaign):
    """Files that `sensitivity` goes on from, read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        model = convolutions(folder)
        self.data = {"x": RNG.normal(size=(4, 3, 8, 8)).astype(np.float32)}
        self.model, self.statistics = model, qtool.calibrate(model, self.data).statistics
        path = folder / "s.json"
        self._run(path)
        self.document = json.loads(path.read_text())
        self.document.pop("checksum", None)

    def _run(self, path: Path) -> object:
        return qtool.sensitivity(
            self.model, self.data, calibration=self.statistics, calibrator="max", threads=1, output=path
        )

    def mutant(self, rng: random.Random) -> Callable[[], object]:
        path = written(rng, self.folder / "f.json", self.document)
        if rng.random() < 0.8:
            return lambda: load_found(path, self.document["identity"])
        return lambda: self._run(path)


KINDS: dict[str, type[Campaign]] = {
    kind.__name__.lower(): kind
    for kind in (Plans, Calibrations, Arrays, Pictures, Preprocesses, Annotations, Configs, Texts, Tables, Analyses)
}


def verdict(read: Callable[[], object]) -> str:
    """What is wrong with how it ended; "read" or "refused" where nothing is."""
    result = "read"
    began = time.monotonic()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            read()
        except QtoolError as error:
            if "\n" in str(error) or "please report" in str(error):
                return f"a message of several lines, or that asks to report: {str(error)[:300]!r}"
            result = "refused"
        except MemoryError:
            return "MemoryError"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            frames = traceback.extract_tb(error.__traceback__)
            own = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames if "qtool" in frame.filename]
            return f"{type(error).__name__}: {str(error)[:120]!r} at {' '.join(own[-3:])}"
    if told:
        return (
            f"a warning: {told[0].category.__name__} {str(told[0].message)[:100]!r} {told[0].filename}:{told[0].lineno}"
        )
    took = time.monotonic() - began
    return f"slow: {took:.0f} s" if took > SLOW_S else result


def main() -> None:
    """Run the campaigns that are asked for, and print what is wrong, once for each place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}; all by default")
    parser.add_argument("-n", "--mutants", type=int, default=500, help="of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the first mutant")
    options = parser.parse_args()
    confine()
    wrong = 0
    for kind in options.kinds or KINDS:
        with tempfile.TemporaryDirectory() as folder:
            campaign = KINDS[kind](Path(folder))
            found: Counter[str] = Counter()
            well: Counter[str] = Counter()
            for seed in range(options.seed, options.seed + options.mutants):
                said = verdict(campaign.mutant(random.Random(seed)))
                if said in ("read", "refused"):
                    well[said] += 1
                else:
                    place = said.rpartition(" at ")[2]
                    found[place] += 1
                    if found[place] == 1:
                        print(f"  {kind} {seed}: {said}", flush=True)
            wrong += found.total()
            print(f"{kind}: {well['read']} read, {well['refused']} refused, {found.total()} wrong", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
