"""Numbers at the edge: what docs/numbers.md says of each, on a network that onnxruntime runs."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import qtool
from qtool.core.errors import DataError
from tests.support.places import REPOSITORY

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 4, 6, 6)).astype(np.float32)
WEIGHT = RNG.normal(scale=0.2, size=(8, 4, 3, 3)).astype(np.float32)
LAST = RNG.normal(scale=0.3, size=(8, 8, 1, 1)).astype(np.float32)
BIAS = RNG.normal(scale=0.1, size=8).astype(np.float32)
ALIVE = (np.arange(8) != 3).astype(np.float32)


def network(path, weight, bias, *, masked=False):
    """Conv, Relu, Conv: x [N, 4, 6, 6] to y [N, 8, 6, 6]; masked: `mask` of y's shape is added."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "v"], ["m" if masked else "y"], name="last"),
        *([helper.make_node("Add", ["m", "mask"], ["y"], name="masking")] if masked else []),
    ]
    mask = [helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", 8, 6, 6])] if masked else []
    arrays = {"w": weight, "b": bias, "v": LAST}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6, 6]), *mask],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8, 6, 6])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def quantized_db(folder, x, weight, bias):
    """Quantise the network on x; the result, and the SQNR in dB of its outputs as onnxruntime computes them."""
    network(folder / "m.onnx", weight, bias)
    result = qtool.quantize(folder / "m.onnx", folder / "q.onnx", data={"x": x}, optimize_for="size", partial=False)
    assert result.verification.integer_layers == 2
    exact, found = (
        onnxruntime.InferenceSession(str(folder / name)).run(None, {"x": x})[0].astype(np.float64)
        for name in ("m.onnx", "q.onnx")
    )
    assert np.isfinite(found).all()
    return result, 10 * np.log10((exact**2).sum() / ((exact - found) ** 2).sum())


@pytest.mark.parametrize(
    ("x", "weight", "bias"),
    [
        (X * np.float32(1e30), WEIGHT, BIAS),
        (X, WEIGHT * np.float32(1e30), BIAS),
        (X, WEIGHT * np.float32(1e-38), BIAS),
        (np.zeros_like(X), WEIGHT, BIAS),
        (np.full_like(X, 2.5), WEIGHT, BIAS),
        (np.full_like(X, -2.5), WEIGHT, BIAS),
        (X, WEIGHT * ALIVE[:, None, None, None], BIAS),
        (X, WEIGHT * 0, BIAS),
        (X, WEIGHT, BIAS + 1e6),
    ],
    ids=["large", "large-weights", "small-weights", "zeros", "constant", "negative", "dead", "all-dead", "large-bias"],
)
def test_it_is_as_accurate_as_any(x, weight, bias, tmp_path):
    result, db = quantized_db(tmp_path, x, weight, bias)
    assert db > 30
    assert result.verdict is not None and result.verdict.met


@pytest.mark.parametrize("size", [pytest.param(1e-30, marks=pytest.mark.long, id="small"), 1e-40])
def test_what_no_grid_reaches_is_said(size, tmp_path):
    result, db = quantized_db(tmp_path, X * np.float32(size), WEIGHT, BIAS * np.float32(size))
    assert db == pytest.approx(0.0, abs=0.1)
    assert result.verdict is not None and not result.verdict.met
    assert any("input 'x'" in warning and "scaled as the model wants it" in warning for warning in result.warnings)


@pytest.mark.long
@pytest.mark.parametrize(("x", "says"), [(X[:1], "one sample"), (np.repeat(X[:1], 9, axis=0), "are identical")])
def test_few_different_samples_are_a_warning(x, says, tmp_path):
    result, db = quantized_db(tmp_path, x, WEIGHT, BIAS)
    assert db > 30 and says in result.warnings[0]


