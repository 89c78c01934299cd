"""Files that are given in the place of another are called by their name."""

import os
import zipfile

import numpy as np
import pytest

from qtool.core.recognition import no_model, not_onnx, recognised

HEADS = {
    "m.tflite": (b"\x1c\0\0\0TFL3" + bytes(20), "a TensorFlow Lite model"),
    "m.h5": (b"\x89HDF\r\n\x1a\n" + bytes(20), "a Keras or HDF5 file"),
    "m.safetensors": (b"\x40" + bytes(7) + b'{"a":{"dtype":"F32"', "a safetensors file of weights"),
    "m.xml": (b'<?xml version="1.0"?>\n<net name="m">', "an OpenVINO model"),
    "m.txt": (b"hello", None),
    "m.bin": (b"", None),
    "m.onnx": (b"\x08\x08\x12\x04test", None),
    "m.zip": (b"PK\x03\x04 and no archive", None),
}


@pytest.mark.parametrize("name", HEADS)
def test_the_first_bytes_say_what_a_file_is(name, tmp_path):
    content, what = HEADS[name]
    (tmp_path / name).write_bytes(content)
    assert recognised(tmp_path / name) == what
    why = no_model(tmp_path / name)
    assert why is None if what is None else why.startswith(f"is {what}, not an ONNX model; ")


@pytest.mark.parametrize(
    ("members", "what"),
    [
        (["archive/data.pkl", "archive/data/0"], "a PyTorch file"),
        (["header.json", "0.filled.npy"], "a calibration file"),
        (["x.npy", "labels.npy"], "NumPy data"),
        (["README.txt"], None),
    ],
)
def test_the_members_of_an_archive_say_what_it_is(members, what, tmp_path):
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        for member in members:
            archive.writestr(member, b"")
    assert recognised(tmp_path / "a") == what
    whole = (tmp_path / "a").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) - 30])
    assert recognised(tmp_path / "cut") == what


def test_arrays_folders_and_what_is_not_there(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    assert recognised(tmp_path / "x.npy") == "NumPy data"
    os.mkfifo(tmp_path / "pipe")
    assert [recognised(tmp_path / name) for name in ("none", "pipe", ".")] == [None] * 3
    assert no_model(tmp_path) == "is a folder; give the path of an ONNX model"
    (tmp_path / "saved_model.pb").touch()
    assert no_model(tmp_path) == "is a TensorFlow SavedModel; convert it with tf2onnx"
    assert no_model("/dev/null").startswith("is no regular file")
    assert not_onnx("g.pb") == "not an ONNX model but, by its name, a TensorFlow graph; convert it with tf2onnx"
    assert not_onnx("m.onnx") == "not an ONNX model, or truncated; export or download it again"
