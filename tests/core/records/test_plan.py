"""The plan as a file: what is saved is what is read, and an edited plan is either understood or refused."""

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qtool.core.errors import UsageError
from qtool.core.numerics.affine import QParams
from qtool.core.records.plan import ActivationPlan, BiasPlan, BiasShift, ConstantPlan, Plan, WeightPlan, load_plan

PLAN = Plan(
    model_digest="ab" * 32,
    target="x86",
    scheme="affine",
    granularity="per-channel",
    calibrator="percentile 99.99",
    activations=(
        ActivationPlan(
            "conv/out:0",
            QParams((float(np.float32(0.1)),), (128,), "uint8"),
            (("conv", 0), ("add", 1)),
            (("head", 0),),
            1,
            64,
            True,
            "max: [-1, 2], absorbs [0, inf]",
        ),
        ActivationPlan("größe", QParams((2.0**-80,), (-128,), "int8"), (("a", 0),), (), None, None, False, ""),
    ),
    constants=(ConstantPlan("c", QParams((1.0,), (0,), "int8"), (("add", 1),)),),
    weights=(
        WeightPlan("w", QParams((0.5, float(np.float32(1e-5)), 3e38), (0, 0, 0), "int8", 0), (("conv", 1),), 2),
        WeightPlan("v", QParams((0.5,), (0,), "int8"), (("gemm", 1),), 0),
    ),
    biases=(BiasPlan("b", (0.05, 1e-7, 2.0**-100), ("conv", 2)),),
    integer={"conv": ("QLinearConv",), "add": ("QLinearAdd", "Add"), "flatten": ()},
    layers=("conv", "gemm"),
    skipped={"head": "excluded by name"},
    shifts=(BiasShift(("conv", 2), (-0.5, 0.0, 1e-7)),),
)
EMPTY = Plan("", "x86", "affine", "per-tensor", "max", (), (), (), (), {}, (), {})


def saved(plan: Plan, folder: Path) -> Path:
    path = folder / "plan.json"
    plan.save(path)
    return path


def refusal(path: Path) -> str:
    """The message, which is one line, names the file and says what to do."""
    with pytest.raises(UsageError) as caught:
        load_plan(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert "save_plan" in message
    return message


def edited(folder: Path, data: Any) -> Path:
    path = folder / "edited.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


@pytest.mark.parametrize("plan", [PLAN, EMPTY])
def test_what_is_saved_is_what_is_read(tmp_path, plan):
    path = saved(plan, tmp_path)
    assert load_plan(path) == plan
    again = path.read_bytes()
    saved(load_plan(path), tmp_path)
    assert path.read_bytes() == again


def test_the_file_is_json_for_anyone(tmp_path):
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    data = json.loads(saved(PLAN, tmp_path).read_text(encoding="utf-8"), parse_constant=refuse)
    assert data["activations"][0]["params"]["zero_point"] == [128]
    assert data["weights"][0]["params"]["scale"] == [0.5, float(np.float32(1e-5)), 3e38]
    assert data["skipped"] == {"head": "excluded by name"}
    # one fact a line, so that two plans can be compared by diff
    assert len(saved(PLAN, tmp_path).read_text(encoding="utf-8").splitlines()) > 100


float32 = st.floats(2.0**-126, 2.0**127, width=32)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(float32, min_size=1, max_size=6), st.text(max_size=9), st.integers(-3, 5))
def test_scales_and_names_keep_every_bit(tmp_path, scales, name, axis):
    weight = WeightPlan(name, QParams(tuple(scales), (0,) * len(scales), "int8", axis), ((name, 1),), 0)
    plan = replace(PLAN, weights=(weight,), biases=(BiasPlan(name, tuple(scales), (name, 2)),), skipped={name: name})
    assert load_plan(saved(plan, tmp_path)) == plan


def test_a_plan_that_is_not_finite_is_not_written(tmp_path):
    bad = replace(PLAN, biases=(BiasPlan("b", (math.inf,), ("conv", 2)),))
    with pytest.raises(ValueError, match=r"biases\[0\]\.scale\[0\]: a finite number is needed"):
        bad.save(tmp_path / "plan.json")
    assert list(tmp_path.iterdir()) == []


def test_a_scale_may_be_edited(tmp_path):
    data = PLAN.to_dict()
    data["activations"][0]["params"]["scale"] = [1]
    data["activations"][0]["params"]["zero_point"] = [7]
    params = load_plan(edited(tmp_path, data)).activations[0].params
    assert params == QParams((1.0,), (7,), "uint8")


