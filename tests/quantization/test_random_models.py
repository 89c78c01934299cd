"""Random valid graphs are quantised, in each form, and come out as near to float as the noise of 8 bits tells.

`python -m tests.support.campaign` runs any number of them.
"""

import collections

import numpy as np
import onnx
import pytest

from qtool.core.records.options import FORMS
from tests.support.campaign import TRIED_FORMS, tried
from tests.support.noise import sqnr_db
from tests.support.random_kinds import unusual_case
from tests.support.random_models import random_case

QUICK = [pytest.param(seed, FORMS[seed % len(FORMS)], id=f"{seed} {FORMS[seed % len(FORMS)]}") for seed in range(20)]
SEEDS = range(1000, 1030)


@pytest.mark.parametrize(("seed", "form"), QUICK)
def test_a_graph(seed, form, tmp_path):
    options = {"calibrator": "max", "bias_correction": "off", "smoothing": "off"} if form == "static" else {}
    outcome = tried(random_case(seed), form, tmp_path, **options)
    assert not outcome.failed, outcome


@pytest.mark.parametrize(("seed", "form"), QUICK[:6])
def test_an_unusual_graph(seed, form, tmp_path):
    options = {"calibrator": "max", "bias_correction": "off", "smoothing": "off"} if form == "static" else {}
    outcome = tried(unusual_case(seed), form, tmp_path, **options)
    assert not outcome.failed, outcome


@pytest.mark.slow
@pytest.mark.parametrize("form", TRIED_FORMS)
@pytest.mark.parametrize("seed", SEEDS)
def test_more_unusual_graphs(seed, form, tmp_path):
    outcome = tried(unusual_case(seed), form, tmp_path)
    assert not outcome.failed, outcome


@pytest.mark.slow
@pytest.mark.parametrize("excluding", [False, True], ids=["whole", "with exclusions"])
@pytest.mark.parametrize("form", TRIED_FORMS)
@pytest.mark.parametrize("seed", SEEDS)
def test_more_graphs(seed, form, excluding, tmp_path):
    outcome = tried(random_case(seed), form, tmp_path, excluding=excluding)
    assert not outcome.failed, outcome


def test_a_seed_gives_the_same_graph_and_data():
    one, two = random_case(5), random_case(5)
    assert one.model.SerializeToString(deterministic=True) == two.model.SerializeToString(deterministic=True)
    assert all((array == two.data[name]).all() for name, array in one.data.items())


def test_the_graphs_are_of_many_kinds():
    cases = [random_case(seed) for seed in range(60)]
    operators = collections.Counter(op for case in cases for op in {node.op_type for node in case.model.graph.node})
    assert {"Conv", "Gemm", "MatMul", "Softmax", "Concat", "Split", "BatchNormalization"} <= set(operators)
    assert len(operators) > 50
    opsets = {case.model.opset_import[0].version for case in cases}
    assert {11, 21} <= opsets and len(opsets) > 8
    free = [any(dim.dim_param for dim in case.model.graph.input[0].type.tensor_type.shape.dim) for case in cases]
    assert 0 < sum(free) < len(free)
    assert sum(len(case.model.graph.output) > 1 for case in cases) > 5
    for case in cases[:10]:
        onnx.checker.check_model(case.model, full_check=True)


def test_unusual_graphs_are_of_other_kinds():
    cases = [unusual_case(seed) for seed in range(30)]
    operators = collections.Counter(op for case in cases for op in {node.op_type for node in case.model.graph.node})
    assert {"If", "Loop", "Einsum", "CumSum", "Where", "GRU"} <= set(operators)
    opsets = {case.model.opset_import[0].version for case in cases}
    assert min(opsets) < 11 and max(opsets) == 23
    kinds = {output.type.tensor_type.elem_type for case in cases for output in case.model.graph.output}
    assert len(kinds) > 1


def test_a_ratio_in_decibels():
    assert sqnr_db(np.array([10.0]), np.array([9.0])) == pytest.approx(20.0)
    assert sqnr_db(np.ones(3), np.ones(3)) == float("inf")
