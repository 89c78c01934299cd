"""How pictures, boxes and masks come to lie in the model's input, against the published definitions."""

import math

import numpy as np
import pytest
from PIL import Image

from qtool.core.errors import DataError, UsageError
from qtool.core.tensorspec import InputSpec
from qtool.feeds import PRESETS, Preprocess, load_preprocess, open_feeds
from qtool.feeds.geometry import geometry_of, laid

RNG = np.random.default_rng(3)
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def picture(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def spec(height, width, layout="NCHW"):
    shape = ("N", 3, height, width) if layout == "NCHW" else ("N", height, width, 3)
    return InputSpec("x", np.dtype(np.float32), shape)


def fed(pixels, where, preprocess):
    (batch,) = open_feeds({"x": pixels[None]}, [where], preprocess=preprocess)
    return batch.inputs["x"][0]


def between_four(pixels, height, width):
    """OpenCV's INTER_LINEAR by its definition, pixel by pixel."""
    have_h, have_w, _ = pixels.shape
    out = np.empty((height, width, 3), np.uint8)
    for row in range(height):
        for column in range(width):
            y = min(max((row + 0.5) * have_h / height - 0.5, 0), have_h - 1)
            x = min(max((column + 0.5) * have_w / width - 0.5, 0), have_w - 1)
            top, left = int(y), int(x)
            down, right = min(top + 1, have_h - 1), min(left + 1, have_w - 1)
            a, b = y - top, x - left
            value = (1 - a) * ((1 - b) * pixels[top, left] + b * pixels[top, right])
            value = value + a * ((1 - b) * pixels[down, left] + b * pixels[down, right])
            out[row, column] = np.floor(value + 0.5)
    return out


def pillow(pixels, height, width, how=Image.Resampling.BILINEAR):
    return np.asarray(Image.fromarray(pixels).resize((width, height), how))


def yolo(pixels, height, width):
    """ultralytics, data/augment.py, LetterBox; then engine/predictor.py, preprocess."""
    ratio = min(height / pixels.shape[0], width / pixels.shape[1])
    inner = round(pixels.shape[0] * ratio), round(pixels.shape[1] * ratio)
    out = np.full((height, width, 3), 114, np.uint8)
    top, left = round((height - inner[0]) / 2 - 0.1), round((width - inner[1]) / 2 - 0.1)
    out[top : top + inner[0], left : left + inner[1]] = between_four(pixels, *inner)
    return out.transpose(2, 0, 1) / 255


def yolox(pixels, height, width):
    """YOLOX, data/data_augment.py, preproc; its pictures are BGR."""
    ratio = min(height / pixels.shape[0], width / pixels.shape[1])
    inner = int(pixels.shape[0] * ratio), int(pixels.shape[1] * ratio)
    out = np.full((height, width, 3), 114, np.uint8)
    out[: inner[0], : inner[1]] = between_four(pixels, *inner)
    return out[..., ::-1].transpose(2, 0, 1).astype(np.float64)


def ssd(pixels, height, width):
    """SSD, models/VGGNet deploy transformer: warped, BGR, minus (104, 117, 123)."""
    return (between_four(pixels, height, width)[..., ::-1] - [104.0, 117.0, 123.0]).transpose(2, 0, 1)


def ssd_mobilenet(pixels, height, width):
    """pytorch-ssd, vision/ssd/config/mobilenetv1_ssd_config.py and data_preprocessing.py, PredictionTransform."""
    return ((between_four(pixels, height, width) - 127.0) / 128.0).transpose(2, 0, 1)


def detr(pixels, height, width):
    """DETR, datasets/transforms.py and util/misc.py: ToTensor, Normalize, zeros behind the picture."""
    ratio = min(height / pixels.shape[0], width / pixels.shape[1])
    inner = int(pixels.shape[0] * ratio), int(pixels.shape[1] * ratio)
    out = np.zeros((height, width, 3))
    out[: inner[0], : inner[1]] = (pillow(pixels, *inner) / 255 - MEAN) / STD
    return out.transpose(2, 0, 1)


def deeplab(pixels, height, width):
    """DeepLab, core/feature_extractor.py: 2 / 255 x - 1, padded with the mean pixel 127.5, which becomes 0."""
    ratio = min(height / pixels.shape[0], width / pixels.shape[1])
    inner = int(pixels.shape[0] * ratio), int(pixels.shape[1] * ratio)
    out = np.full((height, width, 3), 127.5)
    out[: inner[0], : inner[1]] = pillow(pixels, *inner)
    return (2 / 255 * out - 1).transpose(2, 0, 1)


def unet(pixels, height, width):
    """Pytorch-UNet, utils/data_loading.py, preprocess."""
    return (pillow(pixels, height, width, Image.Resampling.BICUBIC) / 255).transpose(2, 0, 1)


@pytest.mark.parametrize("size", [(24, 40), (31, 20), (9, 50)])
@pytest.mark.parametrize(
    ("preset", "published"),
    [
        ("yolo", yolo),
        ("yolox", yolox),
        ("ssd", ssd),
        ("ssd-mobilenet", ssd_mobilenet),
        ("detr", detr),
        ("deeplab", deeplab),
        ("unet", unet),
    ],
)
def test_presets_compute_what_their_models_were_trained_with(preset, published, size):
    pixels = picture(*size)
    found = fed(pixels, spec(16, 24), preset)
    wanted = published(pixels, 16, 24)
    # where the mean of four lies at a half, float32 may round it to the next grey
    grey = PRESETS[preset].scale / np.min(PRESETS[preset].std)
    np.testing.assert_allclose(found, wanted, atol=1.001 * grey)
    assert (np.abs(found - wanted) > 2e-5).mean() < 0.1
    last = fed(pixels, spec(16, 24, "NHWC"), preset)
    np.testing.assert_array_equal(last.transpose(2, 0, 1), found)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (480, 640, (800, 1066)),
        (640, 480, (1066, 800)),
        (500, 1000, (666, 1332)),
        (800, 900, (800, 900)),
        (60, 60, (800, 800)),
    ],
)
def test_a_free_size_becomes_that_of_detr(height, width, expected):
    found = geometry_of(PRESETS["detr"], None, (height, width))
    assert (found.inner, found.outer, found.offset) == (expected, expected, (0, 0))
    assert max(geometry_of(PRESETS["deeplab"], None, (height, width)).outer) <= 513


