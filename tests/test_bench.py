"""The bench's own parts: what it says of runs, and that it says it where a tool fails or is better than qtool."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization import quantize_dynamic

from bench import environments
from bench.contenders import CONTENDERS, contenders, plain_command
from bench.detectors import EXPORTER, RECIPES, Case, compared
from bench.document import replaced, signed
from bench.environments import INSPECTED, LEARNING, OPTIONAL, REQUIREMENTS, TRAINING, Environment, digest, environment
from bench.incumbent import U8S8, Settings, quantize_incumbent
from bench.judging import judged
from bench.kernels import integer_layers
from bench.learned_rounding import PEERS
from bench.other_makers import CASES, REMEDIES
from bench.peers.samples import Samples, raised
from bench.process import Outcome, measure, reason
from bench.standing import Cost, Line, Quality, ahead, cost, cost_table, interleaved, table
from bench.zoo_models import ZooModel
from tests.support.patterns import Net

PLAIN = Line("plain", Cost(1.0, 1.0, 50.0), Quality(4.0, 0, 10, 1.0, None, 0.9))
OWN = Line("qtool", Cost(4.0, 3.0, 100.0), Quality(1.0, 10, 10, 2.0, 30.0, 0.89))
CHEAP = Line("cheap", Cost(2.0, 1.5, 120.0), Quality(1.2, 10, 10, 1.9, 20.0, 0.88))
EXACT = Line("exact", Cost(9.0, 9.0, 900.0), Quality(1.0, 2, 10, 0.4, 35.0, 0.89))
FAILED = Line("failed", None, None, "ValueError: no")


def test_cost_is_the_median_of_the_ratios_of_each_round():
    """Not the ratio of medians (2.0 / 1.0): a slow round slows both."""
    unit = [Outcome(1.0, 1.0, 10), Outcome(4.0, 4.0, 10), Outcome(1.0, 0.5, 10)]
    runs = [Outcome(2.0, 1.5, 3000), Outcome(12.0, 2.0, 1000), Outcome(2.0, 1.0, 2000)]
    assert cost(runs, unit) == Cost(cpu=1.5, wall=2.0, peak=2000 * 1024 / 1e6)


def test_a_run_that_failed_has_no_cost():
    assert cost([Outcome(2.0, 1.5, 3000), Outcome(0.1, 0.1, 10, "killed")], [Outcome(1.0, 1.0, 10)] * 2) is None


def test_runs_are_interleaved_and_a_failed_tool_runs_once():
    order = []

    def run(name, failure=None):
        order.append(name)
        return Outcome(1.0, 1.0, 1, failure)

    told = []
    commands = {"plain": lambda: run("plain"), "bad": lambda: run("bad", "no"), "good": lambda: run("good")}
    found = interleaved(commands, 3, lambda name, _: told.append(name))
    assert order == told == ["plain", "bad", "good", "plain", "good", "plain", "good"]
    assert {name: len(runs) for name, runs in found.items()} == {"plain": 3, "bad": 1, "good": 3}


def test_the_table_has_a_line_for_each_and_says_why_one_failed():
    header, _, *rows = table([PLAIN, OWN, FAILED]).splitlines()
    assert header.count("|") == rows[0].count("|") == rows[2].count("|")
    assert rows[0] == "| plain | 1.00 | 1.00 | 50 | 4.000 | 0 of 10 | 1.00 | - | 0.9000 |"
    assert rows[1] == "| qtool | 4.00 | 3.00 | 100 | 1.000 | 10 of 10 | 2.00 | 30.0 | 0.8900 |"
    assert rows[2] == "| failed (failed) | - | - | - | - | - | - | - | - |"
    assert rows[3:] == ["", "- failed failed: `ValueError: no`"]
    assert cost_table([OWN, FAILED]).splitlines()[2:] == [
        "| qtool | 4.00 | 3.00 | 100 |",
        "| failed (failed) | - | - | - |",
        "",
        "- failed failed: `ValueError: no`",
    ]


def test_a_model_that_does_not_run_keeps_its_cost():
    line = Line("invalid", Cost(2.0, 2.0, 60.0), None, "its model does not run: no")
    assert table([line]).splitlines()[2] == "| invalid (failed) | 2.00 | 2.00 | 60 | - | - | - | - | - |"


def test_where_a_peer_is_ahead_the_best_peer_is_named():
    assert ahead(OWN, [CHEAP, EXACT, FAILED]) == (
        "A peer is ahead of qtool in: CPU work (cheap: 2.00 against 4.00), wall time (cheap: 1.50 against 3.00), "
        "SQNR dB (exact: 35.0 against 30.0)."
    )
    assert ahead(CHEAP, [FAILED]) == "No peer is ahead of cheap."


def test_a_difference_that_the_table_does_not_show_is_none():
    nearly = Line("nearly", Cost(3.999, 3.0, 100.4), Quality(1.0, 10, 10, 2.004, 30.04, 0.89))
    assert ahead(OWN, [nearly]) == "No peer is ahead of qtool."


def test_a_process_is_measured():
    outcome = measure([sys.executable, "-S", "-c", "x = bytearray(64 << 20)"])
    assert outcome.failure is None
    assert outcome.wall > 0
    assert outcome.cpu > 0
    assert outcome.peak_kib > 64 << 10


@pytest.mark.parametrize(
    ("code", "limits", "expected"),
    [
        ("raise ValueError('no such\\tlayer')", {}, "ValueError: no such layer"),
        ("import os, sys; sys.exit(3)", {}, "exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", {}, "killed by signal 9"),
        ("import time; time.sleep(60)", {"seconds": 1}, "no result in 1 s"),
        ("bytearray(1 << 30)", {"memory": 512 << 20}, "MemoryError"),
    ],
)
def test_the_reason_of_a_failed_process_is_one_line(code, limits, expected):
    assert measure([sys.executable, "-S", "-c", code], **limits).failure == expected


def test_the_reason_is_the_last_line_without_colours_and_cut():
    assert reason(1, "Traceback:\n  x\n\x1b[93mE: bad\x1b[m\n\n") == "E: bad"
    assert len(reason(1, "x" * 1000)) == 160


def test_a_process_gets_its_variables():
    code = "import os, sys; sys.exit(os.environ['QTOOL_TEST'] != 'yes')"
    assert measure([sys.executable, "-S", "-c", code], variables={"QTOOL_TEST": "yes"}).failure is None


def test_an_environment_that_cannot_be_made_is_a_result(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "_run", lambda _: "ERROR: No matching distribution found for nncf")
    made = environment("nncf", tmp_path)
    assert made.failure == "ERROR: No matching distribution found for nncf"
    assert not (tmp_path / "nncf" / "stamp").exists()


def test_an_environment_is_made_once_for_the_same_requirements(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(environments, "_run", lambda command: ran.append(list(command)))
    monkeypatch.setattr(environments.shutil, "rmtree", lambda *_, **__: None)
    (tmp_path / "nncf").mkdir()
    first = environment("nncf", tmp_path)
    count = len(ran)
    assert environment("nncf", tmp_path) == first
    assert len(ran) == count == 2
    assert ran[-1][-len(REQUIREMENTS["nncf"]) :] == list(REQUIREMENTS["nncf"])
    monkeypatch.setitem(environments.REQUIREMENTS, "nncf", ("nncf==0",))
    environment("nncf", tmp_path)
    assert len(ran) == 2 * count


def test_every_requirement_is_pinned():
    assert all("==" in wanted for requirements in REQUIREMENTS.values() for wanted in requirements)


def test_a_digest_is_of_names_and_contents_of_sources(tmp_path):
    (tmp_path / "a.py").write_text("1")
    before = digest([tmp_path])
    (tmp_path / "a.pyc").write_text("2")
    assert digest([tmp_path]) == before
    (tmp_path / "a.py").write_text("2")
    assert digest([tmp_path]) != before


def test_names_of_contenders_are_unique_and_their_environments_known():
    for transformer in (True, False):
        names = [entry.name for entry in contenders(REQUIREMENTS, transformer=transformer)]
        assert len(set(names)) == len(names)
    assert {entry.environment for entry in CONTENDERS} == set(REQUIREMENTS) - {*LEARNING, *INSPECTED, *TRAINING}
    assert {home for home, _ in PEERS.values()} == set(LEARNING)
    assert set(OPTIONAL) < set(REQUIREMENTS)
    makers = {way.environment for _, way in CASES}
    assert makers >= {*INSPECTED, "onnxruntime", "nncf", "quark", "qtool"} and len(CASES) >= 8
    # each of the slow ones that is mended is in the first table
    assert {(model, slow) for model, slow, _ in REMEDIES} <= set(CASES)
    assert {entry.environment for entry in contenders(["nncf"], transformer=True)} == {"nncf"}


def test_samples_come_in_order_and_again(tmp_path):
    for index in (1, 0, 2):
        np.savez(tmp_path / f"{index:05}.npz", x=np.full((1, 2), index, np.float32))
    samples = Samples(tmp_path)
    assert len(samples) == 3
    assert [sample["x"][0, 0] for sample in samples] == [sample["x"][0, 0] for sample in samples] == [0, 1, 2]


def test_a_section_is_written_again_or_put_where_it_belongs():
    file = "# Title\n\nhead\n\n## A\n\nold\n\n## C\n\nlast\n"
    assert replaced(file, "## A\n\nnew\n", ["A", "B", "C"]) == "# Title\n\nhead\n\n## A\n\nnew\n\n## C\n\nlast\n"
    assert replaced(file, "## B\n\nnew\n", ["A", "B", "C"]) == (
        "# Title\n\nhead\n\n## A\n\nold\n\n## B\n\nnew\n\n## C\n\nlast\n"
    )


def test_a_section_of_another_machine_says_so():
    assert signed("## A\n\ntext\n", "X", "# T\n\non X.\n\n## A\n") == "## A\n\ntext\n"
    assert signed("## A\n\ntext\n", "X", "# T\n\non Y.\n\n## A\n\nX\n") == "## A\n\nMeasured on X.\n\ntext\n"


@pytest.fixture
def small(tmp_path):
    """A model, its samples one by one, and the same as evaluation data."""
    net = Net(4, 8, 8, batch=1)
    model = net.save(tmp_path / "m.onnx", net("Relu", net.conv("x", 4, 4)))
    x = np.random.default_rng(0).normal(size=(6, 4, 8, 8)).astype(np.float32)
    folder = tmp_path / "samples"
    folder.mkdir()
    for index in range(len(x)):
        np.savez(folder / f"{index:05}.npz", x=x[index : index + 1])
    np.savez(tmp_path / "eval.npz", x=x)
    return ZooModel("small", model, folder, tmp_path / "eval.npz", None, "sqnr")


def test_models_that_came_out_are_judged_together_and_one_that_does_not_run_is_said_so(small, tmp_path):
    files = {name: tmp_path / f"{name}.onnx" for name in ("same", "broken", "never")}
    files["same"].write_bytes(small.model.read_bytes())
    files["broken"].write_bytes(b"no model")
    lines = [Line("float, plain pass", OWN.cost, None), Line("same", OWN.cost, None), Line("broken", OWN.cost, None)]
    plain, same, broken, never = judged(small, [*lines, Line("never", None, None, "killed")], files)
    assert plain.quality.integer == same.quality.integer == 0
    assert plain.quality.layers == same.quality.layers == 1
    assert same.quality.sqnr == np.inf
    assert same.quality.metric is None
    assert (broken.cost, broken.quality) == (OWN.cost, None)
    assert broken.failure.startswith("its model does not run: ")
    assert "\n" not in broken.failure
    assert (never.quality, never.failure) == (None, "killed")


def test_the_peer_of_onnxruntime_is_a_process_that_makes_an_int8_model(small, tmp_path):
    home = Environment(Path(sys.executable).parent)
    assert measure(plain_command(home, small.model, small.calibration)).failure is None
    entry = next(entry for entry in CONTENDERS if entry.name == "onnxruntime min-max")
    assert measure(entry.command(home, small.model, small.calibration, tmp_path / "q.onnx")).failure is None
    (line,) = judged(small, [Line("q", OWN.cost, None)], {"q": tmp_path / "q.onnx"})
    assert line.quality.sqnr > 20
    assert (line.quality.integer, line.quality.layers) == (1, 1)


@pytest.mark.parametrize(
    ("settings", "zero", "scales", "tensors"),
    [
        (Settings(), onnx.TensorProto.INT8, 1, 4),
        (U8S8, onnx.TensorProto.UINT8, 4, 4),
        (EXPORTER, onnx.TensorProto.INT8, 1, 2),
    ],
    ids=["defaults", "uint8, per channel", "exporter"],
)
def test_a_recipe_does_what_it_says(settings, zero, scales, tensors, small, tmp_path):
    """Of a convolution with SiLU, x and three results are quantised, or x and the convolution's alone."""
    net = Net(4, 8, 8, batch=1)
    conv = net.conv("x", 4, 4)
    model = net.save(tmp_path / "silu.onnx", net("Mul", conv, net("Sigmoid", conv)))
    graph = onnx.load(quantize_incumbent(replace(small, model=model), tmp_path / "q.onnx", settings)).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    producers = {node.output[0]: node for node in graph.node}
    quantised = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert [constants[node.input[2]].data_type for node in quantised] == [zero] * tensors
    weights = producers[next(node for node in graph.node if node.op_type == "Conv").input[1]]
    assert np.prod(constants[weights.input[1]].dims) == scales


