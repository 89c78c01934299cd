"""The preprocessing formula, its settings, files and presets, and how it meets a model's input."""

import json

import numpy as np
import pytest
from PIL import Image

from qtool.core.errors import DataError, UsageError
from qtool.core.tensorspec import InputSpec
from qtool.feeds import PRESETS, Preprocess, load_preprocess, open_feeds

NCHW = InputSpec("x", np.dtype(np.float32), ("N", 3, 6, 5))
NHWC = InputSpec("x", np.dtype(np.float32), ("N", 6, 5, 3))
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def pictures(count: int = 2, height: int = 6, width: int = 5, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def fed(data: np.ndarray, spec: InputSpec, preprocess: object, batch_size: int = 2) -> np.ndarray:
    feeds = open_feeds({"pictures": data}, [spec], preprocess=preprocess, batch_size=batch_size)  # type: ignore[arg-type]
    batches = list(feeds)
    assert all(b.inputs["x"].flags.c_contiguous for b in batches)
    return np.concatenate([b.inputs["x"] for b in batches])


@pytest.mark.parametrize("color", ["RGB", "BGR"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("scale", "mean", "std"),
    [(1 / 255, MEAN, STD), (2 / 255, [1, 1, 1], [1, 1, 1]), (1.0, [127, 120, 110], [128, 127, 126])],
)
def test_the_bits_are_those_of_the_plain_formula(color, layout, scale, mean, std):
    # all 256 values in every channel
    u8 = np.stack([np.arange(256), np.arange(256)[::-1], np.roll(np.arange(256), 7)], -1)
    u8 = u8.astype(np.uint8).reshape(1, 16, 16, 3)
    x = u8.astype(np.float32)
    if color == "BGR":
        x = x[..., ::-1]
    x = (x * np.float32(scale) - np.array(mean, np.float32)) / np.array(std, np.float32)
    if layout == "NCHW":
        x = x.transpose(0, 3, 1, 2)
    shape = ("N", 3, None, None) if layout == "NCHW" else ("N", None, None, 3)
    settings = {"layout": layout, "color": color, "scale": scale, "mean": mean, "std": std}
    found = fed(u8, InputSpec("x", np.dtype(np.float32), shape), settings)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32), np.ascontiguousarray(x).view(np.uint32))


@pytest.mark.parametrize(
    ("preset", "low", "high"),
    [("unit", 0, 1), ("tf", -1, 1), ("raw", 0, 255)],
)
def test_presets_give_their_range_in_the_model_s_layout(preset, low, high):
    u8 = pictures()
    u8[0, 0, 0], u8[0, 0, 1] = 0, 255
    for spec in (NCHW, NHWC):
        x = fed(u8, spec, preset)
        assert x.shape[1:] == spec.shape[1:]
        assert (x.min(), x.max()) == pytest.approx((low, high))


def test_imagenet_and_caffe_presets():
    u8 = pictures()
    expected = (u8 / 255 - MEAN) / STD
    np.testing.assert_allclose(fed(u8, NHWC, "imagenet-nhwc"), expected, atol=1e-5)
    np.testing.assert_allclose(fed(u8, NCHW, "imagenet"), expected.transpose(0, 3, 1, 2), atol=1e-5)
    expected = u8[..., ::-1] - np.array([103.939, 116.779, 123.68])
    np.testing.assert_allclose(fed(u8, NHWC, "caffe"), expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 6, 5), (3, 6, 5, 1)])
def test_gray_arrays(shape):
    u8 = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    spec = InputSpec("x", np.dtype(np.float32), ("N", 1, 6, 5))
    np.testing.assert_allclose(fed(u8, spec, "unit-gray"), u8.reshape(3, 1, 6, 5) / 255, atol=1e-6)


def test_colour_arrays_become_gray_by_luma():
    u8 = pictures()
    spec = InputSpec("x", np.dtype(np.float32), ("N", 6, 5, 1))
    found = fed(u8, spec, {"color": "GRAY"})[..., 0]
    assert np.abs(found - u8 @ np.array([0.299, 0.587, 0.114])).max() <= 1


def test_dictionaries_may_hold_one_picture_or_several():
    u8 = pictures(5)
    data = [{"x": u8[0], "labels": 3}, {"x": u8[1:3], "labels": [4, 5]}, {"x": u8[3:]}]
    batches = list(open_feeds(data, [NCHW], preprocess="raw"))
    assert [b.size for b in batches] == [1, 2, 2]
    assert batches[0].labels["labels"].tolist() == [3]
    np.testing.assert_array_equal(
        np.concatenate([b.inputs["x"] for b in batches]), u8.transpose(0, 3, 1, 2).astype(np.float32)
    )
    gray = InputSpec("x", np.dtype(np.float32), ("N", 1, 6, 5))
    (batch,) = open_feeds([{"x": u8[0, ..., 0], "labels": 3}], [gray], preprocess="unit-gray")
    assert batch.labels["labels"].tolist() == [3]


