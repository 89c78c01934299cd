"""One header for all JSON documents; the versions in it are for people, and nothing depends on them."""

import json
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import qtool
from qtool.core.records import header as headers
from qtool.core.records.header import header, installed_versions, without_header
from qtool.core.records.parts import Shard
from tests.support.patterns import Net
from tests.support.schemas import schema_faults


@pytest.fixture
def model(tmp_path) -> Path:
    net = Net(12)
    return net.save(tmp_path / "m.onnx", net.gemm(net("Relu", net.gemm("x", 12, 16)), 16, 5))


@pytest.fixture
def other_versions(monkeypatch):
    """From when it is called on, another qtool writes."""
    return lambda: monkeypatch.setattr(headers, "installed_versions", lambda: {"qtool": "99.0"})


def samples(count: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(5).normal(size=(count, 12)).astype(np.float32)}


def test_the_header_says_what_it_is_and_who_made_it():
    assert header("plan", 3) == {"schema": "qtool.plan", "schema_version": 3, "versions": installed_versions()}
    assert installed_versions()["numpy"] == np.__version__
    assert list(installed_versions()) == ["qtool", "onnx", "onnxruntime", "numpy"]


def test_a_package_under_another_name_or_none(monkeypatch):
    def version(name: str) -> str:
        if name in ("qtool", "onnxruntime"):
            raise metadata.PackageNotFoundError(name)
        return f"{name} 1"

    monkeypatch.setattr(metadata, "version", version)
    found = installed_versions.__wrapped__()
    assert found == {"onnx": "onnx 1", "onnxruntime": "onnxruntime-gpu 1", "numpy": "numpy 1"}


@pytest.mark.parametrize(
    ("document", "found"),
    [
        ({"schema": "qtool.plan", "schema_version": 1, "versions": {}, "a": 2}, (1, {"a": 2})),
        ({"schema": "qtool.plan", "schema_version": 1, "a": 2}, (1, {"a": 2})),
        ({"qtool_plan": 1, "a": 2}, (1, {"a": 2})),
        (
            {
                "schema": "qtool.plan",
                "machine": {},
                "a": [{"b/c": None}],
                "not_finite": {"/a/0/b~1c": "inf", "/d/7": "nan"},
            },
            (None, {"a": [{"b/c": "inf"}]}),
        ),
        ({"schema": "qtool.plan", "schema_version": 1, "machine": {}, "not_finite": []}, (None, {})),
        (
            {"schema": "qtool.plan", "schema_version": 1, "not_finite": {"t": [1, 2]}},
            (1, {"not_finite": {"t": [1, 2]}}),
        ),
        ({"schema": "qtool.tune", "schema_version": 1}, (None, {})),
        ({"schema": ["qtool.plan"]}, (None, {})),
        ({"a": 1}, (None, {})),
        ([], (None, {})),
        (None, (None, {})),
    ],
)
def test_the_header_comes_off(document, found):
    assert without_header(document, "plan", former="qtool_plan") == found


def test_every_document_begins_with_it(model, tmp_path):
    calibrated = qtool.calibrate(model, samples(12), tmp_path / "m.calib")
    quantized = qtool.quantize(
        model, tmp_path / "q.onnx", calibration=tmp_path / "m.calib", save_plan=tmp_path / "p.json"
    )
    evaluation = qtool.evaluate(model, [tmp_path / "q.onnx"], samples(8))
    found = qtool.sensitivity(model, samples(8), calibration=tmp_path / "m.calib", output=tmp_path / "s.json")
    tuned = qtool.tune(model, samples(24), tmp_path / "t.onnx", metric="cosine", max_drop="50%")
    documents = {
        "calibrate": calibrated.to_dict(),
        "merge": calibrated.to_dict("merge"),
        "quantize": quantized.to_dict(),
        "evaluation": evaluation.to_dict(),
        "sensitivity": found.to_dict(),
        "tune": tuned.to_dict(),
        "plan": quantized.plan.to_dict(),
    }
    for kind, document in documents.items():
        assert list(document)[:3] == ["schema", "schema_version", "versions"]
        assert document["schema"] == f"qtool.{kind}"
        json.dumps(document, allow_nan=False)
        assert schema_faults(document) == []
    assert json.loads((tmp_path / "p.json").read_text()) == documents["plan"]
    kept = json.loads((tmp_path / "s.json").read_text())
    assert len(kept.pop("checksum")) == 64
    assert kept == documents["sensitivity"]
    # a plan inside of a result is one that --plan takes
    (tmp_path / "inner.json").write_text(json.dumps(documents["tune"]["plan"]))
    assert qtool.quantize(model, tmp_path / "q.onnx", plan=tmp_path / "inner.json").plan == tuned.plan


def test_shards_of_several_versions_merge_as_if_made_by_one(model, tmp_path, other_versions):
    qtool.calibrate(model, samples(12), tmp_path / "one.calib", shard=Shard(1, 2))
    other_versions()
    qtool.calibrate(model, samples(12), tmp_path / "two.calib", shard=Shard(2, 2))
    qtool.merge([tmp_path / "one.calib", tmp_path / "two.calib"], tmp_path / "merged.calib")
    qtool.calibrate(model, samples(12), tmp_path / "whole.calib")
    assert (tmp_path / "merged.calib").read_bytes() == (tmp_path / "whole.calib").read_bytes()


def test_sensitivity_goes_on_from_a_file_of_another_version(model, tmp_path, other_versions):
    options = {"calibration": qtool.calibrate(model, samples(12)).statistics, "output": tmp_path / "s.json"}
    before = qtool.sensitivity(model, samples(8), **options)
    other_versions()
    told = []
    after = qtool.sensitivity(model, samples(8), progress=lambda *words: told.append(words), **options)
    assert after == before and after.identity == before.identity
    assert [done for _, done, total in told if total is not None and done < total] == []
