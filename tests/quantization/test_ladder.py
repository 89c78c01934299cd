"""The division by time and noise against all divisions, one by one, and the limit on multiply-accumulates."""

import itertools

import pytest

from qtool.core.records.options import Scheme
from qtool.graph import model_io, shapes
from qtool.pipeline.planning.place import place
from qtool.pipeline.planning.speed import Divider, Prices
from qtool.pipeline.prepare import prepare
from qtool.quantization.ladder import Ladder
from qtool.targets.costs import costs_of
from qtool.targets.tables import TARGETS
from tests.support.patterns import Net

NAMES = [f"conv{i}" for i in range(5)]
NOISE = dict(zip(NAMES, (0.05, 0.6, 0.0, 0.3, 0.05), strict=True))
WORK = dict(zip(NAMES, (0.1, 0.2, 0.4, 0.2, 0.1), strict=True))


@pytest.fixture(scope="module")
def divider(tmp_path_factory):
    net = Net(32, 16, 16)
    out = "x"
    for name in NAMES:
        out = net.conv(out, 32, 32, bias=False, name=name)
    path = net.save(tmp_path_factory.mktemp("ladder") / "m.onnx", out)
    model = prepare(model_io.load(path)).model
    found = shapes.known_shapes(model, {name: array.shape for name, array in net.samples().items()})
    return Divider(model, place(model, TARGETS["x86"], Scheme()), found, costs_of("x86"), ())


@pytest.mark.parametrize("noise_ns", [0.0, 2e4, 2e5, 1e7])
@pytest.mark.parametrize("share_ns", [0.0, 1e5])
def test_no_other_division_is_cheaper(divider, noise_ns, share_ns):
    assert divider.nodes == set(NAMES)

    def cost(floating):
        noise = sum(NOISE[name] for name in NAMES if name not in floating)
        return divider.time(floating) + noise_ns * noise + share_ns * sum(WORK[name] for name in floating)

    every = [set(some) for n in range(6) for some in itertools.combinations(NAMES, n)]
    found = divider.cheapest(Prices(NOISE, WORK, noise_ns, share_ns))
    assert cost(found) == pytest.approx(min(map(cost, every)))


def test_the_lowest_division_that_is_enough(divider):
    """What puts in the most noise comes first, and no more than the limit is in float."""
    ladder = Ladder(divider, NOISE, WORK, most=0.5)
    assert {"conv1", "conv3"} <= ladder.top and ladder.share(ladder.top) <= 0.5
    found = ladder.lowest(lambda floating: sum(NOISE[name] for name in floating) >= 0.6)
    assert "conv1" in found and ladder.share(found) <= 0.5
    assert Ladder(divider, NOISE, WORK, most=0.25).top <= {"conv0", "conv1", "conv4"}