def test_other_input_types():
    u8 = pictures()
    for dtype in (np.uint8, np.float16, np.float64, np.int32):
        spec = InputSpec("x", np.dtype(dtype), ("N", 6, 5, 3))
        found = fed(u8, spec, "raw")
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, u8)
    with pytest.raises(DataError, match="cannot hold"):
        fed(u8, InputSpec("x", np.dtype(np.uint8), ("N", 6, 5, 3)), "unit")
    with pytest.raises(DataError, match="cannot hold"):
        fed(u8, InputSpec("x", np.dtype(np.float16), ("N", 6, 5, 3)), {"scale": 1000})


def test_stretch_resizes_like_pillow():
    u8 = pictures(height=12, width=20)
    expected = [np.asarray(Image.fromarray(p).resize((5, 6), Image.Resampling.BILINEAR)) for p in u8]
    np.testing.assert_array_equal(fed(u8, NHWC, "raw"), np.stack(expected))


@pytest.mark.parametrize(("height", "width"), [(300, 500), (500, 300), (260, 260), (30, 40), (224, 300)])
def test_center_crop_is_resize_256_then_crop_224(height, width):
    u8 = pictures(1, height, width)
    short, long = sorted((height, width))
    size = (256, int(256 * long / short)) if width == short else (int(256 * long / short), 256)
    resized = Image.fromarray(u8[0]).resize(size, Image.Resampling.BILINEAR)
    left, top = round((resized.width - 224) / 2), round((resized.height - 224) / 2)
    expected = np.asarray(resized.crop((left, top, left + 224, top + 224)))
    spec = InputSpec("x", np.dtype(np.float32), ("N", 224, 224, 3))
    np.testing.assert_array_equal(fed(u8, spec, {"resize": "center-crop", "crop": 0.875})[0], expected)


@pytest.mark.parametrize("shape", [(11, 7), (7, 11), (100, 3), (1, 1), (6, 50)])
def test_center_crop_always_covers_and_keeps_the_middle(shape):
    u8 = np.full((1, *shape, 3), 9, np.uint8)
    for crop in (1.0, 0.9, 0.5):
        found = fed(u8, NHWC, {"resize": "center-crop", "crop": crop})
        np.testing.assert_array_equal(found, np.full((1, 6, 5, 3), 9))  # black borders would show


def test_a_model_of_free_size_takes_pictures_as_they_are_or_the_stated_size():
    free = InputSpec("x", np.dtype(np.float32), ("N", 3, "H", "W"))
    assert fed(pictures(height=7, width=9), free, "unit").shape == (2, 3, 7, 9)
    assert fed(pictures(height=7, width=9), free, {"size": [4, 8]}).shape == (2, 3, 4, 8)
    assert fed(pictures(height=7, width=9), free, {"size": 4}).shape == (2, 3, 4, 4)


def test_label_offset_moves_integer_class_labels_only():
    data = {"x": pictures(), "labels": np.array([0, 255], np.uint8), "boxes": np.array([1, 2])}
    (batch,) = open_feeds(data, [NCHW], preprocess={"label_offset": 1}, batch_size=2)
    assert batch.labels["labels"].tolist() == [1, 256]
    assert batch.labels["boxes"].tolist() == [1, 2]
    data["labels"] = np.array([0.5, 1.5])
    (batch,) = open_feeds(data, [NCHW], preprocess={"label_offset": 1}, batch_size=2)
    assert batch.labels["labels"].tolist() == [0.5, 1.5]


def test_one_of_several_inputs_takes_the_pictures():
    mask = InputSpec("mask", np.dtype(np.float32), ("N", 1, 6, 5))
    scale = InputSpec("scale", np.dtype(np.float32), ("N", 1))
    data = {
        "x": pictures(),
        "mask": np.ones((2, 1, 6, 5), np.float32),
        "scale": np.ones((2, 1), np.float32),
    }
    (batch,) = open_feeds(data, [scale, NCHW, mask], preprocess={"input_name": "x", "scale": 2}, batch_size=2)
    assert batch.inputs["x"].shape == (2, 3, 6, 5)
    assert batch.inputs["mask"].max() == 1
    del data["mask"]
    (batch,) = open_feeds(data, [scale, NCHW], preprocess="unit", batch_size=2)
    assert batch.inputs["x"].max() <= 1
    with pytest.raises(UsageError, match="set input_name to one of 'x', 'mask'"):
        open_feeds(data, [NCHW, mask], preprocess="unit")
    with pytest.raises(UsageError, match=r"'X'.*did you mean 'x'"):
        open_feeds(data, [NCHW, mask], preprocess={"input_name": "X"})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.zeros((2, 6, 5, 3), np.float32), "applies to uint8 images; leave preprocess out"),
        (np.zeros((2, 3, 6, 5), np.uint8), "height, width, 3"),
        (np.zeros((2, 6, 5, 4), np.uint8), "height, width, 3"),
        (np.zeros((2, 6, 5), np.uint8), "height, width, 3"),
        (np.zeros((2, 0, 5, 3), np.uint8), "without pixels"),
    ],
)
def test_data_that_is_no_picture_is_refused(data, words):
    with pytest.raises(DataError, match=words):
        list(open_feeds({"x": data}, [NCHW], preprocess="unit"))
    with pytest.raises(DataError, match=words):
        list(open_feeds([{"x": data}], [NCHW], preprocess="unit"))


