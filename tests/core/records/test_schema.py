"""The JSON Schema of the documents: a validator that knows nothing of the records takes what they write."""

import importlib
import math
import pkgutil
from dataclasses import is_dataclass, replace

import numpy as np
import pytest

import qtool
from qtool.core.records import schema as schemas
from qtool.core.records.calibration_inspection import CalibratedTensor, CalibrationInspection, ChosenRange
from qtool.core.records.call import FileRead, Invocation
from qtool.core.records.codec import encoded
from qtool.core.records.difference import Difference, LayerDifference, RangeDifference, WeightDifference
from qtool.core.records.evaluation import WorstSample, WorstSamples
from qtool.core.records.finetuning import Finetuned, Round, TorchAgreement
from qtool.core.records.inspection import (
    Finding,
    Grid,
    InspectedLayer,
    InspectedNode,
    Inspection,
    Port,
    Prospect,
    Speed,
    TensorError,
)
from qtool.core.records.machine import this_machine
from qtool.core.records.recipe import Recipe
from qtool.core.records.results import FilePart, LeftFloat, NoisyRegion, Quantized, Trial, Verdict
from tests.report.test_evaluation import GOOD, NAN, evaluation
from tests.support.patterns import Net
from tests.support.schemas import schema_faults


@pytest.fixture(scope="module")
def quantized(tmp_path_factory) -> Quantized:
    folder = tmp_path_factory.mktemp("m")
    net = Net(12)
    model = net.save(folder / "m.onnx", net.gemm(net("Relu", net.gemm("x", 12, 16)), 16, 5))
    return qtool.quantize(model, folder / "q.onnx", data={"x": np.ones((2, 12), np.float32)})


def test_every_record_that_is_a_document_is_in_the_schema():
    package = importlib.import_module("qtool.core.records")
    modules = [
        importlib.import_module(f"{package.__name__}.{one.name}") for one in pkgutil.iter_modules(package.__path__)
    ]
    found = {one for module in modules for one in vars(module).values() if is_dataclass(one) and hasattr(one, "SCHEMA")}
    assert found == set(schemas.DOCUMENTS.values())
    assert {one.SCHEMA[0] for one in found} | {"merge"} == set(schemas.DOCUMENTS)


def test_what_each_key_of_a_result_means_is_said():
    for name, one in schemas.json_schema()["$defs"].items():
        known = {"schema", "schema_version", "machine", "call", "plan", "verification"}
        missing = [key for key, value in one["properties"].items() if "description" not in value and key not in known]
        assert name in _OF_PLANS or missing == [], name


_OF_PLANS = {
    "plan", "ActivationPlan", "BiasPlan", "BiasShift", "BlockPlan", "ConstantPlan", "QParams", "WeightPlan",
    "WiderPlan",
}  # fmt: skip
"""Explained in docs/quantization.md, as files that are edited."""


def test_a_result_with_something_in_every_part(quantized):
    region = ("a", "b")
    verdict = Verdict(
        20.0,
        True,
        False,
        math.nan,
        (LeftFloat(region, 0.1, math.inf),),
        0.1,
        None,
        (NoisyRegion(region, 0.2, math.inf),),
    )
    trial = Trial(qtool.Calibrator.parse("percentile:99.9"), True, math.inf, latency_ms=0.5)
    document = replace(quantized, verdict=verdict, trials=(trial,), parts=(FilePart("x", 3, ""),)).to_dict()
    assert schema_faults(document) == []
    assert document["trials"][0]["calibrator"] == "percentile 99.9" and document["trials"][0]["sqnr_db"] is None
    assert document["not_finite"]["/trials/0/sqnr_db"] == "inf"
    assert document["not_finite"]["/verdict/before_db"] == "nan"
    assert document["machine"]["threads"] >= 1 and document["machine"]["python"]
    assert document["plan"]["schema"] == "qtool.plan" and "machine" not in document["plan"]