def test_boxes_lie_where_their_pixels_come_to_lie():
    for settings in (
        Preprocess(resize="letterbox", interpolation="linear"),
        Preprocess(resize="pad", interpolation="linear"),
        Preprocess(),
        Preprocess(resize="center-crop", crop=0.8),
    ):
        for height, width in ((100, 200), (230, 90), (70, 90)):
            pixels = np.zeros((height, width, 3), np.uint8)
            top, left, down, right = height * 2 // 5, width // 3, height * 3 // 5, width * 2 // 3
            pixels[top:down, left:right] = 255
            geometry = geometry_of(settings, (64, 96), (height, width))
            seen = laid("x", Image.fromarray(pixels), geometry, settings)[..., 0]
            assert seen.shape == (64, 96)
            rows, columns = np.nonzero(seen > 160)
            found = geometry.boxes(np.array([[left, top, right, down]]))[0]
            np.testing.assert_allclose(found, [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], atol=1.0)


def test_masks_move_with_their_pictures():
    mask = RNG.integers(0, 5, (30, 50)).astype(np.uint8)
    for settings in (Preprocess(), Preprocess(resize="letterbox"), Preprocess(resize="center-crop")):
        geometry = geometry_of(settings, (40, 40), (30, 50))
        found = geometry.mask(mask[None])[0]
        nearest = Image.fromarray(mask).resize(geometry.inner[::-1], Image.Resampling.NEAREST)
        np.testing.assert_array_equal(found[geometry.inside], np.asarray(nearest)[geometry.seen])
        outside = np.ones((40, 40), bool)
        outside[geometry.inside] = False
        assert (found[outside] == -1).all()


