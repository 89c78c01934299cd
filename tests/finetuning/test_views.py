"""Other views of the pictures that train: which inputs are pictures, and what a view keeps."""

import importlib.util

import numpy as np
import pytest

import qtool
from qtool.finetuning.views import Views, picture_of, view
from tests.support.patterns import Net


def picture(*shape, dtype=np.float32):
    return np.random.default_rng(0).uniform(-1.0, 2.0, shape).astype(dtype)


@pytest.mark.parametrize(
    ("sample", "found"),
    [
        ({"x": picture(1, 3, 32, 40)}, ("x", 2)),
        ({"x": picture(1, 32, 40, 3), "size": np.array([[32, 40]])}, ("x", 1)),
        ({"x": picture(1, 49, 10, 1)}, None),
        ({"x": picture(1, 3, 8, 8)}, None),
        ({"x": picture(1, 64, 20, 20)}, None),
        ({"x": picture(1, 32, 32, 3).astype(np.uint8)}, None),
        ({"x": picture(1, 3, 32, 32), "y": picture(1, 3, 32, 32)}, None),
        ({"ids": np.zeros((1, 12), np.int64)}, None),
    ],
)
def test_the_one_float_input_with_three_colours_is_the_picture(sample, found):
    assert picture_of(sample) == found


@pytest.mark.parametrize("shape", [(2, 3, 16, 18), (2, 16, 18, 3)])
def test_a_view_is_the_picture_shifted_mirrored_or_not_and_of_its_range(shape):
    sample = {"x": picture(*shape), "size": np.array([[32, 40]])}
    height = 2 if shape[1] == 3 else 1
    plain, mirrored = sample["x"], np.flip(sample["x"], height + 1)
    ways = set()
    for seed in range(4):
        seen = view(sample, np.random.default_rng(seed))
        assert seen["x"].shape == shape and seen["x"].dtype == np.float32 and seen["size"] is sample["size"]
        for one, before, turned in zip(seen["x"], plain, mirrored, strict=True):
            assert before.min() <= one.min() and one.max() <= before.max()
            ways.add(tuple(round(best_match(one, other, height - 1), 1) > 0.9 for other in (before, turned)))
    assert ways == {(True, False), (False, True)}
    again = view(sample, np.random.default_rng(3))["x"]
    np.testing.assert_array_equal(again, seen["x"])


def best_match(one, other, height):
    """The greatest correlation of the middle of a picture with another one, over all shifts that a view may have."""
    rows, columns = one.shape[height] // 8, one.shape[height + 1] // 8
    middle = np.moveaxis(one, height, 0) if height else one
    against = np.moveaxis(other, height, 0) if height else other
    wide = 1 if height == 0 else 2
    core = np.take(middle[rows:-rows], range(columns, middle.shape[wide] - columns), wide).ravel()
    found = -1.0
    for down in range(2 * rows + 1):
        for right in range(2 * columns + 1):
            width = range(right, right + middle.shape[wide] - 2 * columns)
            part = np.take(against[down : down + len(middle) - 2 * rows], width, wide).ravel()
            found = max(found, float(np.corrcoef(core, part)[0, 1]))
    return found


def test_views_are_made_where_they_are_read_and_are_the_same_again():
    samples = [{"x": picture(1, 3, 16, 18) + shift} for shift in (0.0, 5.0)]
    views = Views(samples, 3, 0)
    assert len(views) == len(list(views)) == 6
    again = [views[index] for index in range(6)]
    for index, (seen, other) in enumerate(zip(views, again, strict=True)):
        np.testing.assert_array_equal(seen["x"], other["x"])
        assert (float(seen["x"].max()) > 4.0) == (index >= 3)
    assert (views[0]["x"] != views[1]["x"]).any() and (views[0]["x"] != Views(samples, 3, 1)[0]["x"]).any()
    with pytest.raises(IndexError):
        views[6]


def test_what_holds_no_picture_stays_as_it_is():
    sample = {"x": picture(1, 49, 10, 1)}
    seen = view(sample, np.random.default_rng(0))
    assert seen["x"] is sample["x"]


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
def test_the_float_model_says_what_each_view_should_give(tmp_path, monkeypatch):
    from qtool.finetuning import training

    net = Net(3, 16, 16)
    pooled = net("Flatten", net("GlobalAveragePool", net("Relu", net.conv("x", 3, 8))))
    model = net.save(tmp_path / "m.onnx", net.gemm(pooled, 8, 4))
    given = {"data": net.samples(24), "steps": 2, "threads": 1, "partial": False, "target": "x86"}
    seen = []

    def other(sample, random):
        seen.append(float(random.random()))
        return {"x": 0.5 * sample["x"]}

    monkeypatch.setattr(training, "view", other)
    plain = qtool.finetune(model, output=tmp_path / "plain.onnx", views=False, **given)
    assert not seen
    result = qtool.finetune(model, output=tmp_path / "views.onnx", **given)
    # two steps of different samples, each with its own turn
    assert len(seen) == len(set(seen)) == 16 - 4
    # beside the answers to the pictures as they are, the noise would be a quarter of the signal
    assert plain.rounds[1].loss != result.rounds[1].loss < 0.01
