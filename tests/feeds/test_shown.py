"""What was fed, turned back into the picture that it was."""

import numpy as np
import pytest
from PIL import Image

from qtool.core.tensorspec import InputSpec
from qtool.feeds.pixels import Pixels
from qtool.feeds.preprocess import PRESETS
from qtool.feeds.shown import PictureInput, to_bytes

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("preset", PRESETS)
def test_what_preprocessing_did_is_undone_to_the_bit(preset):
    settings = PRESETS[preset]
    channels = settings.channels
    shape = (1, 24, 40, channels) if settings.layout == "NHWC" else (1, channels, 24, 40)
    spec = InputSpec("x", np.dtype(np.float32), shape)
    pixels = Pixels(settings, spec)
    picture = RNG.integers(0, 256, (30, 30, channels), dtype=np.uint8)
    laid = pixels.geometry((30, 30))
    fed = pixels.apply("here", picture[None], None)
    shown = PictureInput([spec], settings).picture(0, {"x": fed}, laid)
    fitted = pixels.fitted("here", Image.fromarray(picture if channels == 3 else picture[..., 0]))
    rows, columns = laid.inside
    assert np.array_equal(shown.pixels, np.repeat(fitted, 3 // channels, axis=2)[rows, columns])
    assert shown.size == (24, 40) and shown.how == "preprocessing undone"
    padded = settings.resize in ("letterbox", "pad")
    assert shown.pixels.shape == (24, 24 if padded else 40, 3)


def test_what_nobody_explains_is_stretched_or_shown_as_it_is():
    inputs = [InputSpec("ids", np.dtype(np.int64), ("N", 7)), InputSpec("x", np.dtype(np.float32), ("N", 1, "H", "W"))]
    fed = {"ids": np.zeros((2, 7), np.int64), "x": RNG.normal(size=(2, 1, 4, 6)).astype(np.float32)}
    shown = PictureInput(inputs, None).picture(1, fed, None)
    values = fed["x"][1, 0].astype(np.float64)
    wanted = np.rint((values - values.min()) / (values.max() - values.min()) * 255)
    assert np.array_equal(shown.pixels, np.repeat(wanted[..., None], 3, axis=2))
    assert shown.how == f"stretched from {values.min():.4g} to {values.max():.4g}"
    bytes_fed = RNG.integers(0, 256, (1, 4, 6, 3), dtype=np.uint8)
    shown = PictureInput([InputSpec("x", np.dtype(np.uint8), (1, 4, 6, 3))], None).picture(0, {"x": bytes_fed}, None)
    assert np.array_equal(shown.pixels, bytes_fed[0]) and shown.how == "as they were fed"


def test_numbers_that_are_none_become_pixels_too():
    values = np.array([-1, 0, 0.5, 1, 9, np.nan, np.inf, -np.inf])
    assert to_bytes(values, 0.0, 1.0).tolist() == [0, 0, 128, 255, 255, 0, 255, 0]
    assert to_bytes(np.full(3, 7.0), 7.0, 7.0).tolist() == [0, 0, 0]
