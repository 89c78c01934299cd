"""Formats that people give in the place of one another, known by their first bytes, and what to do instead."""

import zipfile
from pathlib import Path

from qtool.core.errors import arg

_NUMPY, _CALIBRATION, _HEADER = "NumPy data", "a calibration file", "header.json"
_EXPORTS = {
    "a PyTorch file": "export the model with torch.onnx.export",
    "a TensorFlow Lite model": "convert it with tf2onnx",
    "a TensorFlow graph": "convert it with tf2onnx",
    "a Keras or HDF5 file": "convert it with tf2onnx",
    "a safetensors file of weights": "export the model to ONNX",
    "an OpenVINO model": "give the ONNX model that it was made of",
    _NUMPY: f"give it as {arg('data')}, and the ONNX model in its place",
    _CALIBRATION: f"give it as {arg('calibration')}, and the ONNX model in its place",
}
"""What is no ONNX model -> what to do instead."""
_MARKS = (
    (4, b"TFL3", "a TensorFlow Lite model"),
    (0, b"\x89HDF", "a Keras or HDF5 file"),
    (0, b"\x93NUMPY", _NUMPY),
    (8, b'{"', "a safetensors file of weights"),
    (0, b"<?xml", "an OpenVINO model"),
    (0, b"<net ", "an OpenVINO model"),
)
"""Offset, the bytes there, and what they say."""
_NAME_LENGTH, _NAME = slice(26, 28), 30
"""Where a zip file's first header has the length of the first name, and where the name begins (APPNOTE.TXT, 4.3.7)."""
_SUFFIXES = {".pt": "a PyTorch file", ".pth": "a PyTorch file", ".pb": "a TensorFlow graph", ".onnx": "an ONNX model"}
"""Of formats that their first bytes do not tell, or not always."""


def recognised(path: str | Path) -> str | None:
    """Return what a regular file is, as far as its first bytes say; None for any other."""
    try:
        # a pipe would be waited for
        if not Path(path).is_file():
            return None
        with Path(path).open("rb") as file:
            head = file.read(64)
    except OSError:
        return None
    for start, mark, what in _MARKS:
        if head[start:].startswith(mark):
            return what
    return _archive(path, head) if head.startswith(b"PK\x03\x04") else None


def _archive(path: str | Path, head: bytes) -> str | None:
    """What a zip file is, by the names in it; of a truncated one, by the first of them, which `head` holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        length = int.from_bytes(head[_NAME_LENGTH], "little")
        names = [head[_NAME : _NAME + length].decode(errors="replace")]
    if any(name.endswith("data.pkl") for name in names):
        return "a PyTorch file"
    if _HEADER in names:
        return _CALIBRATION
    return _NUMPY if names and all(name.endswith(".npy") for name in names) else None


def is_calibration(path: str | Path) -> bool:
    """Return whether a file is a calibration file, as far as its first bytes and the names in it say."""
    return recognised(path) == _CALIBRATION


def is_json(path: str | Path) -> bool:
    """Return whether a file begins as a JSON object does; no model and no calibration file does so."""
    try:
        # a pipe would be waited for
        if not Path(path).is_file():
            return False
        with Path(path).open("rb") as file:
            return file.read(64).lstrip().startswith(b"{")
    except OSError:
        return False


def no_model(path: str | Path) -> str | None:
    """Return why a path is no ONNX model, and what to do; None where nothing says so before it is read."""
    file = Path(path)
    if not file.exists():
        return f"no such file; give the path of an ONNX model{tilde(path)}"
    if file.is_dir():
        return _folder(file)
    if not file.is_file():
        return "is no regular file; give the path of an ONNX model"
    found = recognised(file)
    return f"is {found}, not an ONNX model; {_EXPORTS[found]}" if found in _EXPORTS else None


def not_onnx(path: str | Path) -> str:
    """Return what to say of a file that does not parse as an ONNX model, and that `no_model` let pass."""
    found = _SUFFIXES.get(Path(path).suffix.lower())
    if found in _EXPORTS:
        return f"not an ONNX model but, by its name, {found}; {_EXPORTS[found]}"
    return "not an ONNX model, or truncated; export or download it again"


def _folder(folder: Path) -> str:
    found = sorted(file.name for file in folder.glob("*.onnx"))
    if (folder / "saved_model.pb").is_file():
        return "is a TensorFlow SavedModel; convert it with tf2onnx"
    if found:
        return f"is a folder; give the model in it, such as {folder / found[0]}"
    return "is a folder; give the path of an ONNX model"


def tilde(path: str | Path) -> str:
    """Return what to add where a path that is not there begins with ~, which only a shell expands; else nothing."""
    return " (~ is not expanded here: write the whole path)" if str(path).startswith("~") else ""


def instead_of_data(path: str | Path) -> str | None:
    """Return what a file is that was given as data, and where it belongs; None where nothing says so."""
    if recognised(path) == _CALIBRATION:
        return f"is a calibration file; give it as {arg('calibration')} to `qtool quantize` or `qtool sensitivity`"
    if Path(path).suffix.lower() == ".onnx":
        return f"is a model, not data; give it as {arg('model')}"
    return None


def instead_of_calibration(path: str | Path) -> str | None:
    """Return what a file is that was given as a calibration file, and where it belongs; None where nothing says so."""
    if recognised(path) == _NUMPY:
        return f"is data, not a calibration file; calibrate with it as {arg('data')}"
    if Path(path).suffix.lower() == ".onnx":
        return "is a model, not a calibration file; make one with `qtool calibrate`"
    return None