def test_evaluations_with_numbers_that_are_not_finite():
    found = evaluation(GOOD, NAN, max_drop="1%", min_sqnr=20)
    worst = WorstSamples("f", "m", (WorstSample("a", 1, 0, None, "a.png", None, math.nan, 3.0, "raw"),))
    document = replace(found, worst=worst).to_dict()
    assert schema_faults(document) == []
    assert schema_faults(document["worst"]) == []
    assert document["worst"]["not_finite"] == {"/samples/0/score": "nan"}


def test_a_training(quantized):
    agreement = TorchAgreement(None, 0.0, 0.0, 0, "", None)
    rounds = (Round(0, None, 20.0), Round(5, 0.1, math.inf))
    found = Finetuned(
        quantized.plan, quantized.verification, quantized.output, 1, 2, True, math.nan, 30.0, (None, 31.0), rounds, 5,
        0.1, False, "all", {"scales": 3}, {}, agreement,
    )  # fmt: skip
    document = found.to_dict()
    assert schema_faults(document) == []
    assert document["not_finite"].items() >= {"/before_db": "nan", "/rounds/1/held_out_db": "inf"}.items()
    assert document["float_output"] is None and document["bytes"] == 1


def test_an_inspection():
    grid = Grid("int8", (0.1, 0.2), (0, 0), axis=0)
    layer = InspectedLayer(
        "c", "Conv", "y", "", 9, 1.0, True, "QLinearConv", True, grid, grid, None, 0.1, 0.2, math.inf, None, "", ""
    )
    node = InspectedNode("c", "QLinearConv", "", True, False, "c", ("x",), ("y",), None)
    found = Inspection(
        model="m", sha256="0" * 64, bytes=3, kind="int8", maker="", form="QDQ", verdict="", next="",
        inputs=(Port("x", "float32", ("N", 3)),), outputs=(Port("y", "float32", None),), opset={"": 17},
        parameters={"int8": 3}, macs=9, suggestions=(), unusual=(), layers=(layer,), nodes=(node,),
        findings=(Finding("seam", ("c",), "a", "b", "c"),), speed=Speed((1.0, 0.9, 1.1), None, None, False, 1, 9),
        errors=(TensorError("y", "Conv", None),), targets=(Prospect("x86", 1, 1, 1.0, {}),), float_model=None,
        inputs_from="", not_measured=(),
    )  # fmt: skip
    assert schema_faults(found.to_dict()) == []


def test_a_difference_and_a_calibration_file():
    differs = Difference(
        "models", "a", "b", False, layers=(LayerDifference("c", "Conv", "int8", ""),), kernels={"Conv": (1, 0)},
        ranges=(RangeDifference("t", (0.0, math.inf), None, None),), weights=(WeightDifference("c", 0.5, 3, None),),
        outputs={"y": math.inf},
    )  # fmt: skip
    document = differs.to_dict()
    assert schema_faults(document) == []
    assert document["not_finite"] == {"/ranges/0/a/1": "inf", "/outputs/y": "inf"}
    tensor = CalibratedTensor(
        "t", 9, 0.0, 1.0, 0.5, (ChosenRange("max", 0.0, 1.0, 0.1, 1.0, 0.0),), None, (), (9,), (1.0,)
    )
    found = CalibrationInspection(
        "f.calib",
        "0" * 64,
        9,
        "1" * 64,
        {"qtool": "0"},
        9,
        1,
        {"x": (1, 3)},
        None,
        True,
        Recipe(),
        "int8",
        (),
        (tensor,),
    )
    document = found.to_dict()
    assert schema_faults(document) == []
    assert document["written_by"] == {"qtool": "0"} and document["versions"]["numpy"] == np.__version__


def test_a_validator_sees_what_is_wrong(quantized):
    for change in ({"bytes": "3"}, {"timing": {}}, {"more": 1}, {"schema_version": 1}, {"verification": None}):
        assert schema_faults({**quantized.to_dict(), **change}), change


def test_the_call_and_the_machine_have_their_places(quantized):
    call = Invocation("quantize", {"--data": ("d.npz",)}, (FileRead("--data", "d.npz", None, None, "gone"),))
    document = {**quantized.to_dict(), "call": encoded(call)}
    assert schema_faults(document) == []
    assert document["machine"]["cpu"] == this_machine().cpu
