"""Every row of the table computes what onnxruntime computes, and its gradient is that of what it computes."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra finetune")

from qtool.finetuning.calls import Call
from qtool.finetuning.interpreter import Interpreter
from qtool.finetuning.operators import OPERATORS
from qtool.graph.model_io import from_bytes
from qtool.runtime.session import Session
from tests.support.operator_cases import CASES

TOLERANCE = 1e-5
"""Of the largest magnitude in an output."""


def assert_same(got, want, title):
    assert (got.shape, got.dtype) == (want.shape, want.dtype), title
    finite = np.isfinite(want) if want.dtype.kind == "f" else np.zeros(want.shape, bool)
    np.testing.assert_array_equal(got[~finite], want[~finite], title)
    scale = np.abs(want[finite]).max(initial=0.0)
    np.testing.assert_allclose(got[finite], want[finite], rtol=0, atol=TOLERANCE * scale, err_msg=title)


KEYS = sorted({case.key for case in CASES})


def test_every_row_has_a_case():
    assert set(KEYS) == set(OPERATORS)


@pytest.mark.parametrize("key", KEYS, ids=".".join)
def test_a_row_computes_what_onnxruntime_computes(key):
    for case in (case for case in CASES if case.key == key):
        model = case.model().SerializeToString()
        want = Session(model, optimize=False).run(case.feeds())
        interpreter = Interpreter(from_bytes(model))
        assert not any(border.outside for border in interpreter.borders), case.title
        got = interpreter.run(case.feeds())
        assert got.keys() == want.keys()
        for name, array in want.items():
            assert_same(got[name].numpy(), array, case.title)


def loss(case, call, inputs):
    """A number that hangs on each element of the first output, in doubles."""
    made = OPERATORS[case.key].function(call, *inputs)
    made = made[0] if isinstance(made, tuple) else made
    generator = torch.Generator().manual_seed(2)
    return (made.double() * torch.rand(made.shape, generator=generator, dtype=torch.float64)).sum()


SMOOTH = [
    case
    for case in CASES
    if case.smooth and OPERATORS[case.key].gradient and any(array.dtype.kind == "f" for array in case.feeds().values())
]
FIXED = {"Resize": (1, 2), "Dropout": (1,), "CastLike": (1,), "Pad": (2,)}
"""Inputs that are numbers for Python, and have no gradient."""


def test_every_row_with_a_gradient_has_a_smooth_case():
    assert {case.key for case in SMOOTH} == {key for key, row in OPERATORS.items() if row.gradient}


@pytest.mark.parametrize("key", sorted({case.key for case in SMOOTH}), ids=".".join)
def test_the_gradient_is_that_of_what_a_row_computes(key):
    for case in (case for case in SMOOTH if case.key == key):
        told, found = slopes(case)
        assert told == pytest.approx(found, rel=1e-5, abs=1e-7), case.title


def slopes(case):
    """Along a random direction of all inputs in floats: what gradients say, and what differences in doubles say."""
    rng = np.random.default_rng(1)
    node = from_bytes(case.model().SerializeToString()).graph[0]
    call = Call.of(node, 1 if case.domain else case.opset)
    arrays = [None if a is None else a.astype(np.float64) if a.dtype == np.float32 else a for a in case.inputs]
    held = FIXED.get(case.op, ())
    moved = {i for i, a in enumerate(arrays) if a is not None and a.dtype == np.float64 and i not in held}
    ways = {i: rng.normal(size=arrays[i].shape) for i in moved}

    def at(step):
        return [
            None if a is None else torch.tensor(a + step * ways[i] if i in moved else a) for i, a in enumerate(arrays)
        ]

    inputs = at(0.0)
    for i in moved:
        inputs[i].requires_grad_()
    loss(case, call, inputs).backward()
    told = sum(float((inputs[i].grad * torch.tensor(ways[i])).sum()) for i in moved if inputs[i].grad is not None)
    step = 1e-6
    return told, float(loss(case, call, at(step)) - loss(case, call, at(-step))) / (2 * step)
