"""Folders of pictures: decoding, labels, order, refusals; and the model zoo's own preprocessing."""

import importlib.util
import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qtool.core.errors import DataError
from qtool.core.tensorspec import InputSpec
from qtool.feeds import open_feeds
from qtool.runtime.session import Session
from tests.support.places import ZOO

FRAME = Image.new("RGB", (5, 6))
X = InputSpec("x", np.dtype(np.float32), ("N", 6, 5, 3))
# zoo.py opens labels.csv without closing it
ZOO_LEAVES_FILES_OPEN = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


def picture(seed: int, height: int = 6, width: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, array: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def refused(data: Path, *inputs: InputSpec, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        list(open_feeds(data, inputs or [X], **options))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_pictures_of_every_kind_in_natural_order(tmp_path):
    names = ["1.png", "2.BMP", "10.webp", "ü 11.png"]
    for i, name in enumerate(names):
        save(tmp_path / name, picture(i), **({"lossless": True} if name.endswith("webp") else {}))
    save(tmp_path / "ü 12.jpeg", picture(9), quality=95)
    (tmp_path / "._1.png").write_bytes(b"junk")
    (tmp_path / "notes.txt").write_text("")
    feeds = open_feeds(tmp_path, [X], preprocess="raw", batch_size=2)
    assert feeds.samples == 5
    for _ in range(2):
        batches = list(feeds)
        stacked = np.concatenate([b.inputs["x"] for b in batches])
        np.testing.assert_array_equal(stacked[:4], np.stack([picture(i) for i in range(4)]))
        jpeg = np.asarray(Image.open(tmp_path / "ü 12.jpeg").convert("RGB"))
        np.testing.assert_array_equal(stacked[4], jpeg)
    assert batches[0].origin == f"{tmp_path / '1.png'} to {tmp_path / '2.BMP'}"
    assert batches[2].origin == str(tmp_path / "ü 12.jpeg")
    assert all(b.labels == {} for b in batches)


def test_labels_from_sub_folders(tmp_path):
    for name in ("dog/a.png", "cat/deep/b.png", "cat/c.png", "zebra/d.png"):
        save(tmp_path / name, picture(0))
    (tmp_path / "empty class").mkdir()
    batches = list(open_feeds(tmp_path, [X], preprocess="raw"))
    found = {Path(b.origin).relative_to(tmp_path).as_posix(): b.labels["labels"].tolist() for b in batches}
    assert found == {"cat/c.png": [0], "cat/deep/b.png": [0], "dog/a.png": [1], "zebra/d.png": [3]}


def test_pictures_in_one_folder_or_beside_folders_have_no_labels(tmp_path):
    save(tmp_path / "only" / "a.png", picture(0))
    assert [b.labels for b in open_feeds(tmp_path, [X], preprocess="raw")] == [{}]
    save(tmp_path / "b.png", picture(0))
    save(tmp_path / "other" / "a.png", picture(0))
    assert [b.labels for b in open_feeds(tmp_path, [X], preprocess="raw")] == [{}, {}, {}]


def test_labels_csv_gives_order_and_labels(tmp_path):
    for i in range(3):
        save(tmp_path / "sub" / f"{i}.png", picture(i))
    (tmp_path / "labels.csv").write_text("label,file,note\n7,sub/2.png,x\n5,sub/0.png,y\n", encoding="utf-8-sig")
    feeds = open_feeds(tmp_path, [X], preprocess={"label_offset": -1}, batch_size=2)
    (batch,) = feeds
    assert feeds.samples == 2
    np.testing.assert_array_equal(batch.inputs["x"], np.stack([picture(2), picture(0)]))
    assert batch.labels["labels"].tolist() == [6, 4]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,label\na.png,1\n", ["'file' and 'label'", "name"]),
        ("", ["'file' and 'label'"]),
        ("file,label\n", ["lists no files"]),
        ("file,label\na.png,1\nb.png,1\n", ["line 3", "'b.png' does not exist"]),
        ("file,label\na.png,cat\n", ["line 2", "'cat' is no whole number"]),
        ("file,label\na.png\n", ["line 2", "'' is no whole number"]),
    ],
)
def test_a_bad_labels_csv_names_the_line(tmp_path, text, words):
    save(tmp_path / "a.png", picture(0))
    (tmp_path / "labels.csv").write_text(text)
    message = refused(tmp_path, preprocess="raw")
    for word in words:
        assert word in message


def test_gray_palette_and_transparent_pictures_become_rgb(tmp_path):
    Image.fromarray(picture(0)).convert("L").save(tmp_path / "0.png")
    Image.fromarray(picture(0)).convert("P").save(tmp_path / "1.png", transparency=bytes([0, 9, 255]))
    Image.fromarray(picture(0)).convert("RGBA").save(tmp_path / "2.png")
    Image.fromarray(picture(0)).convert("1").save(tmp_path / "3.png")
    rows = [b.inputs["x"][0] for b in open_feeds(tmp_path, [X], preprocess="raw")]
    assert len(rows) == 4
    np.testing.assert_array_equal(rows[2], picture(0))
    np.testing.assert_array_equal(rows[0][..., 0], rows[0][..., 2])


