"""Every model of ONNX's own backend tests is either quantised, and verified, or left alone with a reason.

ONNX gives nearly all of its node models the weights as inputs, so they are tried a second time with every input but the
first made constant. The `light` models are whole networks whose weights are all one number: their outputs are constant
and say nothing about accuracy (their SQNR is infinite), but a lot about the graphs.
"""

import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.backend.test.case.node import collect_testcases

import qtool
from qtool.core.errors import AlreadyQuantizedError, ModelError, NothingToQuantizeError, QtoolError

pytestmark = pytest.mark.fast(0)
DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
GROUPS = ("pytorch-converted", "pytorch-operator", "simple")
# gigabytes of memory and most of a minute
LARGE = {
    "light_inception_v2",
    "light_resnet50",
    "light_vgg19",
    "light_zfnet512",
    "light_densenet121",
    "light_bvlc_alexnet",
    "light_inception_v1",
}
LIGHT = [
    pytest.param(path.stem, marks=[pytest.mark.slow] if path.stem in LARGE else [])
    for path in sorted((DATA / "light").glob("*.onnx"))
]
FLOAT = onnx.TensorProto.FLOAT
# ONNX's small random weights and inputs: the worst of them was measured at 38.4 dB
MIN_DB = 35.0
# whole numbers that 8 bits hold
EXACT = "test_convtranspose"


@dataclass(frozen=True)
class Outcome:
    """What became of a model: the figures, or the error."""

    name: str
    error: QtoolError | None
    sqnr_db: float = 0.0
    integer_share: float = 0.0


def attempt(name, model, data, folder, **options):
    """calibrate and quantize `model`; any exception but a `QtoolError` of one line fails the test."""
    folder.mkdir()
    try:
        calibrated = qtool.calibrate(model, data, folder / "c.calib")
        result = qtool.quantize(model, folder / "q.onnx", calibration=calibrated.output, partial=False, **options)
    except QtoolError as error:
        text = str(error)
        assert text.count("\n") == 0, (name, text)
        assert str(model) in text, (name, text)
        assert len(text) > len(str(model)) + 20, f"{name}: {text} gives no reason"
        left = sorted(path.name for path in folder.iterdir())
        assert left in ([], ["c.calib"]), (name, left)
        return Outcome(name, error)
    assert sorted(path.name for path in folder.iterdir()) == ["c.calib", "q.onnx"], name
    onnx.checker.check_model(str(folder / "q.onnx"))
    proof = result.verification
    assert proof.fallbacks == (), (name, proof.fallbacks)
    return Outcome(name, None, proof.output_sqnr_db, proof.integer_share)


def summary(outcomes):
    """Type of error, or "quantised" -> how many."""
    return Counter("quantised" if o.error is None else type(o.error).__name__ for o in outcomes)


def check_quantised(outcomes):
    for outcome in outcomes:
        if outcome.error is None:
            assert np.isfinite(outcome.sqnr_db) or outcome.name.startswith(EXACT), outcome
            assert outcome.sqnr_db > MIN_DB, outcome
            assert outcome.integer_share == 1.0, outcome


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """group -> outcome of each of its models, on the inputs that ONNX ships with them."""
    root = tmp_path_factory.mktemp("groups")
    return {
        group: [
            attempt(path.parent.name, path, path.parent, root / path.parent.name)
            for path in sorted((DATA / group).rglob("model.onnx"))
        ]
        for group in GROUPS
    }


@pytest.mark.long
def test_models_converted_from_pytorch(groups):
    outcomes = groups["pytorch-converted"]
    assert len(outcomes) >= 82
    check_quantised(outcomes)
    counts = summary(outcomes)
    assert counts["quantised"] >= 27
    assert set(counts) <= {"quantised", "NothingToQuantizeError", "ModelError"}
    # opset 6, whose broadcasting Gemm no onnxruntime runs: there is nothing to compare an int8 model with
    (refused,) = [o for o in outcomes if type(o.error) is ModelError]
    assert refused.name == "test_Linear"
    assert "onnxruntime cannot load it" in str(refused.error)


def test_operators_of_pytorch(groups):
    outcomes = groups["pytorch-operator"]
    assert len(outcomes) >= 35
    check_quantised(outcomes)
    assert {o.name for o in outcomes if o.error is None} >= {"test_operator_conv"}
    assert set(summary(outcomes)) == {"quantised", "NothingToQuantizeError"}


