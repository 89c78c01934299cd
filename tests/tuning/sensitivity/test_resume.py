"""The file that an analysis goes on from: what was changed in it is noticed."""

import json

import pytest

from qtool.core.errors import UsageError
from qtool.core.records.sensitivity import VIEWS, Figures, LayerSensitivity, Sensitivity
from qtool.tuning.sensitivity.resume import load_found, save

LAYER = LayerSensitivity("c1", "Conv", 100, 0.5, Figures(0.9, 0.05, 31.5), None, {"without": "it does not run"})
FOUND = Sensitivity(
    "m.onnx", "d.npz", 8, None, "max", False, "x86", "affine", "per-channel", VIEWS, {"model": "ab"}, None,
    Figures(None, None, 30.0), (LAYER,),
)  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new"),
    [("31.5", "31.6"), ('"c1"', '"c2"'), ('"complete": true', '"complete": false'), ("0.05", "null"), ("}", "} ")],
)
def test_a_change_is_noticed(tmp_path, old, new):
    path = tmp_path / "s.json"
    save(path, FOUND)
    whole, text = load_found(path, FOUND.identity), path.read_text()
    assert whole[0] == {("c1", "alone"): LAYER.alone, ("c1", "without"): "it does not run"}
    assert old in text
    path.write_text(text.replace(old, new))
    if new == "} ":
        assert load_found(path, FOUND.identity) == whole
        return
    with pytest.raises(UsageError, match=r"it was changed after it was written.*remove it or name another output"):
        load_found(path, FOUND.identity)
    path.unlink()  # the remedy
    assert load_found(path, FOUND.identity) == ({}, {})


def test_a_file_of_an_older_version_has_no_checksum(tmp_path):
    path = tmp_path / "s.json"
    path.write_text(json.dumps(FOUND.to_dict()))
    assert load_found(path, FOUND.identity)[1] == FOUND.identity


@pytest.mark.parametrize("value", ["1" + "0" * 400, "1e999", "9" * 5000, "NaN", "[" * 3000, '"\\ud800"'])
def test_numbers_that_no_float_holds(tmp_path, value):
    path = tmp_path / "s.json"
    path.write_text(json.dumps(FOUND.to_dict()).replace("31.5", value))
    with pytest.raises(UsageError, match=r"s\.json: exists and is not what `qtool sensitivity` writes") as caught:
        load_found(path, FOUND.identity)
    assert "\n" not in str(caught.value)
