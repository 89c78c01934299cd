"""Which decoders a model's outputs may ask for."""

import numpy as np
import pytest

from qtool.evaluation.decoding.likely import likely_decoders

PICTURE = {"x": np.zeros((1, 3, 64, 64), np.float32)}
RNG = np.random.default_rng(0)


def real(*shape):
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        ({"y": real(1, 83, 190)}, ("yolov8",)),
        ({"y": real(1, 8 * 8 + 4 * 4 + 2 * 2 + 300, 10)}, ("yolov5",)),
        ({"y": real(1, 8 * 8 + 4 * 4 + 2 * 2, 10)}, ()),  # 84 rows may be the steps of a text
        ({"boxes": real(1, 400, 4), "scores": real(1, 400, 3)}, ("ssd", "detr")),
        ({"logits": real(1, 1000)}, ()),
        ({"masks": real(1, 11, 64, 64)}, ()),
        ({"text": np.full((1, 28, 500), 1 / 500, np.float32)}, ()),
    ],
)
def test_the_shapes_of_outputs_say_how_they_become_boxes(outputs, names):
    assert likely_decoders(PICTURE, outputs) == names


def test_what_takes_no_picture_finds_no_boxes():
    assert likely_decoders({"x": np.zeros((1, 128), np.int64)}, {"y": real(1, 84, 180)}) == ()


@pytest.mark.parametrize(
    "inputs",
    [
        {"x": real(2, 400, 64), "mask": real(2, 1, 1, 400)},
        {"x": real(2, 400, 64), "mask": real(2, 1, 400, 400)},
        {"ids": np.zeros((2, 400), np.int64), "mask": real(2, 1, 400, 400)},
        {"volume": real(2, 7, 64, 64)},
    ],
)
def test_a_mask_is_no_picture(inputs):
    assert likely_decoders(inputs, {"logits": real(2, 400, 10)}) == ()
