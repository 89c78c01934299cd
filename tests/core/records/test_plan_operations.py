"""The parts of a plan: every field is taken into account, and no row of another layer is left."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass

import pytest

from qtool.core.numerics.affine import QParams
from qtool.core.records.plan import (
    ActivationPlan,
    BiasPlan,
    BiasShift,
    BlockPlan,
    CalibrationNote,
    ConstantPlan,
    Plan,
    WeightPlan,
    WiderPlan,
)

GRID = QParams((0.1,), (0,), "int8")
# what a plan says of the model and of how it was made; these stay whatever is taken out
FACTS = {
    "model_digest", "target", "scheme", "granularity", "calibrator", "layers", "skipped", "recipe", "inputs",
    "calibration",
}  # fmt: skip


def activation(tensor: str, *readers: str, produced: bool) -> ActivationPlan:
    reads = tuple((r, 0) for r in readers)
    return ActivationPlan(
        tensor, GRID, reads, (("float", 0),), 1, 4, produced, "max", (("pool", 0),), barred=not produced
    )


PLAN = Plan(
    model_digest="0" * 64,
    target="x86",
    scheme="affine",
    granularity="per-channel",
    calibrator="max",
    activations=(
        activation("x", "a", "b", produced=False),
        activation("of a", "b", produced=True),
        activation("of b", "c", produced=True),
    ),
    constants=(ConstantPlan("k", GRID, (("a", 1), ("sum", 1))),),
    weights=(WeightPlan("w", GRID, (("a", 1), ("b", 1)), 0, "AQL/"), WeightPlan("v", GRID, (("c", 1),), 0)),
    biases=(BiasPlan("bias", (0.1,), ("a", 2)), BiasPlan("other", (0.1,), ("b", 2))),
    integer={"a": ("QLinearConv",), "b": ("QLinearConv",), "d": ("DynamicQuantizeMatMul",), "sum": ("QLinearAdd",)},
    layers=("a", "b", "c", "d", "e", "f", "float"),
    skipped={"float": "excluded"},
    shifts=(BiasShift(("a", 2), (1.0,)), BiasShift(("b", 2), (1.0,))),
    dynamic=(WeightPlan("m", GRID, (("d", 1), ("other d", 1)), 0),),
    stored=(WeightPlan("t", GRID, (("e", 1), ("table", 0)), 0),),
    blocks=(BlockPlan("n", 4, 16, 0, "AACAPw==", (("f", 1), ("other f", 1)), "qdq", "CA=="),),
    inputs={"y": (0.0, 1.0)},
    calibration=CalibrationNote(3, "ab", {"trim": "mask"}),
    wider=(WiderPlan("a", 16), WiderPlan("c", 16)),
)


def readers(value: object) -> Iterator[str]:
    """The node of every (node, index) anywhere in a value."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int):
        yield value[0]
    elif isinstance(value, tuple):
        for item in value:
            yield from readers(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from readers(getattr(value, field.name))


def test_the_sample_says_something_in_every_field():
    """Else a new field of `Plan` would pass the tests below without being in any of them: give it a row here."""
    empty = {field.name for field in fields(Plan) if not getattr(PLAN, field.name)} - {"recipe"}
    assert empty == set()
    assert {field.name for field in fields(Plan)} >= FACTS


def test_without_all_keeps_the_facts_and_nothing_else():
    bare = PLAN.without_all()
    for field in fields(Plan):
        kept = getattr(bare, field.name)
        assert kept == getattr(PLAN, field.name) if field.name in FACTS else not kept, field.name


@pytest.mark.parametrize("layer", ["a", "b", "c", "d", "e", "f"])
def test_only_one_layer_is_left(layer):
    part = PLAN.only(layer, made=())
    for field in fields(Plan):
        if field.name not in FACTS:
            assert set(readers(getattr(part, field.name))) <= {layer}, field.name
    assert set(part.integer) <= {layer}
    assert part.quantized == (layer,) if layer != "c" else part.quantized == ()
    assert all(not row.produced and row.twin_axis is None and not row.barred for row in part.activations)


def test_what_a_layer_makes_stays_as_it_is():
    part = PLAN.only("a", made={"of a"})
    assert [row.tensor for row in part.activations] == ["x", "of a"]
    assert part.activations[0].readers == (("a", 0),)
    assert part.activations[1] == PLAN.activations[1]


def test_within_takes_the_rows_of_a_part_of_the_graph():
    part = PLAN.within({"b", "d"}, {"x", "of a", "of b"})
    for field in fields(Plan):
        if field.name not in FACTS | {"integer"}:
            assert set(readers(getattr(part, field.name))) <= {"b", "d"}, field.name
    assert [row.tensor for row in part.activations] == ["x", "of a", "of b"]
    # the first has no twin left, but a vector for its Q
    assert part.activations[0].float_readers == () and part.activations[0].twin_axis == 1
    assert [row.tensor for row in PLAN.within({"float", "a"}, {"x"}).activations] == ["x"]
    assert PLAN.within({"float", "a"}, {"x"}).activations[0].twin_axis == 1
    assert PLAN.within({"b"}, set()).activations == ()


def test_everything_is_within_the_whole():
    everything = {*readers(PLAN.activations), *PLAN.integer, *PLAN.layers, "other d", "other f", "table", "c"}
    assert PLAN.within(everything, {"x", "of a", "of b"}) == PLAN


def test_layers_are_quantised_as_integers_or_behind_integer_weights():
    assert PLAN.quantized == ("a", "b", "d", "e", "f")
