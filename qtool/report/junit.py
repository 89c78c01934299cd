"""An evaluation as JUnit XML, so that continuous integration shows the gates as tests.

A `testsuite` a candidate, its metrics as properties, a `testcase` a gate. A candidate without gates gets the
one testcase `evaluated`, because several readers call a suite without tests an error.
"""

from xml.etree import ElementTree as ET

from qtool.core.records.evaluation import Evaluation, Gate, ModelResult
from qtool.core.text import line

_SUITE = "qtool eval"


def evaluation_junit(evaluation: Evaluation) -> str:
    """Return the XML document, with its declaration and a final line break."""
    root = ET.Element("testsuites", name=_SUITE)
    tests = failures = 0
    for model in evaluation.candidates:
        gates = [gate for gate in evaluation.gates if gate.model == model.name]
        suite = _suite(evaluation, model, gates)
        root.append(suite)
        tests += int(suite.attrib["tests"])
        failures += int(suite.attrib["failures"])
    root.attrib |= {"tests": str(tests), "failures": str(failures), "errors": "0"}
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(evaluation: Evaluation, model: ModelResult, gates: list[Gate]) -> ET.Element:
    failed = sum(not gate.passed for gate in gates)
    suite = ET.Element(
        "testsuite",
        name=line(model.name),
        tests=str(max(len(gates), 1)),
        failures=str(failed),
        errors="0",
        skipped="0",
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(evaluation, model):
        ET.SubElement(properties, "property", name=line(name), value=line(value))
    classname = line(f"{_SUITE}.{model.name}")
    if not gates:
        ET.SubElement(suite, "testcase", classname=classname, name="evaluated")
    for gate in gates:
        limit = f"{100 * gate.limit:g}%" if gate.relative else f"{gate.limit:g}"
        case = ET.SubElement(
            suite, "testcase", classname=classname, name=line(f"{gate.metric} {gate.rule.value} {limit}")
        )
        if gate.passed:
            ET.SubElement(case, "system-out").text = line(gate.message)
        else:
            ET.SubElement(case, "failure", type=gate.rule.value, message=line(gate.message))
    return suite


def _properties(evaluation: Evaluation, model: ModelResult) -> list[tuple[str, str]]:
    rows: list[tuple[str, float | int | str | None]] = [
        ("path", model.path),
        ("samples", evaluation.samples),
        ("threads", evaluation.threads),
        ("provider", evaluation.provider),
        ("size_bytes", model.size_bytes),
        ("float_size_bytes", evaluation.float_model.size_bytes),
    ]
    for score in model.scores:
        rows += [
            (score.metric, score.value),
            (f"{score.metric}.float", evaluation.float_model.score(score.metric).value),
            (f"{score.metric}.drop", score.drop),
        ]
    rows += [("sqnr_db", model.sqnr_db), ("agreement", model.agreement)]
    if model.latency is not None:
        rows += [("latency_ms", model.latency.median_ms), ("speedup", model.latency.speedup)]
    if model.nan is not None:
        rows.append(("nan", str(model.nan)))
    return [(name, str(value)) for name, value in rows if value is not None]