def test_a_detector_is_compared_under_every_recipe(small, tmp_path, monkeypatch):
    monkeypatch.setattr("bench.detectors.SECONDS", 0.0)
    sentence, table = compared(Case(small, ("sqnr", "cosine")), tmp_path / "home")
    header, _, *rows = table.splitlines()
    assert header == "|  | sqnr | cosine | drop | SQNR dB | speed-up | MB |"
    assert [row.split(" | ")[0] for row in rows] == [f"| {name}" for name in ("float", "qtool", *RECIPES)]
    assert rows[0].split(" | ")[3:6] == ["-", "-", "1.00"]
    assert sentence.startswith("qtool: calibrator ")


def test_layers_are_counted_in_what_onnxruntime_runs(tmp_path):
    net = Net(8)
    model = net.save(tmp_path / "m.onnx", net("MatMul", "x", net.weight(8, 8, inputs=8)))
    quantize_dynamic(model, tmp_path / "q.onnx")
    assert integer_layers(model) == (0, 1)
    assert integer_layers(tmp_path / "q.onnx") == (1, 1)


def test_an_old_opset_is_raised_for_quantizers_and_computes_the_same(tmp_path):
    net = Net(4, opset=9)
    model = net.save(tmp_path / "m.onnx", net("Relu", "x"))
    made = raised(model, tmp_path)
    assert onnx.load(made).opset_import[0].version == 13
    assert raised(made, tmp_path) == made
    x = np.linspace(-1, 1, 4, dtype=np.float32)[None]
    (found,) = ReferenceEvaluator(str(made)).run(None, {"x": x})
    np.testing.assert_array_equal(found, np.maximum(x, 0))
