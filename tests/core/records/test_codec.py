"""The one decoder of JSON documents: what a record's types say is read, anything else is refused by its path."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtool.core.records.codec import (
    OPTIONAL,
    PAIRS,
    TEXT,
    UNWRITTEN,
    Real,
    called,
    decoded,
    encoded,
    json_text,
    keyed,
    noting,
    parsed,
)
from qtool.core.records.evaluation import MetricInfo, MetricKind


@dataclass(frozen=True, slots=True)
class Leaf:
    reader: tuple[str, int]
    scale: tuple[float, ...]
    axis: int | None

    def check(self) -> None:
        if not all(s > 0.0 for s in self.scale):
            raise ValueError("scale: positive numbers are needed")


@dataclass(frozen=True, slots=True)
class Tree:
    name: str
    kind: Literal["oak", "elm"]
    leaves: tuple[Leaf, ...]
    notes: Mapping[str, tuple[str, ...]]
    tall: bool
    height: float
    sqnr: Real | None
    count: int = field(metadata=called("how_many"))
    extra: Leaf | None = field(default=None, metadata=OPTIONAL)
    memory: int = field(default=3, metadata=UNWRITTEN)


TREE = Tree("ö", "oak", (Leaf(("conv", 0), (0.5, 1e-30), None),), {"a": ("b",), "": ()}, True, 2.0, math.inf, 7)
DOCUMENT = {
    "name": "ö",
    "kind": "oak",
    "leaves": [{"reader": ["conv", 0], "scale": [0.5, 1e-30], "axis": None}],
    "notes": {"a": ["b"], "": []},
    "tall": True,
    "height": 2.0,
    "sqnr": "inf",
    "how_many": 7,
}


def test_there_and_back():
    assert encoded(TREE) == DOCUMENT and list(encoded(TREE)) == list(DOCUMENT)
    assert decoded(Tree, parsed(json_text(DOCUMENT))) == TREE
    more = {**DOCUMENT, "extra": DOCUMENT["leaves"][0]}
    assert decoded(Tree, more).extra == TREE.leaves[0] and encoded(decoded(Tree, more)) == more


def test_an_integer_is_a_number_too():
    tree = decoded(Tree, {**DOCUMENT, "height": 3, "sqnr": 4})
    assert [type(x) for x in (tree.height, tree.sqnr)] == [float, float]


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("name", 1, "name: a string is needed, not 1"),
        ("name", "\ud800", 'name: a string of whole characters is needed, not "\\ud800"'),
        ("kind", "fir", 'kind: "oak" or "elm" is needed, not "fir"'),
        ("kind", [], 'kind: "oak" or "elm" is needed, not a list'),
        ("leaves", {}, "leaves: a list is needed, not an object"),
        ("leaves", [None], "leaves[0]: an object is needed, not null"),
        ("leaves[0].reader", ["conv"], "leaves[0].reader: a list of 2 values is needed, not a list"),
        ("leaves[0].reader", ["conv", 1.0], "leaves[0].reader[1]: a whole number is needed, not 1.0"),
        ("leaves[0].reader", ["conv", True], "leaves[0].reader[1]: a whole number is needed, not true"),
        ("leaves[0].scale", [1, "x" * 99], 'leaves[0].scale[1]: a finite number is needed, not "' + "x" * 36 + "..."),
        ("leaves[0].scale", [math.inf], "leaves[0].scale[0]: a finite number is needed, not Infinity"),
        ("leaves[0].scale", [10**400], "leaves[0].scale[0]: a finite number is needed, not 1" + "0" * 36 + "..."),
        ("leaves[0].scale", ["inf"], 'leaves[0].scale[0]: a finite number is needed, not "inf"'),
        ("leaves[0].scale", [0.0], "leaves[0].scale: positive numbers are needed"),
        ("leaves[0].axis", "0", 'leaves[0].axis: a whole number is needed, not "0"'),
        ("notes", [], "notes: an object is needed, not a list"),
        ("notes", {"a\nb": 1}, "notes['a\\nb']: a list is needed, not 1"),
        ("tall", 1, "tall: true or false is needed, not 1"),
        ("height", "inf", 'height: a finite number is needed, not "inf"'),
        ("sqnr", "infinite", 'sqnr: a finite number is needed, not "infinite"'),
        ("sqnr", math.nan, "sqnr: a finite number is needed, not NaN"),
        ("extra", None, None),
        ("extra", {}, "extra.reader: is missing"),
        ("memory", 3, "the document: has an unknown key 'memory'; it has name, kind, "),
        ("leaves[0].sacle\n", 3, "leaves[0]: has an unknown key 'sacle\\n'; it has reader, scale, axis"),
    ],
)
def test_what_is_wrong_is_named(path, value, says):
    document = json.loads(json.dumps(DOCUMENT))
    holder = document["leaves"][0] if path.startswith("leaves[0].") else document
    holder[path.removeprefix("leaves[0].")] = value
    if says is None:
        assert decoded(Tree, document) == TREE
        return
    with pytest.raises(ValueError) as caught:
        decoded(Tree, document)
    assert str(caught.value).startswith(says) and "\n" not in str(caught.value)
    with pytest.raises(ValueError) as caught:
        decoded(Tree, document, "tree")
    assert str(caught.value).startswith(
        says.replace("the document", "tree", 1) if "document" in says else f"tree.{says}"
    )


@pytest.mark.parametrize("document", [None, [], "x", 1])
def test_what_is_no_object(document):
    with pytest.raises(ValueError, match="the document: an object is needed, not"):
        decoded(Tree, document)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("NaN", "NaN is not JSON"),
        ('{"a": [-Infinity]}', "-Infinity is not JSON"),
        ('{"a": 1, "b": 2, "a": 1}', "the key 'a' stands there twice"),
        ("[" * 100_000, "nested too deeply"),
        ("", "Expecting value"),
    ],
)
def test_text_that_is_not_strict_json(text, says):
    with pytest.raises(ValueError, match=says):
        parsed(text)


@given(st.floats())
def test_every_number_has_a_place_in_strict_json(value):
    written = json.loads(json.dumps(encoded({"x": (value,)}), allow_nan=False))["x"][0]
    assert float(written) == value or (written == "nan" and math.isnan(value))


def test_enumerations_and_paths():
    info = MetricInfo("top1", MetricKind.ACCURACY, False, 0.0)
    shown = {"name": "top1", "kind": "accuracy", "lower_is_better": False, "worst": 0.0, "share": False}
    assert encoded(info) == shown
    assert decoded(MetricInfo, shown) == info
    with pytest.raises(ValueError, match=r'kind: .*"accuracy" or .* is needed'):
        decoded(MetricInfo, shown | {"kind": "taste"})
    assert encoded([Path("a") / "b", Colour.RED, None]) == [str(Path("a") / "b"), "red", None]


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Wood:
    DERIVED = ("tallest",)

    trees: tuple[Tree, ...] = field(metadata=keyed("name", "by_name"))
    noise: tuple[tuple[str, Real], ...] = field(metadata=PAIRS)
    leaf: Leaf = field(metadata=TEXT)

    @property
    def tallest(self) -> float:
        return max(tree.height for tree in self.trees)


def test_numbers_that_are_not_finite_stand_apart_by_their_place():
    wood = Wood((TREE,), (("a/b~c", math.nan), ("d", 1.0)), TREE.leaves[0])
    document, lost = noting(wood)
    tree = DOCUMENT | {"sqnr": None}
    assert document == {
        "by_name": {"ö": tree}, "noise": {"a/b~c": None, "d": 1.0}, "leaf": str(TREE.leaves[0]), "tallest": 2.0
    }  # fmt: skip
    assert lost == {"/by_name/ö/sqnr": "inf", "/noise/a~1b~0c": "nan"}
