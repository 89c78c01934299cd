"""Cross-layer equalisation: the same function, balanced weights, and where it helps."""

import numpy as np
import onnx
import pytest

import qtool
from qtool.core.errors import DataError
from qtool.core.numerics.sqnr import signal_to_noise
from qtool.graph import edit, model_io
from qtool.pipeline.prepare import prepare
from qtool.pipeline.recovery.chains import find_chains
from qtool.pipeline.recovery.equalization import equalizable_tensors, equalize, find_scales
from qtool.pipeline.recovery.steps import channel_extremes
from qtool.runtime.session import Session
from tests.support.patterns import Net

SKEW = np.logspace(-1.5, 1.5, 8)


class Batches:
    """As much of a feed as the steps read."""

    def __init__(self, *batches):
        self.batches, self.samples, self.name, self.states = batches, None, "the batches", ()

    def __iter__(self):
        return iter(self.batches)


class Batch:
    def __init__(self, inputs):
        self.inputs, self.size = inputs, len(inputs["x"])


def measured(model, net):
    return channel_extremes(model, equalizable_tensors(model), Batches(Batch(net.samples(4)), Batch(net.samples(6))))


def unmeasured(model):
    """No share for the activations: the paper's own."""
    return {chain.tensor: (np.zeros(chain.size), np.zeros(chain.size)) for chain in find_chains(model)}


def loaded(net, tmp_path, *outputs):
    return prepare(model_io.load(net.save(tmp_path / "float.onnx", *outputs))).model


def ranges(chain):
    """(r1, r2) of each channel, from the model."""
    rows = np.abs(chain.first.output_channels(edit.constant(chain.first.weight))).reshape(chain.size, -1)
    columns = np.abs(chain.second.input_channels(edit.constant(chain.second.weight), chain.size))
    return rows.max(axis=1), columns.max(axis=tuple(range(2, columns.ndim))).reshape(-1)


def skewed(net, x, before, after, **options):
    """A convolution whose output channels differ by a factor of 1000."""
    y = net.conv(x, before, after, **options)
    for name in net.nodes[-1].input[1:]:
        array = net.constants[name]
        net.constants[name] = (array * SKEW.reshape(-1, *[1] * (array.ndim - 1))).astype(np.float32)
    return y


def plain(middle=None, **second):
    def build(net):
        h = skewed(net, "x", 3, 8)
        return net.conv(middle(net, h) if middle else h, 8, 4, **second)

    return build


def headed(trans):
    def build(net):
        h = net("MaxPool", net("Relu", skewed(net, "x", 3, 8)), kernel_shape=[2, 2], strides=[2, 2])
        return net.gemm(net("Flatten", h), 128, 5, trans=trans, alpha=0.5, beta=2.0)

    return build


def gemms(net):
    h = net("Relu", net.gemm(net("Flatten", "x"), 192, 8, alpha=2.0, bias=False))
    return net.gemm(net("LeakyRelu", net.gemm(h, 8, 6, trans=1), alpha=0.3), 6, 5)


def three(net):
    h = net("Relu", skewed(net, "x", 3, 8))
    return net.conv(net("Relu", net.conv(h, 8, 8, group=8)), 8, 4, kernel=(1, 1))


def widened(net):
    h = net("Relu", skewed(net, "x", 3, 8, bias=False))
    return net.conv(net.conv(h, 8, 16, group=8), 16, 4, group=2)