def test_no_sample_is_an_error(tmp_path):
    network(tmp_path / "m.onnx", WEIGHT, BIAS)
    with pytest.raises(DataError, match="holds no samples"):
        qtool.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", data={"x": X[:0]})


def test_nan_is_an_error_that_names_the_sample(tmp_path):
    network(tmp_path / "m.onnx", WEIGHT, BIAS)
    x = X.copy()
    x[3, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="sample 3: the input 'x' holds NaN"):
        qtool.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", data={"x": x})


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_what_is_not_finite_by_design_stays_as_in_float(value, tmp_path):
    network(tmp_path / "m.onnx", WEIGHT, BIAS, masked=True)
    mask = np.where(RNG.uniform(size=(16, 8, 6, 6)) < 0.1, np.float32(value), np.float32(0.0))
    feeds = {"x": X, "mask": mask}
    result = qtool.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", data=feeds, optimize_for="size", partial=False)
    proof = result.verification
    assert (proof.integer_layers, proof.unlike) == (2, {})
    assert result.verdict is not None and result.verdict.met and proof.judged_db > 30
    exact, found = (
        onnxruntime.InferenceSession(str(tmp_path / name)).run(None, feeds)[0] for name in ("m.onnx", "q.onnx")
    )
    here = mask == 0
    assert (np.isfinite(found) == here).all() and np.array_equal(found[~here], exact[~here], equal_nan=True)
    # and what is finite in both is what is measured
    told = qtool.evaluate(tmp_path / "m.onnx", tmp_path / "q.onnx", feeds).candidates[0]
    noise = (exact[here].astype(np.float64) - found[here]) ** 2
    db = 10 * np.log10((exact[here].astype(np.float64) ** 2).sum() / noise.sum())
    assert told.nan is None and told.sqnr_db == pytest.approx(db, abs=1e-6)


def test_what_is_not_finite_in_one_alone_is_counted(tmp_path):
    network(tmp_path / "m.onnx", WEIGHT, BIAS)
    network(tmp_path / "other.onnx", WEIGHT, np.where(np.arange(8) == 2, np.float32(np.inf), BIAS))
    told = qtool.evaluate(tmp_path / "m.onnx", tmp_path / "other.onnx", {"x": X}).candidates[0]
    assert told.nan is not None and (told.nan.output, told.nan.sample, told.nan.samples) == ("y", 0, len(X))


def test_an_empty_batch_is_an_error(tmp_path):
    network(tmp_path / "m.onnx", WEIGHT, BIAS)
    with pytest.raises(DataError, match="the data"):
        qtool.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", data=[{"x": X}, {"x": X[:0]}])


CASES = {
    "values up to 1e30": test_it_is_as_accurate_as_any,
    "weights about 1e-38": test_it_is_as_accurate_as_any,
    "inputs below 2^-72": test_what_no_grid_reaches_is_said,
    "a tensor that is always 0": test_it_is_as_accurate_as_any,
    "a tensor that is always one number": test_it_is_as_accurate_as_any,
    "a dead channel": test_it_is_as_accurate_as_any,
    "a layer of which all weights are 0": test_it_is_as_accurate_as_any,
    "a bias far larger than the products": test_it_is_as_accurate_as_any,
    "one sample": test_few_different_samples_are_a_warning,
    "the same sample many times": test_few_different_samples_are_a_warning,
    "no sample, an empty batch": test_no_sample_is_an_error,
    "NaN or Inf in what is quantised": test_nan_is_an_error_that_names_the_sample,
    "NaN or Inf by design in what is not quantised": test_what_is_not_finite_by_design_stays_as_in_float,
}
"""What the rows of docs/numbers.md begin with, and the test of each."""


def test_every_row_of_the_page_has_a_case():
    page = (REPOSITORY / "docs" / "numbers.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")][1:]
    assert [row for row in rows if not any(row.startswith(begin) for begin in CASES)] == []
    assert [begin for begin in CASES if not any(row.startswith(begin) for row in rows)] == []
