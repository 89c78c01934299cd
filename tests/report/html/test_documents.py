"""Documents that were changed by hand or by somebody else's program: refused in one line that names the key."""

import copy
import json

import pytest

from qtool.core.errors import UsageError
from qtool.report.html.documents import load_document
from qtool.report.html.page import page_of
from tests.report.html.conftest import document


def changed(content, place, value):
    """A copy of a document with another value in a place; without the key where that is `...`."""
    content = copy.deepcopy(content)
    *path, last = place
    inside = content
    for key in path:
        inside = inside[key]
    if value is ...:
        del inside[last]
    else:
        inside[last] = value
    return content


@pytest.mark.parametrize(
    ("name", "place", "value", "says"),
    [
        ("q", ["bytes"], "many", "bytes: a whole number is needed, not 'many'"),
        ("q", ["bytes"], True, "bytes: a whole number is needed, not true"),
        ("q", ["float_bytes"], 10**400, "float_bytes: a number of fewer digits is needed"),
        ("q", ["verification"], ..., "verification: is missing"),
        ("q", ["trials", 0, "sqnr_db"], [1], "trials[0].sqnr_db: a number is needed, not a list"),
        ("q", ["timing"], None, "timing: an object is needed, not null"),
        ("q", ["timing", "int8_spread_ms"], [1.0], "timing.int8_spread_ms: a list of 2 values is needed, not a list"),
        (
            "q",
            ["plan", "weights", 1, "params", "scale"],
            0.5,
            "plan.weights[1].params.scale: a list is needed, not 0.5",
        ),
        ("q", ["plan", "activations", 0, "params", "axis"], ..., "plan.activations[0].params.axis: is missing"),
        ("q", ["plan", "activations", 0, "params", "scale"], [-1.0], "plan.activations[0].params.scale: "),
        ("q", ["plan", "integer"], {"a": "b"}, "plan.integer['a']: a list is needed, not 'b'"),
        ("q", ["not_finite"], {"/trials": "nan"}, "trials: a list is needed, not 'nan'"),
        ("q", ["machine"], [1], "machine: an object is needed, not a list"),
        ("q", ["call", "options"], 3, "call.options: an object is needed, not 3"),
        ("e", ["metrics", 0, "kind"], "odd", "metrics[0].kind: one of "),
        ("e", ["candidates", 0, "metrics", "top1"], ..., "has no 'top1'"),
        ("e", ["candidates"], [], "candidates: one at least is needed"),
        ("s", ["views"], ["alone", "beside"], "views[1]: one of 'alone', 'without' is needed, not 'beside'"),
        ("s", ["heads"], ..., "has no 'heads'"),
    ],
)
def test_what_does_not_fit_is_named(made, tmp_path, name, place, value, says):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(changed(document(made / f"{name}.json"), place, value)))
    with pytest.raises(UsageError) as caught:
        page_of([load_document(str(path))])
    message = str(caught.value)
    assert message.startswith(f"{path}: {says}") and message.endswith("; write it again with --json")
    assert "\n" not in message and "object is not" not in message and "argument" not in message


@pytest.mark.parametrize("place", ["", "a", "/", "/no/such/key", "/trials/99/sqnr_db", "/trials/x"])
def test_a_pointer_to_no_number_changes_nothing(made, tmp_path, place):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(changed(document(made / "q.json"), ["not_finite"], {place: "nan"})))
    assert "Accurate: " in page_of([load_document(str(path))])


@pytest.mark.parametrize("place", [["call"], ["timing", "noisy"], ["call", "typed"], ["timing", "int8_spread_ms"]])
def test_what_came_later_may_be_missing(made, tmp_path, place):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({**changed(document(made / "q.json"), place, ...), "of_another_version": [1]}))
    assert "Accurate: " in page_of([load_document(str(path))])