def test_simple_models_hold_nothing_to_quantise(groups):
    outcomes = groups["simple"]
    assert len(outcomes) >= 23
    assert set(summary(outcomes)) == {"NothingToQuantizeError"}


@pytest.mark.long
@pytest.mark.parametrize("name", LIGHT)
def test_whole_networks(name, tmp_path):
    path = DATA / "light" / f"{name}.onnx"
    graph = onnx.load(path).graph
    fed = next(value for value in graph.input if value.name not in {i.name for i in graph.initializer})
    shape = [dim.dim_value for dim in fed.type.tensor_type.shape.dim]
    data = [{fed.name: np.random.default_rng(1).random(shape, np.float32)}]
    outcome = attempt(name, path, data, tmp_path / "out", calibrator="max", optimize_for="size")
    assert outcome.error is None, outcome.error
    assert outcome.sqnr_db > MIN_DB
    assert outcome.integer_share == 1.0


@pytest.fixture(scope="module")
def node_cases():
    with warnings.catch_warnings():
        # ONNX computes NaN and Inf on purpose
        warnings.simplefilter("ignore", RuntimeWarning)
        cases = collect_testcases(None)
    return [case for case in cases if case.data_sets and any(_is_float(v) for v in case.model.graph.input)]


def _is_float(value):
    return value.type.HasField("tensor_type") and value.type.tensor_type.elem_type == FLOAT


def _with_constants(case):
    """The case's model with every input but the first made an initializer; None where it has but one, or no tensors."""
    model, arrays = onnx.ModelProto(), case.data_sets[0][0]
    model.CopyFrom(case.model)
    rest = list(zip(model.graph.input, arrays, strict=False))[1:]
    if not rest or not all(isinstance(array, np.ndarray) and v.type.HasField("tensor_type") for v, array in rest):
        return None
    # before IR version 4 an initializer had to be an input too
    model.ir_version = max(model.ir_version, 4)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, value.name) for value, array in rest)
    del model.graph.input[1:]
    return model


def _attempt_cases(pairs, folder):
    outcomes = []
    for case, model in pairs:
        path = folder / f"{case.name}.onnx"
        onnx.save(model, path)
        record = {v.name: a for v, a in zip(model.graph.input, case.data_sets[0][0], strict=False)}
        outcomes.append(attempt(case.name, path, [record], folder / case.name))
    return outcomes


SCAN_8 = "test_scan_sum"
"""A Scan of opset 8, which no later opset can compute."""
POISON = "test_attention_4d_softcap_neginf_mask_poison_expanded"
"""The values of masked positions are 1000, a thousand times the others, and widen the range of what is quantised."""


FEW, SOME, ALL = 25, 5, 1
"""Of every so many cases one is tried, spread over the operators; slow tests try all."""
LAYERS = {"test_basic_conv_with_padding", "test_gemm_default_no_bias", "test_matmul_2d"}


@pytest.mark.parametrize(
    "step", [FEW, pytest.param(SOME, marks=pytest.mark.long), pytest.param(ALL, marks=pytest.mark.slow)]
)
def test_every_node_with_float_inputs(node_cases, tmp_path, step):
    outcomes = _attempt_cases([(case, case.model) for case in node_cases[::step]], tmp_path)
    assert len(outcomes) >= 1000 // step
    check_quantised(outcomes)
    sound = [o for o in outcomes if not (isinstance(o.error, ModelError) and "is bfloat16" in str(o.error))]
    assert len(outcomes) - len(sound) < 20
    sound = [o for o in sound if o.name != SCAN_8]
    assert {type(o.error) for o in sound} <= {type(None), NothingToQuantizeError, AlreadyQuantizedError}

    # collecting the cases takes half of the time: both tests are one
    constant = tmp_path / "constant"
    constant.mkdir()
    chosen = [case for i, case in enumerate(node_cases) if i % step == 0 or case.name in LAYERS]
    made = [(case, model) for case in chosen if (model := _with_constants(case)) is not None]
    outcomes = [o for o in _attempt_cases(made, constant) if o.name not in (SCAN_8, POISON)]
    assert len(outcomes) >= 600 // step
    check_quantised(outcomes)
    counts = summary(outcomes)
    assert counts["quantised"] >= 19 // step
    assert set(counts) <= {"quantised", "NothingToQuantizeError", "AlreadyQuantizedError"}
    assert {o.name for o in outcomes if o.error is None} >= LAYERS
