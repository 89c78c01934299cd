"""An evaluation as text, Markdown, JUnit XML and JSON."""

import json
import math
from dataclasses import replace

import pytest

from qtool.core.records.evaluation import (
    Evaluation,
    Latency,
    LatencySetup,
    MaxDrop,
    MetricInfo,
    MetricKind,
    ModelResult,
    NanFound,
    Score,
)
from qtool.evaluation.gates import judge, scored_drop
from qtool.report.evaluation import evaluation_markdown, evaluation_text
from qtool.report.text import aligned, file_size, markdown, number

TOP1 = MetricInfo("top1", MetricKind.ACCURACY, lower_is_better=False)
COSINE = MetricInfo("cosine", MetricKind.SIMILARITY, lower_is_better=False)
FLOAT = ModelResult(
    "m.onnx",
    "dir/m.onnx",
    314448,
    (Score("top1", 0.8), Score("cosine", 1.0)),
    latency=Latency(2.0, 1.0),
)
GOOD = ModelResult(
    "good.onnx",
    "good.onnx",
    99000,
    (Score("top1", 0.796, 0.004, 0.005), Score("cosine", 0.999)),
    sqnr_db=math.inf,
    sqnr_db_by_output=(("y", math.inf),),
    agreement=0.99,
    latency=Latency(1.0, 2.125),
)
BAD = replace(GOOD, name="bad.onnx", scores=(Score("top1", 0.7, 0.1, 0.125), Score("cosine", 0.5)), sqnr_db=3.21)
NAN = replace(GOOD, name="nan.onnx", nan=NanFound("y", 4, 2), sqnr_db=math.nan)


def evaluation(*candidates, max_drop=None, min_sqnr=None):
    drop = None if max_drop is None else MaxDrop.parse(max_drop)
    return Evaluation(
        data="d.npz",
        samples=400,
        batch_size=1,
        threads=1,
        metrics=(TOP1, COSINE),
        float_model=FLOAT,
        candidates=candidates,
        gates=judge(FLOAT, candidates, (TOP1, COSINE), drop, min_sqnr),
        class_output="y",
        latency=LatencySetup(50, 10, 1),
    )


def test_the_table():
    text = evaluation_text(evaluation(GOOD, BAD, max_drop="1%", min_sqnr=20))
    table = """\
model        top1     top1 drop  cosine  SQNR dB  agreement       size  latency ms  speed-up
m.onnx     0.8000             -  1.0000        -          -  307.1 KiB       2.000     1.00x
good.onnx  0.7960  0.0040 (0.50%)  0.9990      inf     0.9900   96.7 KiB       1.000     2.12x
bad.onnx   0.7000  0.1000 (12.50%)  0.5000      3.2     0.9900   96.7 KiB       1.000     2.12x

d.npz: 400 samples, 1 thread; latency: medians of 50 interleaved runs, batch 1
PASS good.onnx: top1: drop 0.5% (0.8 to 0.796), asked at most 1%
PASS good.onnx: sqnr is inf dB, asked at least 20 dB
FAIL bad.onnx: top1: drop 12.5% (0.8 to 0.7), asked at most 1%
FAIL bad.onnx: sqnr is 3.21 dB, asked at least 20 dB"""
    assert [line.split() for line in text.splitlines()] == [line.split() for line in table.splitlines()]
    ends = {len(line) for line in text.splitlines()[:4]}
    assert len(ends) == 1


def test_nan_is_said_even_without_a_gate():
    result = evaluation(NAN)
    assert "nan.onnx: NaN in 2 samples, first in output 'y' of sample 4" in evaluation_text(result).splitlines()
    assert result.passed
    assert not evaluation(NAN, max_drop="99%").passed


def test_markdown_is_a_table_with_the_gates_below():
    lines = evaluation_markdown(evaluation(replace(BAD, name="a|b.onnx"), max_drop="1%")).splitlines()
    assert lines[0].startswith("| model | top1 | top1 drop |")
    assert lines[1].startswith("| :-- | --: |")
    assert lines[3].startswith("| a\\|b.onnx | 0.7000 |")
    assert len({line.replace("\\|", "").count("|") for line in lines[:4]}) == 1
    assert lines[-1].startswith("- FAIL a\\|b.onnx: top1")


