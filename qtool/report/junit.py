"""Gates as JUnit XML, so that continuous integration shows them as tests.

A `testsuite` a model, what was measured as properties, a `testcase` a gate. A model without gates gets the one testcase
`evaluated`, because several readers call a suite without tests an error. Valid by both schemas that are in use, which
is why each suite has an id, a package and a hostname, and what passing gates say stands in the suite's `system-out`:
Jenkins' junit-10.xsd, and the JUnit.xsd of Ant's task.
"""

import datetime
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from qtool.core.records.evaluation import Evaluation, Gate, ModelResult
from qtool.core.records.results import Quantized
from qtool.core.text import line
from qtool.report.gates import limit_text


@dataclass(frozen=True, slots=True)
class Taken:
    """The time at which a command began, and the seconds that it took."""

    began: datetime.datetime
    seconds: float


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of comparing a model that is there with the one that would be written; `said`: in a line.

    same: whether it computes the same. size: the bytes of the one that is there, with external data.
    """

    same: bool
    said: str
    size: int


@dataclass(frozen=True, slots=True)
class _Suite:
    """The gates of one model, what was measured of it, what went wrong before it could be, and what a check says."""

    command: str
    name: str
    gates: Sequence[Gate] = ()
    properties: Sequence[tuple[str, float | int | str | None]] = ()
    error: str = ""
    check: "Check | None" = None


def evaluation_junit(evaluation: Evaluation, taken: Taken) -> str:
    """Return an evaluation as an XML document, with its declaration and a final line break."""
    suites = [
        _Suite(
            "eval",
            model.name,
            [gate for gate in evaluation.gates if gate.model == model.name],
            _properties(evaluation, model),
        )
        for model in evaluation.candidates
    ]
    return _document(suites, taken)


def quantized_junit(result: Quantized, taken: Taken, check: Check | None = None) -> str:
    """Return the gates of a model that was quantised as an XML document.

    check: of the model that is there, which is a test then; where it is another one, only its size is a property.
    """
    proof, timing = result.verification, result.timing
    rows: list[tuple[str, float | int | str | None]] = [
        ("path", str(result.output)),
        ("size_bytes", result.size if check is None else check.size),
        ("float_size_bytes", result.float_size),
    ]
    made: list[tuple[str, float | int | str | None]] = [
        ("target", result.plan.target),
        ("sqnr_db", None if result.verdict is None else proof.judged_db),
        ("integer_share", proof.integer_share),
        ("latency_ms", timing.int8_ms),
        ("speedup", timing.speedup),
    ]
    if check is None or check.same:
        rows += made
        if result.evaluation is not None:
            rows += _scores(result.evaluation, result.evaluation.candidates[0])
    return _document([_Suite("quantize", result.output.name, result.gates, rows, check=check)], taken)


def failure_junit(command: str, message: str, taken: Taken) -> str:
    """Return the XML document of a command that ended with an error, before anything was measured."""
    return _document([_Suite(command, command, error=message)], taken)


def _document(suites: Sequence[_Suite], taken: Taken) -> str:
    root = ET.Element("testsuites")
    for number, suite in enumerate(suites):
        root.append(_element(suite, number, taken))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _element(suite: _Suite, number: int, taken: Taken) -> ET.Element:
    # what stands between dots is taken for packages
    package, name = f"qtool.{suite.command}", line(suite.name).replace(".", "_")
    element = ET.Element(
        "testsuite",
        id=str(number),
        package=package,
        name=line(suite.name),
        timestamp=taken.began.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        hostname=platform.node() or "localhost",
        tests=str(max(len(suite.gates) + (suite.check is not None), 1)),
        failures=str(sum(not one for one in _passed(suite))),
        errors=str(int(bool(suite.error))),
        skipped="0",
        time=f"{taken.seconds:.3f}",
    )
    properties = ET.SubElement(element, "properties")
    for key, value in suite.properties:
        if value is not None:
            ET.SubElement(properties, "property", name=line(key), value=line(str(value)))

    def case(called: str) -> ET.Element:
        # the models are run for all gates together; each by itself is a comparison of two numbers
        return ET.SubElement(element, "testcase", classname=f"{package}.{name}", name=line(called), time="0.000")

    if suite.error:
        ET.SubElement(case("finished"), "error", type="error", message=line(suite.error))
    elif suite.check is not None:
        found = case("check")
        if not suite.check.same:
            ET.SubElement(found, "failure", type="check", message=line(suite.check.said))
    elif not suite.gates:
        case("evaluated")
    for gate in suite.gates:
        found = case(f"{gate.metric} {gate.rule.value} {limit_text(gate)}")
        if not gate.passed:
            ET.SubElement(found, "failure", type=gate.rule.value, message=line(gate.message))
    passed = [line(suite.check.said)] if suite.check is not None and suite.check.same else []
    passed += [line(gate.message) for gate in suite.gates if gate.passed]
    ET.SubElement(element, "system-out").text = "\n".join(passed)
    ET.SubElement(element, "system-err")
    return element


def _passed(suite: _Suite) -> list[bool]:
    checked = [] if suite.check is None else [suite.check.same]
    return [*checked, *(gate.passed for gate in suite.gates)]


def _properties(evaluation: Evaluation, model: ModelResult) -> list[tuple[str, float | int | str | None]]:
    rows: list[tuple[str, float | int | str | None]] = [
        ("path", model.path),
        ("samples", evaluation.samples),
        ("threads", evaluation.threads),
        ("provider", evaluation.provider),
        ("size_bytes", model.size_bytes),
        ("float_size_bytes", evaluation.float_model.size_bytes),
    ]
    rows += _scores(evaluation, model)
    rows += [
        ("sqnr_db", model.sqnr_db),
        ("agreement", model.agreement),
        ("integer_share", model.integer_share),
    ]
    if model.latency is not None:
        rows += [("latency_ms", model.latency.median_ms), ("speedup", model.latency.speedup)]
    if model.nan is not None:
        rows.append(("nan", str(model.nan)))
    return rows


def _scores(evaluation: Evaluation, model: ModelResult) -> list[tuple[str, float | int | str | None]]:
    """What was measured of a model by each metric, and of float."""
    rows: list[tuple[str, float | int | str | None]] = []
    for score in model.scores:
        rows += [
            (score.metric, score.value),
            (f"{score.metric}.float", evaluation.float_model.score(score.metric).value),
            (f"{score.metric}.drop", score.drop),
        ]
    return rows