def test_labels_of_arrays_move_too():
    pixels = picture(32, 64)[None].repeat(2, 0)
    boxes = np.array([[[8, 8, 16, 24]], [[0, 0, 64, 32]]], np.float32)
    masks = np.zeros((2, 32, 64), np.uint8)
    masks[:, 8:24, 8:16] = 3
    data = {"x": pixels, "boxes": boxes, "classes": np.array([[1], [-1]]), "masks": masks}
    settings = {"preset": "yolo", "label_offset": 2}
    for given in (data, [{name: array[i : i + 1] for name, array in data.items()} for i in range(2)]):
        (batch,) = open_feeds(given, [spec(32, 32)], preprocess=settings, batch_size=2)
        np.testing.assert_allclose(batch.labels["boxes"], [[[4, 12, 8, 20]], [[0, 8, 32, 24]]])
        np.testing.assert_array_equal(batch.labels["classes"], [[3], [-1]])
        assert "labels" not in batch.labels
        assert set(np.unique(batch.labels["masks"])) == {-1, 2, 5}
        assert (batch.labels["masks"][:, 12:20, 4:8] == 5).all()


def test_what_a_crop_cuts_off_is_no_object():
    data = {
        "x": picture(32, 64)[None],
        "boxes": np.array([[[0, 0, 8, 8], [8, 0, 24, 8]]]),
        "classes": np.array([[0, 1]]),
    }
    (batch,) = open_feeds(data, [spec(32, 32)], preprocess=Preprocess(resize="center-crop"))
    np.testing.assert_array_equal(batch.labels["classes"], [[-1, 1]])
    np.testing.assert_allclose(batch.labels["boxes"][0, 1], [0, 0, 8, 8])


def test_pad_has_the_order_of_the_model_s_channels():
    settings = {"resize": "pad", "color": "BGR", "pad": [10, 20, 30]}
    found = fed(picture(4, 8), spec(8, 8), settings)
    np.testing.assert_array_equal(found[:, 7, 7], [10, 20, 30])
    gray = InputSpec("x", np.dtype(np.float32), ("N", 1, 8, 8))
    found = fed(picture(4, 8), gray, {"resize": "letterbox", "color": "GRAY", "pad": 7})
    assert (found[0, :2] == 7).all() and (found[0, 6:] == 7).all()


def test_a_preset_is_where_a_file_may_start():
    settings = load_preprocess({"preset": "yolo", "size": 640, "pad": "mean"})
    assert settings.resize == "letterbox" and settings.size == (640, 640) and settings.pad is None
    assert math.isclose(settings.scale, 1 / 255)
    found = fed(
        picture(10, 20), InputSpec("x", np.dtype(np.float32), ("N", 3, None, None)), {"preset": "yolox", "size": 32}
    )
    assert found.shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "yolo9"}, "preset is 'yolo9'; use one of imagenet"),
        ({"preset": 3}, "preset is 3; use one of"),
        ({"resize": "letterbox", "pad": 300}, r"pad is \[300\]; give one from 0 to 255"),
        ({"resize": "letterbox", "pad": [1, 2]}, r"pad is \[1, 2\]; give"),
        ({"resize": "letterbox", "pad": "grey"}, "pad is 'grey'; give a whole number"),
        ({"pad": 3}, "pad needs resize"),
        ({"interpolation": "cubic"}, "interpolation is 'cubic'; use one of bilinear, bicubic, linear"),
        ({"edges": [1333, 800]}, "edges is"),
        ({"edges": "800"}, "edges is '800'; give"),
        ({"categories": 3}, "categories is 3; use one of index, id"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(UsageError, match=message):
        load_preprocess(settings)


def test_padding_needs_a_size():
    free = InputSpec("x", np.dtype(np.float32), ("N", 3, None, None))
    with pytest.raises(DataError, match=r'letterbox needs a size.*"preset": "yolo", "size": 640'):
        open_feeds({"x": picture(8, 8)[None]}, [free], preprocess="yolo")