FORMS = {
    "nothing between": (plain(), 1),
    "relu": (plain(lambda n, h: n("Relu", h)), 1),
    "leaky relu": (plain(lambda n, h: n("LeakyRelu", h, alpha=0.1)), 1),
    "relu as clip": (plain(lambda n, h: n("Clip", h, n.const(0.0))), 1),
    "two activations": (plain(lambda n, h: n("Relu", n("LeakyRelu", h))), 1),
    "grouped": (plain(lambda n, h: n("Relu", h), group=4), 1),
    "average pool": (plain(lambda n, h: n("AveragePool", h, kernel_shape=[2, 2])), 1),
    "pool and flatten": (headed(0), 1),
    "pool and flatten, transB": (headed(1), 1),
    "gemm, gemm, gemm": (gemms, 2),
    "depthwise between": (three, 2),
    "depthwise with a multiplier": (widened, 2),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_network_computes_the_same(form, tmp_path):
    build, count = FORMS[form]
    net = Net()
    y = build(net)
    model = loaded(net, tmp_path, y)
    before = model_io.to_bytes(model)
    for extremes in (measured(model, net), unmeasured(model)):
        scales = find_scales(model, extremes)
        assert len(scales) == count
        result = equalize(model, scales)
        assert model_io.to_bytes(model) == before
        # not the samples that were measured: without a Clip with a bound the identity holds everywhere
        fed = {"x": np.random.default_rng(11).normal(size=(5, *net.shape)).astype(np.float32) * 30}
        data = model_io.to_bytes(result)
        onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
        wanted, got = Session(before, optimize=False).run(fed)[y], Session(data, optimize=False).run(fed)[y]
        assert signal_to_noise(wanted, got) > 110.0
    for chain in find_chains(result):
        r1, r2 = ranges(chain)
        assert r1 == pytest.approx(r2, rel=5e-3)


def test_it_gives_the_same_bytes_every_time(tmp_path):
    net = Net()
    model = loaded(net, tmp_path, three(net))
    first, second = (find_scales(model, measured(model, net)) for _ in range(2))
    assert first == second
    assert model_io.to_bytes(equalize(model, first)) == model_io.to_bytes(equalize(model, second))


def read_twice(net):
    h = net("Relu", skewed(net, "x", 3, 8))
    return net("Add", net.conv(h, 8, 8), h)


def tied(net):
    weight = net.weight(8, 8, 3, 3, inputs=72)
    h = net("Relu", net("Conv", "x", weight, pads=[1, 1, 1, 1]))
    return net("Conv", h, weight, pads=[1, 1, 1, 1])


def as_output(net):
    h = skewed(net, "x", 3, 8)
    return h, net.conv(net("Relu", h), 8, 4)


def computed_weight(net):
    h = net("Relu", skewed(net, "x", 3, 8))
    return net("Conv", h, net("Mul", net.weight(4, 8, 1, 1, inputs=8), net("ReduceMax", "x", keepdims=0)))


DECLINED = {
    "read twice": read_twice,
    "tied weights": tied,
    "a graph output": as_output,
    "a computed weight": computed_weight,
    "sigmoid": plain(lambda n, h: n("Sigmoid", h)),
    "clip from below zero": plain(lambda n, h: n("Clip", h, n.const(-1.0), n.const(1.0))),
    "clip with an upper bound that is reached": plain(lambda n, h: n("Clip", h, n.const(0.0), n.const(1e-6))),
    "prelu": plain(lambda n, h: n("PRelu", h, n.const(np.linspace(0.1, 0.8, 8).reshape(8, 1, 1)))),
    "channels moved": plain(lambda n, h: n("Transpose", h, perm=[0, 2, 1, 3])),
}


@pytest.mark.parametrize("form", DECLINED)
def test_it_declines(form, tmp_path):
    net = Net(8, 8, 8) if form in ("tied weights", "channels moved") else Net()
    if form == "channels moved":
        h = net("Transpose", net.conv("x", 8, 8), perm=[0, 2, 1, 3])
        outputs = net.conv(h, 8, 4)
    else:
        outputs = DECLINED[form](net)
    model = loaded(net, tmp_path, *([outputs] if isinstance(outputs, str) else outputs))
    assert find_scales(model, measured(model, net)) == {}


def test_zero_channels_are_left_alone(tmp_path):
    net = Net()
    y = plain(lambda n, h: n("Relu", h))(net)
    first, second = (node.input[1] for node in net.nodes if node.op_type == "Conv")
    net.constants[first][2] = 0.0
    net.constants[second][:, 5] = 0.0
    model = loaded(net, tmp_path, y)
    (scale,) = find_scales(model, measured(model, net)).values()
    assert scale[2] == scale[5] == 1.0
    assert sum(s != 1.0 for s in scale) == 6


def test_a_bias_without_weights_is_not_blown_up(tmp_path):
    """By weights alone a channel of weights of 1e-30 and a bias of 1 would become 1e15, and the grid all its."""
    net = Net()
    y = plain(lambda n, h: n("Relu", h))(net)
    conv = next(node for node in net.nodes if node.op_type == "Conv")
    net.constants[conv.input[1]][3] = 1e-30
    net.constants[conv.input[2]][3] = 1.0
    model = loaded(net, tmp_path, y)

    def largest(extremes):
        result = equalize(model, find_scales(model, extremes))
        low, high = measured(result, net)[conv.output[0]]
        return np.maximum(-low, high)[3]

    assert largest(unmeasured(model)) > 1e12
    assert largest(measured(model, net)) < 10.0


def test_relu6_is_rescaled_as_far_as_the_data_stays_below_six(tmp_path):
    net = Net()
    y = plain(lambda n, h: n("Clip", h, n.const(0.0), n.const(6.0)))(net)
    model = loaded(net, tmp_path, y)
    extremes = measured(model, net)
    ((tensor, scale),) = find_scales(model, extremes).items()
    high = extremes[tensor][1]
    reaches = high >= 6.0
    assert 0 < reaches.sum() < 8
    assert all(s == 1.0 for s, r in zip(scale, reaches, strict=True) if r)
    assert all(s != 1.0 for s, r in zip(scale, reaches, strict=True) if not r)
    after = measured(equalize(model, {tensor: scale}), net)[tensor][1]
    assert (after[~reaches] < 6.0).all()
    # without the bound some channel would have gone beyond it
    free = find_scales(loaded_with_relu(net, tmp_path, y), extremes)[tensor]
    assert (high / free > 6.0).any()
    fed = net.samples(6)
    wanted = Session(model_io.to_bytes(model), optimize=False).run(fed)[y]
    got = Session(model_io.to_bytes(equalize(model, {tensor: scale})), optimize=False).run(fed)[y]
    assert signal_to_noise(wanted, got) > 110.0


def loaded_with_relu(net, tmp_path, y):
    for node in net.nodes:
        if node.op_type == "Clip":
            del node.input[2]
    return loaded(net, tmp_path, y)


def test_what_overflows_is_explained_as_ever(tmp_path):
    net, y = relu_network()
    source = net.save(tmp_path / "float.onnx", y)
    fed = net.samples()
    fed["x"][3] = 3e38
    for equal in (False, True):
        with pytest.raises(DataError, match="sample 3: NaN or Inf is born in layer 'Conv_0'"):
            qtool.calibrate(source, fed, equalize=equal)
    with pytest.raises(DataError, match="no samples"):
        qtool.calibrate(source, {"x": fed["x"][:0]}, equalize=True)


@pytest.mark.parametrize(
    "scales", [{"nowhere": (1.0,)}, {"Conv_0_out": (1.0, 2.0)}, {"Conv_0_out": (1e-38,) * 8}], ids=str
)
def test_scales_of_another_graph_are_refused(scales, tmp_path):
    net = Net()
    model = loaded(net, tmp_path, plain(lambda n, h: n("Relu", h))(net))
    with pytest.raises(ValueError, match="it "):
        equalize(model, scales)


def skew(model, seed=5):
    """An exact rescaling (powers of two) of all pairs of layers with nothing but a Relu between them."""
    rng = np.random.default_rng(seed)
    scales = {c.tensor: tuple(2.0 ** rng.integers(-5, 6, c.size)) for c in find_chains(model)}
    return equalize(model, scales)


def relu_network():
    """Three times depthwise and pointwise, as in MobileNet, with ReLU."""
    net = Net(3, 16, 16)
    h = net("Relu", net.conv("x", 3, 16))
    for _ in range(3):
        h = net("Relu", net.conv(net("Relu", net.conv(h, 16, 16, group=16)), 16, 16, kernel=(1, 1)))
    return net, net.conv(h, 16, 10, kernel=(1, 1))


def sqnr_of(source, folder, net, y, granularity, **options):
    """(SQNR of the int8 model on data that it was not calibrated with, the result)."""
    scheme = qtool.Scheme(granularity=granularity)
    target = folder / "int8.onnx"
    # what refining the weights would heal is left to equalisation
    given = {"target": "x86", "refine": "off", **options}
    result = qtool.quantize(source, target, data=net.samples(32), scheme=scheme, **given)
    fed = {"x": np.random.default_rng(9).normal(size=(32, *net.shape)).astype(np.float32)}
    return signal_to_noise(Session(source).run(fed)[y], Session(target).run(fed)[y]), result


def test_a_skewed_network_is_healed(tmp_path):
    """Per-tensor weights. Measured: 46.6 dB as it was, 5.1 dB skewed, 46.7 dB skewed and equalised."""
    net, y = relu_network()
    model = loaded(net, tmp_path, y)
    source, other = tmp_path / "float.onnx", tmp_path / "skewed.onnx"
    other.write_bytes(model_io.to_bytes(skew(model)))
    fed = net.samples(4)
    # powers of two: the same bits
    assert np.array_equal(*(Session(path, optimize=False).run(fed)[y] for path in (source, other)))
    original, _ = sqnr_of(source, tmp_path, net, y, "per-tensor")
    # what layers in float would heal, too
    plainly, _ = sqnr_of(other, tmp_path, net, y, "per-tensor", partial=False)
    healed, result = sqnr_of(other, tmp_path, net, y, "per-tensor", equalize=True)
    assert result.changes["equalized pairs"] == 7
    assert result.verification.preparation_sqnr_db > 100.0
    assert plainly < 10.0
    assert healed > plainly + 20.0
    assert healed > original - 1.0


@pytest.mark.long
def test_weights_by_channel_need_it_for_the_activations_alone(tmp_path):
    """Measured: 46.6 -> 46.7 dB as it was, 22.6 -> 46.7 dB skewed."""
    net, y = relu_network()
    model = loaded(net, tmp_path, y)
    source, other = tmp_path / "float.onnx", tmp_path / "skewed.onnx"
    other.write_bytes(model_io.to_bytes(skew(model)))
    figures = {
        (path, equal): sqnr_of(path, tmp_path, net, y, "per-channel", equalize=equal)[0]
        for path in (source, other)
        for equal in (False, True)
    }
    assert figures[source, True] > figures[source, False] - 1.0
    assert figures[other, True] > figures[other, False] + 10.0