@pytest.mark.parametrize("content", [b"", b"{", b"plan", b"[" * 100_000, b"PK\x03\x04", b'{"a": NaN}'])
def test_what_is_not_json(tmp_path, content):
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    assert "not JSON" in refusal(path)


@pytest.mark.parametrize(
    "data",
    [
        None,
        1,
        "x",
        [],
        {},
        {"qtool_plan": 2},
        {"qtool_plan": "1"},
        [{"qtool_plan": 1}],
        {"schema": "qtool.plan"},
        {"schema": "qtool.plan", "schema_version": 2},
        {"schema": "qtool.tune", "schema_version": 1},
        {"schema_version": 1},
    ],
)
def test_what_is_not_a_plan(tmp_path, data):
    assert "not a qtool plan" in refusal(edited(tmp_path, data))


def test_a_plan_from_before_there_were_headers_is_read(tmp_path):
    data = {key: value for key, value in as_json(PLAN).items() if key not in ("schema", "schema_version", "versions")}
    assert load_plan(edited(tmp_path, {"qtool_plan": 1, **data})) == PLAN


def test_versions_are_not_looked_at(tmp_path):
    for versions in ({"qtool": "99"}, {}, None):
        assert load_plan(edited(tmp_path, {**as_json(PLAN), "versions": versions})) == PLAN


def test_a_missing_file_and_a_folder(tmp_path):
    assert "cannot be read" in refusal(tmp_path / "nowhere.json")
    assert "cannot be read" in refusal(tmp_path)


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every value in nested lists and objects."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def as_json(plan: Plan) -> Any:
    return json.loads(json.dumps(plan.to_dict()))


PLACES = [path for path in places(as_json(PLAN)) if path[0] not in ("schema", "schema_version", "versions")]


@pytest.mark.parametrize("path", PLACES, ids=lambda path: ".".join(map(str, path)))
def test_a_value_of_the_wrong_type_is_refused_wherever_it_stands(tmp_path, path):
    original = as_json(PLAN)
    for wrong in (None, 1.5, "no", [], {}, True, -(10**60), [[]], {"a": 1}, math.nan):
        data = copy.deepcopy(original)
        holder = data
        for key in path[:-1]:
            holder = holder[key]
        if type(holder[path[-1]]) is type(wrong) and wrong == wrong:  # noqa: PLR0124 - NaN is wrong anywhere
            continue
        holder[path[-1]] = wrong
        target = edited(tmp_path, data)
        try:
            plan = load_plan(target)
        except UsageError as error:
            assert str(error).startswith(f"{target}: ")
            assert "\n" not in str(error)
        else:
            # where it has a meaning (null for an axis), it is kept
            assert as_json(plan) == data


@pytest.mark.parametrize(
    "path", [p for p in PLACES if len(p) == 1 or (isinstance(p[-1], str) and p[0] not in ("integer", "skipped"))]
)
def test_a_missing_field_is_named(tmp_path, path):
    data = as_json(PLAN)
    holder = data
    for key in path[:-1]:
        holder = holder[key]
    del holder[path[-1]]
    assert str(path[-1]) in refusal(edited(tmp_path, data))


@pytest.mark.parametrize("path", [(), ("activations", 0), ("activations", 1, "params"), ("weights", 0), ("biases", 0)])
def test_a_field_that_nobody_reads_is_refused(tmp_path, path):
    data = as_json(PLAN)
    holder = data
    for key in path:
        holder = holder[key]
    holder["sacle"] = 1
    assert "sacle" in refusal(edited(tmp_path, data))


@pytest.mark.parametrize(
    "change",
    [
        {"scale": [0.0]},
        {"scale": [-1.0]},
        {"scale": []},
        {"scale": [1e39]},
        {"scale": [1e-46]},
        {"scale": [True]},
        {"scale": ["1"]},
        {"scale": [1.0, 2.0]},
        {"scale": [1.0, 2.0], "zero_point": [1, 2]},
        {"zero_point": []},
        {"zero_point": [256]},
        {"zero_point": [-1]},
        {"zero_point": [1.0]},
        {"zero_point": [1, 2]},
        {"dtype": "int16"},
        {"dtype": "int8"},
        {"axis": "0"},
    ],
    ids=str,
)
def test_a_grid_that_cannot_be_is_refused(tmp_path, change):
    data = as_json(PLAN)
    data["activations"][0]["params"].update(change)
    assert "activations[0].params" in refusal(edited(tmp_path, data))
