"""JUnit XML: held against the elements and attributes of both schemas that readers go by."""

import datetime
from dataclasses import dataclass, replace
from xml.etree import ElementTree as ET

import pytest

from qtool.report.junit import Taken, evaluation_junit, failure_junit
from tests.report.test_evaluation import BAD, GOOD, NAN, evaluation

TAKEN = Taken(datetime.datetime(2026, 1, 2, 4, 5, 6, tzinfo=datetime.timezone(datetime.timedelta(hours=1))), 12.3456)


@dataclass(frozen=True)
class Element:
    """What a schema says of an element: its attributes, its children in order, and of which there must be one."""

    needed: str = ""
    possible: str = ""
    children: str = ""
    one_of: str = ""


_CASE = "skipped error failure"
# the JUnit.xsd of Ant's task (windyroad/JUnit-Schema), which knows no attribute of the root
ANT = {
    "testsuites": Element(children="testsuite"),
    "testsuite": Element(
        "id package name timestamp hostname tests failures errors time",
        "skipped",
        "properties testcase system-out system-err",
        "properties system-out system-err",
    ),
    "properties": Element(children="property"),
    "property": Element("name value"),
    "testcase": Element("name classname time", "", _CASE),
    "failure": Element("type", "message"),
    "error": Element("type", "message"),
    "system-out": Element(),
    "system-err": Element(),
}
# junit-10.xsd of Jenkins' xunit plugin
JENKINS = {
    **ANT,
    "testsuites": Element("", "name time tests failures errors disabled", "testsuite"),
    "testsuite": Element(
        "name tests",
        "failures errors group time skipped timestamp hostname id package file log url version",
        "properties testcase system-out system-err",
    ),
    "testcase": Element("name", "classname time status class file line url assertions", f"{_CASE} system-out"),
    "failure": Element("", "type message"),
    "error": Element("", "type message"),
}


def faults(element, schema):
    rule = schema.get(element.tag)
    if rule is None:
        return [f"{element.tag}: no such element"]
    given, needed = set(element.attrib), set(rule.needed.split())
    found = [f"{element.tag}: lacks {name}" for name in needed - given]
    found += [f"{element.tag}: has {name}" for name in given - needed - set(rule.possible.split())]
    order, tags = rule.children.split(), [child.tag for child in element]
    if not set(tags) <= set(order) or sorted(tags, key=order.index) != tags:
        found.append(f"{element.tag}: holds {tags}")
    found += [f"{element.tag}: {tags.count(name)} {name}" for name in rule.one_of.split() if tags.count(name) != 1]
    return found + [fault for child in element for fault in faults(child, schema)]


DOCUMENTS = {
    "gates": lambda: evaluation_junit(evaluation(GOOD, BAD, NAN, max_drop="1%", min_sqnr=20), TAKEN),
    "none": lambda: evaluation_junit(evaluation(GOOD), TAKEN),
    "failure": lambda: failure_junit("eval", "d.npz: does not exist", TAKEN),
}


@pytest.mark.parametrize("schema", [ANT, JENKINS], ids=["Ant", "Jenkins"])
@pytest.mark.parametrize("made", DOCUMENTS)
def test_it_is_valid_by_both_schemas(made, schema):
    assert faults(ET.fromstring(DOCUMENTS[made]()), schema) == []


def test_a_testcase_for_each_gate():
    root = ET.fromstring(DOCUMENTS["gates"]())
    suites = {suite.attrib["name"]: suite for suite in root.iter("testsuite")}
    assert {name: (suite.attrib["tests"], suite.attrib["failures"]) for name, suite in suites.items()} == {
        "good.onnx": ("2", "0"),
        "bad.onnx": ("2", "2"),
        "nan.onnx": ("2", "2"),
    }
    cases = suites["bad.onnx"].findall("testcase")
    assert [case.attrib["name"] for case in cases] == ["top1 max-drop 1%", "sqnr min-sqnr 20"]
    failure = cases[0].find("failure")
    assert failure is not None
    assert failure.attrib["message"] == "bad.onnx: top1: drop 12.5% (0.8 to 0.7), asked at most 1%"
    properties = {p.attrib["name"]: p.attrib["value"] for p in suites["good.onnx"].iter("property")}
    assert properties["top1"] == "0.796"
    assert properties["top1.float"] == "0.8"
    assert properties["sqnr_db"] == "inf"
    # 4:05 one hour east of Greenwich; the schemas want no zone
    assert {s.attrib["timestamp"] for s in suites.values()} == {"2026-01-02T03:05:06"}
    assert {s.attrib["time"] for s in suites.values()} == {"12.346"}
    passed = suites["good.onnx"].find("system-out")
    assert passed is not None and passed.text is not None and len(passed.text.splitlines()) == 2


def test_without_gates_and_with_awkward_names():
    root = ET.fromstring(evaluation_junit(evaluation(replace(GOOD, name='a.b<&"\x07\ud800.onnx')), TAKEN))
    case = root.find("testsuite/testcase")
    assert case is not None
    # readers take what stands between dots for packages
    assert case.attrib == {
        "classname": 'qtool.eval.a_b<&"\\x07\\ud800_onnx', "name": "evaluated", "time": "0.000",
    }  # fmt: skip


def test_what_failed_is_an_error():
    root = ET.fromstring(DOCUMENTS["failure"]())
    suite, error = root.find("testsuite"), root.find("testsuite/testcase/error")
    assert suite is not None and error is not None
    assert (suite.attrib["tests"], suite.attrib["errors"], suite.attrib["failures"]) == ("1", "1", "0")
    assert error.attrib["message"] == "d.npz: does not exist"