def test_pictures_of_other_sizes_are_resized_or_run_one_by_one(tmp_path):
    save(tmp_path / "0.png", picture(0))
    save(tmp_path / "1.png", picture(1, 12, 10))
    assert [b.inputs["x"].shape for b in open_feeds(tmp_path, [X], preprocess="raw", batch_size=2)] == [(2, 6, 5, 3)]
    free = InputSpec("x", np.dtype(np.float32), ("N", "H", "W", 3))
    shapes = [b.inputs["x"].shape for b in open_feeds(tmp_path, [free], preprocess="raw", batch_size=2)]
    assert shapes == [(1, 6, 5, 3), (1, 12, 10, 3)]
    fixed = InputSpec("x", np.dtype(np.float32), (2, "H", "W", 3))
    assert "do not fill a batch of 2" in refused(tmp_path, fixed, preprocess="raw")


def test_fixed_batch_leftovers_are_refused_before_reading(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(b"never read")
    with pytest.raises(DataError, match="samples=4"):
        open_feeds(tmp_path, [InputSpec("x", np.dtype(np.float32), (2, 6, 5, 3))], preprocess="raw")


def test_a_float_input_needs_preprocess_and_a_uint8_input_does_not(tmp_path):
    save(tmp_path / "0.png", picture(0))
    assert "preprocess" in refused(tmp_path)
    (batch,) = open_feeds(tmp_path, [InputSpec("x", np.dtype(np.uint8), ("N", 3, 6, 5))])
    assert batch.inputs["x"].dtype == np.uint8
    np.testing.assert_array_equal(batch.inputs["x"][0], picture(0).transpose(2, 0, 1))
    two = [X, InputSpec("y", np.dtype(np.float32), ("N", 1))]
    assert "'x', 'y'" in refused(tmp_path, *two, preprocess="raw")


def test_damaged_pictures_are_named(tmp_path):
    path = tmp_path / "0.jpg"
    save(path, picture(0, 64, 64))
    good = path.read_bytes()
    for bad in (b"", b"no picture", good[: len(good) // 2]):
        path.write_bytes(bad)
        message = refused(tmp_path, preprocess="raw")
        assert message.startswith(f"{path}: is damaged or no image")


def test_sixteen_bit_pictures_are_refused_rather_than_clipped(tmp_path):
    Image.fromarray(np.full((6, 5), 5000, np.uint16)).save(tmp_path / "0.png")
    assert "8 bits" in refused(tmp_path, preprocess="raw")


def test_without_pillow_the_extra_is_named(tmp_path, monkeypatch):
    save(tmp_path / "0.png", picture(0))
    for name in [name for name in sys.modules if name.split(".")[0] == "PIL"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert "needs Pillow: pip install pillow (or pip install '.[images]' in qtool's folder)" in refused(
        tmp_path, preprocess="raw"
    )
    arrays = {"x": picture(0, 12, 10)[None]}
    assert "needs Pillow: pip install pillow (or pip install '.[images]' in qtool's folder)" in refused(
        arrays, preprocess="raw"
    )  # type: ignore[arg-type]
    assert len(list(open_feeds({"x": picture(0)[None]}, [X], preprocess="raw"))) == 1


@pytest.fixture(scope="module")
def zoo():
    if not (ZOO / "zoo.py").is_file():
        pytest.skip(f"no model zoo at {ZOO}; set QTOOL_ZOO")
    specification = importlib.util.spec_from_file_location("zoo_for_feeds", ZOO / "zoo.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.zoo
@ZOO_LEAVES_FILES_OPEN
@pytest.mark.parametrize("name", ["mobilenetv2", "mobilenetv1_025", "squeezenet1_1", "ultraface_rfb320"])
def test_the_zoo_s_pictures_come_bit_for_bit(zoo, name):
    session = Session(ZOO / name / "model.onnx")
    data = ZOO / name / "calib.npz" if name == "ultraface_rfb320" else ZOO / "imagenet" / "calib"
    feeds = open_feeds(data, session.inputs, preprocess=ZOO / name / "preprocess.json", samples=12, batch_size=5)
    found = np.concatenate([b.inputs["input"] for b in feeds])
    expected = np.concatenate([f["input"] for f in zoo.feeds(name, "calib", 12)])
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


@pytest.mark.zoo
@ZOO_LEAVES_FILES_OPEN
def test_the_zoo_s_labels_come_in_order(zoo):
    session = Session(ZOO / "mobilenetv2" / "model.onnx")
    feeds = open_feeds(ZOO / "imagenet" / "eval", session.inputs, preprocess="imagenet", batch_size=16, samples=64)
    found = np.concatenate([b.labels["labels"] for b in feeds])
    np.testing.assert_array_equal(found, zoo.pictures("eval")[1][:64])


@pytest.mark.zoo
@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize("name", ["mlperf_kws", "mlperf_resnet8", "mlperf_vww", "minilm_sst2", "g2p_gru"])
def test_the_zoo_s_arrays_come_as_they_are_and_run(name):
    session = Session(ZOO / name / "model.onnx")
    data = np.load(ZOO / name / "eval.npz")
    for batch in open_feeds(ZOO / name / "eval.npz", session.inputs, samples=6, batch_size=4):
        part = slice(batch.start, batch.start + batch.size)
        for key, array in {**batch.inputs, **batch.labels}.items():
            np.testing.assert_array_equal(array, data[key][part])
        session.run(batch.inputs)


def test_sets_of_labelled_folders_are_no_classes(tmp_path):
    for i, name in enumerate(("train/cat/a", "train/dog/b", "val/dog/c", "val/cat/d")):
        save(tmp_path / f"{name}.png", picture(i))
    said = refused(tmp_path, preprocess="raw")
    assert "holds 'train', 'val', each with the sub-folders 'cat', 'dog'" in said
    remedy = Path(said.rpartition("such as ")[2])
    assert [int(b.labels["labels"][0]) for b in open_feeds(remedy, [X], preprocess="raw")] == [0, 1]
    for name in ("c", "d"):
        next(tmp_path.rglob(f"{name}.png")).unlink()
    # the only folder in a folder stands for it
    assert [int(b.labels["labels"][0]) for b in open_feeds(tmp_path, [X], preprocess="raw")] == [0, 1]


def test_folders_of_sets_without_classes_say_no_labels(tmp_path):
    for i, name in enumerate(("train/a", "test/b")):
        save(tmp_path / f"{name}.png", picture(i))
    assert all(not batch.labels for batch in open_feeds(tmp_path, [X], preprocess="raw"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "write", "says"),
    [
        ("film.webp", lambda p: FRAME.save(p, save_all=True, append_images=[Image.new("RGB", (5, 6), 9)]),
         "is a film of 2 pictures"),
        ("huge.png", lambda p: p.write_bytes(png_of(2**14, 2**13 + 1)), "has 16384 x 8193 pixels, more than"),
        ("bomb.png", lambda p: p.write_bytes(png_of(2**15, 2**15)), "decompression bomb"),
        ("script.png", lambda p: p.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n"), "not one of"),
        ("tiff.png", lambda p: Image.new("RGB", (5, 6)).save(p, "TIFF"), "not one of JPEG"),
        ("cut.jpg", lambda p: p.write_bytes(jpeg()[:200]), "damaged or no image"),
    ],
)  # fmt: skip
def test_pictures_that_are_none(tmp_path, name, write, says):
    write(tmp_path / name)
    assert says in refused(tmp_path, preprocess="raw")


def png_of(width: int, height: int) -> bytes:
    """The beginning of a PNG of that size."""
    chunks = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0), b"IDAT" + b"x" * 9
    parts = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(0, 60, 50)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_a_long_strip_is_not_made_huge(tmp_path):
    save(tmp_path / "a.png", picture(0, 1, 1000))
    free, settings = InputSpec("x", X.dtype, ("N", "H", "W", 3)), {"size": [400, 400], "layout": "NHWC"}
    said = refused(tmp_path, free, preprocess={**settings, "resize": "center-crop"})
    assert "a.png: 1000 x 1 pixels take too much memory with resize center-crop" in said
    assert len(list(open_feeds(tmp_path, [free], preprocess={**settings, "resize": "stretch"}))) == 1


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("in.png,9223372036854775808", "does not fit into 64 bits"),
        ("in.png,-9223372036854775809", "does not fit into 64 bits"),
        ("../out.png,1", "lies outside of"),
        ("link.png,1", "lies outside of"),
        ("sub/out.png,1", "lies outside of"),
        ("{outside},1", "lies outside of"),
        ("in\0.png,1", "does not exist"),
    ],
)
def test_labels_csv_names_files_of_its_folder(tmp_path, row, says):
    folder = tmp_path / "in"
    for path in (folder / "in.png", tmp_path / "out.png"):
        save(path, picture(0))
    (folder / "link.png").symlink_to(tmp_path / "out.png")
    (folder / "sub").symlink_to(tmp_path)
    (folder / "labels.csv").write_text(f"file,label\n{row.format(outside=tmp_path / 'out.png')}\n")
    said = refused(folder, preprocess="raw")
    assert "labels.csv, line 2: " in said and says in said


def test_a_label_and_its_offset_have_64_bits(tmp_path):
    save(tmp_path / "a.png", picture(0))
    (tmp_path / "labels.csv").write_text(f"file,label\na.png,{2**63 - 1}\n")
    assert "64 bits do not hold" in refused(tmp_path, preprocess={"label_offset": 1})


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_lies_as_its_camera_was_held(tmp_path, orientation):
    """EXIF 2.32, tag 0x0112: which side of the picture the first row and the first column are."""
    upright = picture(1)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path / "a.png", np.ascontiguousarray(stored), exif=exif)
    (batch,) = open_feeds(tmp_path, [X], preprocess="raw")
    np.testing.assert_array_equal(batch.inputs["x"][0], upright)


def test_a_picture_is_read_although_its_exif_is_damaged(tmp_path):
    save(tmp_path / "a.png", picture(1), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    (batch,) = open_feeds(tmp_path, [X], preprocess="raw")
    np.testing.assert_array_equal(batch.inputs["x"][0], picture(1))