@pytest.mark.parametrize(
    ("shape", "preprocess", "words"),
    [
        (("N", 6, 5, 3), {"layout": "NCHW"}, "layout NCHW with 3 channels"),
        (("N", 1, 6, 5), "imagenet", "color"),
        (("N", 1, 6, 5), "unit", "not plain"),
        (("N", 3, 6, 3), "unit", "set layout"),
        (("N", None, None, None), "unit", "set layout"),
        (("N", 3, 6, 5), {"size": 6}, "size"),
        (("N", 10), "unit", "not an image"),
        (None, "unit", "set layout"),
    ],
)
def test_settings_that_contradict_the_model_are_refused(shape, preprocess, words):
    with pytest.raises(DataError, match=words):
        open_feeds({"x": pictures()}, [InputSpec("x", np.dtype(np.float32), shape)], preprocess=preprocess)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"scales": 1}, ["unknown key 'scales'", "did you mean 'scale'", "label_offset"]),
        ({"layout": "NCWH"}, ["layout", "'NCWH'", "NHWC"]),
        ({"layout": 3}, ["layout", "NHWC"]),
        ({"color": "CMYK"}, ["color", "BGR"]),
        ({"resize": "zoom"}, ["resize", "center-crop"]),
        ({"scale": "1/255"}, ["scale", "number"]),
        ({"scale": True}, ["scale", "number"]),
        ({"scale": 0}, ["scale"]),
        ({"mean": []}, ["mean"]),
        ({"mean": [1, 2]}, ["mean", "3 channels"]),
        ({"mean": [1, 2, 3], "color": "GRAY"}, ["mean", "1 channel "]),
        ({"std": 0}, ["std"]),
        ({"std": float("nan")}, ["std", "float32"]),
        ({"size": 0}, ["size"]),
        ({"size": [224]}, ["size", "[height, width]"]),
        ({"size": 22.4}, ["size"]),
        ({"crop": 0.5}, ["crop", "center-crop"]),
        ({"crop": 2, "resize": "center-crop"}, ["crop"]),
        ({"label_offset": 0.5}, ["label_offset", "whole"]),
        ({"input_name": 3}, ["input_name"]),
    ],
)
def test_bad_settings_name_the_key_and_the_valid_values(tmp_path, content, words):
    path = tmp_path / "pre process.json"
    path.write_text(json.dumps(content))
    for spec in (content, path, str(path)):
        with pytest.raises(UsageError) as caught:
            load_preprocess(spec)
        for word in words:
            assert word in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_of_both_kinds_presets_and_mappings(tmp_path):
    expected = Preprocess(layout="NHWC", scale=0.5, mean=(1.0, 2.0, 3.0), size=(240, 320), label_offset=-1)
    content = {"layout": "nhwc", "scale": 0.5, "mean": [1, 2, 3], "size": [240, 320], "label_offset": -1}
    (tmp_path / "a.json").write_text(json.dumps(content))
    (tmp_path / "a.toml").write_text(
        'layout = "NHWC"\nscale = 0.5\nmean = [1, 2, 3]\nsize = [240, 320]\nlabel_offset = -1\n'
    )
    for spec in (content, tmp_path / "a.json", str(tmp_path / "a.toml"), expected):
        assert load_preprocess(spec) == expected
    assert load_preprocess({"size": None, "mean": 2}) == Preprocess(mean=(2.0,))
    assert all(load_preprocess(name) is preset for name, preset in PRESETS.items())


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("imagnet", ["did you mean 'imagenet'", "raw"]),
        ("nowhere.json", ["does not exist", "imagenet"]),
        ("settings.yaml", [".json or .toml"]),
    ],
)
def test_unknown_presets_and_missing_files(tmp_path, monkeypatch, spec, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        open_feeds({"x": pictures()}, [NCHW], preprocess=spec)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(("name", "text"), [("a.json", "{"), ("a.toml", "= 3"), ("a.json", "[1]"), ("a.json", "\x00")])
def test_damaged_settings_files(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=name) as caught:
        load_preprocess(tmp_path / name)
    assert "\n" not in str(caught.value)
