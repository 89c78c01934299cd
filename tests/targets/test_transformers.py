"""What onnxruntime's transformers meet in a model: every form quantises, and the layers are integers all the same."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import qtool
from qtool.core.records.statistics import Statistics
from tests.support.fixed_shapes import MODELS, transformer
from tests.support.patterns import Net
from tests.support.token_models import dense

Made = tuple[Net, str | tuple[str, ...]]


def ints(net: Net, *values: int) -> str:
    return net.const(values, dtype=np.int64)


def product(net: Net, x: str, before: int, after: int) -> str:
    return net("MatMul", x, net.weight(before, after, inputs=before))


def tokens(*between: str, rank: int = 3, swapped: bool = False) -> Made:
    """Two dense layers over a fixed shape, with an operator in front of the first bias."""
    net = Net(*(2, 5, 8)[3 - rank + 1 :], batch=1)
    x = product(net, "x", 8, 16)
    for op in between:
        x = net(op, x)
    x = net("Add", net.bias(16), x) if swapped else net("Add", x, net.bias(16))
    return net, dense(net, net("Relu", x), 16, 4, "last")


def computed_c() -> Made:
    net = Net(8)
    return net, product(net, net("Add", "x", product(net, "x", 8, 8)), 8, 4)


def computed_c_in_front_of_a_norm() -> Made:
    net = Net(8)
    total = net("Add", "x", product(net, "x", 8, 8))
    normal = net("LayerNormalization", total, net.const(np.ones(8)), axis=-1)
    return net, net.gemm(normal, 8, 4)


def gemm_sum() -> Made:
    net = Net(8)
    return net, net.gemm(net("Sum", net.gemm("x", 8, 8, bias=False), "x"), 8, 4)


def gemm_transpose() -> Made:
    net = Net(8, batch=6)
    return net, net.gemm(net("Transpose", net.gemm("x", 8, 4, bias=False), perm=[1, 0]), 6, 4)


def second_reader(op: str, *bounds: float, output: bool = False) -> Made:
    net = Net(8)
    both = net.gemm("x", 8, 16)
    clipped = net(op, both, *(net.const(bound) for bound in bounds))
    return net, (net.gemm(clipped, 16, 4), both if output else net("Softmax", both))


def two_clips() -> Made:
    net = Net(8)
    both = product(net, "x", 8, 16)
    low, high = net.const(-1.0), net.const(1.0)
    return net, (net.gemm(net("Relu", both), 16, 4), net.gemm(net("Clip", both, low, high), 16, 3))


def equal_layers() -> Made:
    net = Net(8)
    weight = net.weight(8, 8, inputs=8)
    one, other = net("MatMul", "x", weight), net("MatMul", "x", weight)
    return net, net("Tanh", net("Add", net("Relu", one), product(net, other, 8, 8)))


def equal_outputs() -> Made:
    net = Net(8)
    weight = net.weight(8, 8, inputs=8)
    return net, (net("MatMul", "x", weight), net("MatMul", "x", weight))


def equal_filters() -> Made:
    net = Net(2, 8, 8)
    one, other = (net("Conv", "x", net.const(np.full((2, 1, 2, 2), 0.25)), group=2) for _ in range(2))
    return net, net.conv(net("Concat", one, net("Relu", other), axis=1), 4, 4)


def resize_by_axes() -> Made:
    net = Net(3, 8, 8, opset=18)
    larger = net("Resize", net.conv("x", 3, 4), "", net.const([2.0, 2.0]), axes=[3, 2], mode="nearest")
    return net, net.conv(larger, 4, 4)


def maximum_by_axes() -> Made:
    net = Net(3, 8, 8, opset=18)
    return net, net.gemm(net("ReduceMax", net.conv("x", 3, 4), ints(net, 2, 3), keepdims=0), 4, 3)


def slice_by_axes() -> Made:
    net = Net(3, 8, 8)
    part = net("Slice", net.conv("x", 3, 4), *(ints(net, v) for v in (1, 3, 1)))
    return net, net.conv(part, 2, 3)


def transposed() -> Made:
    net = Net(8, 5, batch=1)
    turned = net("Transpose", dense(net, net("Transpose", "x", perm=[0, 2, 1]), 8, 6, "a"), perm=[0, 2, 1])
    return net, dense(net, turned, 5, 4, "b")


KINDS: dict[str, tuple[Callable[[], Made], int]] = {
    "vector over tokens": (tokens, 2),
    "vector over tokens, first": (lambda: tokens(swapped=True), 2),
    "vector over rank 4": (lambda: tokens(rank=4), 2),
    "vector behind an identity": (lambda: tokens("Identity"), 2),
    "vector behind a dropout": (lambda: tokens("Dropout"), 2),
    "computed matrix": (computed_c, 2),
    "computed matrix, norm": (computed_c_in_front_of_a_norm, 2),
    "gemm, sum": (gemm_sum, 2),
    "gemm, transpose": (gemm_transpose, 2),
    "relu beside a reader": (lambda: second_reader("Relu"), 2),
    "relu beside an output": (lambda: second_reader("Relu", output=True), 2),
    "clip beside a reader": (lambda: second_reader("Clip", 0.0, 6.0), 2),
    "two clips": (two_clips, 3),
    "equal layers": (equal_layers, 2),
    "equal outputs": (equal_outputs, 1),
    "equal filters": (equal_filters, 2),
    "resize by axes": (resize_by_axes, 2),
    "maximum by axes": (maximum_by_axes, 2),
    "slice by axes": (slice_by_axes, 2),
    "transposed": (transposed, 2),
}

ON_ARM = ("vector over tokens", "computed matrix", "relu beside a reader", "resize by axes")


def calibrated(net: Net, outputs: str | tuple[str, ...], folder: Path) -> tuple[Path, Statistics]:
    model = net.save(folder / "m.onnx", *((outputs,) if isinstance(outputs, str) else outputs))
    batch = net.batch if isinstance(net.batch, int) else 1
    rng = np.random.default_rng(3)
    samples = [{"x": rng.normal(size=(batch, *net.shape)).astype(np.float32)} for _ in range(6)]
    return model, qtool.calibrate(model, samples).statistics


PLAIN = {"calibrator": "max", "bias_correction": "off", "smoothing": "off"}


@pytest.mark.parametrize(("kind", "target"), [*((kind, "x86") for kind in KINDS), *((k, "arm64") for k in ON_ARM)])
def test_layers_stay_integer(kind, target, tmp_path):
    make, layers = KINDS[kind]
    model, statistics = calibrated(*make(), tmp_path)
    proof = qtool.quantize(model, tmp_path / "q.onnx", calibration=statistics, target=target, **PLAIN).verification
    assert (proof.integer_layers, proof.layers, proof.fallbacks) == (layers, layers, ())
    assert proof.output_sqnr_db > 28.0
    assert proof.optimized_sqnr_db > 40.0


@pytest.mark.parametrize("kind", KINDS)
def test_layers_that_need_no_ranges(kind, tmp_path):
    """Dynamic where every layer can be, weight-only elsewhere."""
    make, _ = KINDS[kind]
    model, statistics = calibrated(*make(), tmp_path)
    convolves = any(word in kind for word in ("filters", "axes"))
    form = "weight-only" if convolves else "dynamic"
    done = qtool.quantize(model, tmp_path / "q.onnx", calibration=statistics, form=form)
    assert done.plan.stored if convolves else done.verification.integer_layers == done.verification.layers
    assert done.verification.output_sqnr_db > 28.0


@pytest.mark.parametrize(("name", "form"), [*((name, "static") for name in MODELS), ("bert", "dynamic")])
def test_a_fixed_shape_quantises_like_a_free_batch(name, form, tmp_path):
    proofs = []
    for batch in (1, "N"):
        model, statistics = calibrated(*transformer(name, batch), tmp_path)
        options = {"form": form} if form == "dynamic" else PLAIN
        proofs.append(qtool.quantize(model, tmp_path / "q.onnx", calibration=statistics, **options).verification)
    fixed, free = proofs
    kernels = [{op: proof.kernels[op] for op in proof.integer_kernels} for proof in proofs]
    assert kernels[0] == kernels[1]
    assert fixed.float_layers == free.float_layers
    assert abs(fixed.output_sqnr_db - free.output_sqnr_db) < 0.5
