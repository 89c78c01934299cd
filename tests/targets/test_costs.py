"""The units of kernels' times: what they depend on besides the numbers that are computed."""

import pytest

from qtool.graph import model_io, shapes
from qtool.targets.costs import costs_of, terms_of
from tests.support.patterns import Net


def units(tmp_path, channels, *size, kernel, group=1):
    net = Net(channels, *size)
    model = model_io.load(net.save(tmp_path / "m.onnx", net.conv("x", channels, channels, kernel=kernel, group=group)))
    (node,) = model.model.graph
    return terms_of(node, shapes.known_shapes(model.model, {"x": (1, channels, *size)}))


def test_integers_go_through_uneven_channels_more_slowly(tmp_path):
    """Measured: 37, 91 and 35 us."""
    even, uneven, less = (units(tmp_path, n, 2, 96, kernel=(5, 5), group=n) for n in (208, 200, 192))
    times = [costs_of("x86").integer(one) for one in (even, uneven, less)]
    assert times[1] > 2.0 * times[0] > 2.0 * times[2]
    assert even.integer["uneven"] == 0 and uneven.integer["uneven"] == 2 * 96 * 25 * 200


def test_float_leaves_the_border_of_zeros_out(tmp_path):
    flat, square = (units(tmp_path, 16, *size, kernel=(5, 5)) for size in ((2, 98), (14, 14)))
    # of five rows two lie inside; of 14 outputs the first two lack three taps of five, and the last two
    inside = (2 / 5) * (1 - 6 / (5 * 98)), (1 - 6 / (5 * 14)) ** 2
    assert flat.floating["product"] / inside[0] == pytest.approx(square.floating["product"] / inside[1])
    assert flat.integer["product"] == square.integer["product"]


def test_a_signal_is_an_image_of_one_row_that_takes_float_twice_as_long(tmp_path):
    signal = units(tmp_path, 32, 500, kernel=(3,))
    row = units(tmp_path, 32, 1, 500, kernel=(1, 3))
    assert signal.kind == row.kind and signal.integer == row.integer
    assert signal.floating == {name: pytest.approx(2.0 * count) for name, count in row.floating.items()}