def test_the_dictionary_is_strict_json_with_infinities_apart():
    result = evaluation(GOOD, NAN, max_drop="1%", min_sqnr=20)
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert (document["schema"], document["schema_version"], document["passed"]) == (
        "qtool.evaluation",
        2,
        False,
    )
    good, nan = document["candidates"]
    assert (good["sqnr_db"], good["sqnr_db_by_output"], nan["sqnr_db"]) == (None, {"y": None}, None)
    assert document["not_finite"]["/candidates/0/sqnr_db"] == "inf"
    assert document["not_finite"]["/candidates/0/sqnr_db_by_output/y"] == "inf"
    assert document["not_finite"]["/candidates/1/sqnr_db"] == "nan"
    assert good["metrics"]["top1"] == {"value": 0.796, "drop": 0.004, "relative_drop": 0.005, "by_class": {}}
    assert document["float_model"]["metrics"]["top1"]["drop"] is None
    assert nan["nan"] == {"output": "y", "sample": 4, "samples": 2, "what": "NaN"}
    assert document["gates"][0]["found"] == 0.005
    assert document["latency"] == {"runs": 50, "warmup": 10, "batch": 1}


@pytest.mark.parametrize(
    ("lower", "reference", "found", "limit", "passed"),
    [
        (False, 0.80, 0.792, "1%", True),
        (False, 0.80, 0.7919, "1%", False),
        (False, 0.80, 0.79, "0.01", True),
        (False, 0.80, 0.789, "0.01", False),
        (False, 0.80, 0.90, "0%", True),
        (True, 0.20, 0.202, "1%", True),
        (True, 0.20, 0.21, "1%", False),
        (True, 0.20, 0.1, "1%", True),
        (True, 0.0, 0.0, "1%", True),
        (True, 0.0, 0.1, "1%", False),
        (False, -2.0, -2.01, "1%", True),
        (False, -2.0, -2.1, "1%", False),
    ],
)
def test_drop_gates(lower, reference, found, limit, passed):
    metric = MetricInfo("mine", MetricKind.ACCURACY, lower_is_better=lower)
    float_model = ModelResult("f", "f", 1, (Score("mine", reference),))
    candidate = ModelResult("c", "c", 1, (scored_drop(metric, found, reference),))
    (gate,) = judge(float_model, [candidate], [metric], MaxDrop.parse(limit), None)
    assert gate.passed is passed
    assert gate.message.startswith("c: mine: drop")


@pytest.mark.parametrize(
    ("text", "value", "relative"),
    [
        ("1%", 0.01, True),
        (" 0.5 % ", 0.005, True),
        ("0.01", 0.01, False),
        ("0", 0.0, False),
        ("1e-3", 1e-3, False),
    ],
)
def test_a_drop_is_a_share_or_an_amount(text, value, relative):
    drop = MaxDrop.parse(text)
    assert (drop.value, drop.relative) == (pytest.approx(value), relative)


def test_columns_are_aligned():
    assert aligned(["name", "n"], [["a", "1"], ["bcd-ef", "100"]]) == "name      n\na         1\nbcd-ef  100"
    assert markdown(["a", "b"], [["x", "1"]], left=(0, 1)).splitlines()[1] == "| :-- | :-- |"


def test_numbers_and_sizes():
    assert [number(v) for v in (None, 0.0, 0.77751, 3e-7, -math.inf)] == [
        "-",
        "0.0000",
        "0.7775",
        "3.000e-07",
        "-inf",
    ]
    assert [file_size(v) for v in (512, 1536, 3 << 20, 5 << 30)] == ["512 B", "1.5 KiB", "3.0 MiB", "5.0 GiB"]


def test_float_has_no_noise_of_its_own():
    sqnr = MetricInfo("sqnr", MetricKind.SIMILARITY, lower_is_better=False)
    same = replace(GOOD, scores=(Score("sqnr", math.inf),))
    reference = replace(FLOAT, scores=(Score("sqnr", math.inf),))
    text = evaluation_text(replace(evaluation(), metrics=(sqnr,), float_model=reference, candidates=(same,)))
    cells = [line.split()[1] for line in text.splitlines()[1:3]]
    assert cells == ["-", "inf"]


def test_the_spread_of_the_latency_is_shown_and_slower_or_noisy_is_said():
    slow = replace(GOOD, name="slow.onnx", latency=Latency(4.0, 0.5, 3.5, 4.5))
    noisy = replace(GOOD, name="noisy.onnx", latency=Latency(2.0, 1.0, 1.0, 9.0, noisy=True))
    shown = replace(evaluation(slow, noisy), float_model=replace(FLOAT, latency=Latency(2.0, 1.0, 1.9, 2.25)))
    text = evaluation_text(shown)
    assert "2.000 (1.900 to 2.250)" in text and "p10 to p90 in brackets" in text
    told = f"`qtool inspect {slow.path} --float {FLOAT.path} --latency` tells why"
    assert f"slow.onnx: SLOWER than float; next: {told}" in text
    assert "noisy.onnx: the runs differ too much" in text
    rough = replace(GOOD, name="rough.onnx", latency=Latency(2.0, 2.25, 1.0, 9.0, rough=True))
    text = evaluation_text(replace(shown, candidates=(rough,)))
    assert "rough.onnx: the runs differ much, as on a busy machine; about 2.2x is all that they say" in text
