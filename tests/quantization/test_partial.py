"""Outputs that would be too noisy: the fewest and cheapest layers stay in float, and the verdict says so."""

import json
import math
import re
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import qtool
from qtool.cli import main
from qtool.core import concurrency
from qtool.core.errors import UsageError
from qtool.core.numerics.sqnr import signal_to_noise
from qtool.quantization import foresight, partial
from qtool.quantization.candidate import Candidate
from qtool.quantization.partial import PartialSearch
from qtool.quantization.ranking import Region, integer_nodes
from qtool.report import quantize as report
from qtool.report.quantize import quantized_text
from tests.support.patterns import Net

FAST = {"calibrator": "max", "bias_correction": "off", "smoothing": "off", "optimize_for": "size"}
LOUD = (np.random.default_rng(4).normal(size=(6, 3, 8, 8)) * np.logspace(-2, 1, 6)[:, None, None, None]).astype(
    np.float32
)


def spectrogram(path: Path) -> Path:
    """The logarithm of a power, which makes of small numbers large ones, and a network behind it."""
    net = Net(3, 8, 8)
    wave = net.conv("x", 3, 4, bias=False, name="filters")
    power = net("Add", net("Mul", wave, wave, name="power"), net.const(np.float32(1e-6)), name="floor")
    hidden = net("Relu", net.conv(net("Log", power, name="log"), 4, 16, name="first"))
    hidden = net("Relu", net.conv(hidden, 16, 16, name="second"))
    return net.save(path, net.conv(hidden, 16, 4, name="last"))


def outlier(path: Path, layers: int = 1) -> Path:
    """In `layers` of three tensors one channel is 2000 times as large as the others, and counts for as much."""
    net = Net(3, 8, 8)
    hidden = "x"
    channels = (3, 8, 8, 8)
    for i in range(3):
        hidden = net("Relu", net.conv(hidden, channels[i], channels[i + 1], bias=False, name=f"conv{i}"))
        if 0 < i <= layers:
            net.constants[f"c{i - 1}"][0] *= 2000.0
            net.constants[f"c{i}"][:, 0] /= 2000.0
    return net.save(path, net.conv(hidden, 8, 4, bias=False, name="last"))


@pytest.mark.parametrize(
    ("build", "samples", "named"), [(spectrogram, LOUD, {"filters"}), (outlier, LOUD[3:], {"conv0", "conv1"})]
)
def test_what_makes_the_noise_stays_in_float(tmp_path, build, samples, named):
    model, output = build(tmp_path / "m.onnx"), tmp_path / "q.onnx"
    result = qtool.quantize(model, output, data={"x": samples}, max_float_macs=0.5, **FAST)
    verdict = result.verdict
    assert verdict.met and not verdict.asked and result.passed and verdict.min_sqnr == 20.0
    assert {name for one in verdict.left for name in one.nodes} == named
    figure = result.verification.output_sqnr_db
    assert verdict.before_db < 10.0 and figure > 20.0
    assert all(one.gain_db > 10.0 for one in verdict.left)
    assert verdict.float_macs == pytest.approx(1.0 - result.verification.integer_share)
    # onnxruntime alone says the same, and runs all the rest in integers
    sessions = [ort.InferenceSession(path) for path in (model, output)]
    exact, ours = (session.run(None, {"x": samples})[0] for session in sessions)
    assert signal_to_noise(exact, ours) == pytest.approx(figure, abs=8.0)
    assert set(result.plan.layers) - set(result.plan.integer) == named
    lines = quantized_text(result).splitlines()
    assert f"  verdict     accurate: outputs {figure:.1f} dB SQNR, at least 20 dB wanted" in lines
    gains = {f"{'':14}{one.nodes[0]} ({one.gain_db:+.1f} dB)" for one in verdict.left}
    (left,) = [line for line in lines if line.startswith(f"  left float  {len(named)} node")]
    assert gains <= set(lines) and f"outputs {verdict.before_db:.1f} dB before" in left


def test_a_head_is_a_region_by_itself(tmp_path, monkeypatch):
    """Where halving the graph finds nothing that may be float; its layers write numbers of different size."""
    net = Net(3, 8, 8)
    h = net("Relu", net.conv("x", 3, 16, name="body"))
    parts = []
    for name in ("near", "far"):
        parts.append(net.conv(h, 16, 4, kernel=(1, 1), bias=False, name=name))
        net.constants[list(net.constants)[-1]][0] *= 5000.0
    large, small = net("Split", net("Add", *parts), net.const([1, 3], dtype=np.int64), outputs=2, axis=1)
    model = net.save(tmp_path / "m.onnx", large, small)

    def unparted(model, plan, *_):
        return (Region(integer_nodes(model, plan), math.inf, 1.0),)

    monkeypatch.setattr(partial, "rank_regions", unparted)
    result = qtool.quantize(model, tmp_path / "q.onnx", data=net.samples(), max_float_macs=0.5, **FAST)
    assert result.verdict.met and result.verdict.before_db < 10.0
    assert {name for one in result.verdict.left for name in one.nodes} == {"near", "far"}
    missed = qtool.quantize(model, tmp_path / "q.onnx", data=net.samples(), max_float_macs=0.1, **FAST)
    assert not missed.verdict.met and not missed.verdict.left


def test_the_same_file_at_any_number_of_threads(tmp_path):
    model = spectrogram(tmp_path / "m.onnx")
    for name, threads in (("a", 1), ("b", 2)):
        qtool.quantize(model, tmp_path / name, data={"x": LOUD}, threads=threads, **FAST)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_accurate_model_is_left_as_it_is(tmp_path):
    net = Net(3, 8, 8)
    model = net.save(tmp_path / "m.onnx", net.conv(net("Relu", net.conv("x", 3, 8)), 8, 4))
    result = qtool.quantize(model, tmp_path / "q.onnx", data=net.samples(), **FAST)
    assert (result.verdict.met, result.verdict.left) == (True, ())
    assert result.verdict.before_db == result.verification.judged_db
    assert result.verification.integer_share == 1.0


@pytest.fixture
def ran(tmp_path, monkeypatch, capsys):
    """Runs `qtool quantize m.onnx --data d.npz -o q.onnx ...` on a model with outliers; gives code, out and err."""
    monkeypatch.chdir(tmp_path)
    outlier(Path("m.onnx"))
    np.savez("d.npz", x=LOUD[3:])

    def call(*words):
        with pytest.raises(SystemExit) as caught:
            main(["quantize", "m.onnx", "-o", "q.onnx", "--calibrator", "max", "--bias-correction", "off", *words])
        return caught.value.code, *capsys.readouterr()

    return call


DATA = ["--data", "d.npz"]


def test_a_gate_that_is_missed(ran, monkeypatch):
    """Exit 1; the model is there, as good as it gets."""
    # whether such a toy is slower than float depends on the machine
    monkeypatch.setattr(report, "slower_line", lambda *_: "")
    code, out, err = ran(*DATA, "--min-sqnr", "90", "--max-float-macs", "50%")
    assert (code, err) == (1, "")
    assert Path("q.onnx").exists()
    verdict = out[out.index("  verdict ") :]
    assert re.match(r"  verdict     NOT ACCURATE: outputs \d\d\.\d dB SQNR, at least 90 dB asked for\n", verdict)
    assert re.search(r"\n {14}(good|fair): \d\d\.\d dB; above 30 is good, below 15 costs accuracy\n", verdict)
    assert "\n  cause       as much float as helps within 50 % of multiply-accumulates\n" in verdict
    assert "\n  next        `qtool tune m.onnx --data d.npz --min-sqnr 90`" in verdict and "--max-float" not in verdict
    ready = "`qtool calibrate m.onnx --data d.npz -o m.calib && qtool sensitivity m.onnx --calibration m.calib --data"
    assert f"\n              {ready} d.npz` shows which layers\n" in verdict
    # commands are as long as what they were given
    assert max(len(line) for line in out.splitlines() if "`" not in line) < 150
    code, out, err = ran(*DATA, "--min-sqnr", "90", "--no-partial", "--json", "-")
    found = json.loads(out)["verdict"]
    assert (code, found["met"], found["asked"], found["min_sqnr"], found["left"]) == (1, False, True, 90.0, [])
    assert f"outputs {found['before_db']:.1f} dB SQNR" in err
    assert err.startswith("q.onnx: NOT ACCURATE: outputs ") and err.count("\n") == 1


def test_the_share_that_is_enough_is_named_and_is_enough(ran, tmp_path):
    spectrogram(tmp_path / "m.onnx")
    np.savez("loud.npz", x=LOUD)
    words = ["--data", "loud.npz", "--smoothing", "off", "--optimize-for", "size"]
    code, out, _ = ran(*words, "--max-float-macs", "1%")
    (share,) = re.findall(r"^  next        `.*--max-float-macs ([0-9.]+%).*` is enough", out, re.MULTILINE)
    assert code == 0 and 1.0 < float(share[:-1]) < 90.0
    code, out, _ = ran(*words, "--max-float-macs", share, "--min-sqnr", "20", "--json", "-")
    found = json.loads(out)["verdict"]
    assert (code, found["met"], found["float_needed"]) == (0, True, None)
    assert found["float_macs"] <= float(share[:-1]) / 100


def test_a_default_that_is_missed_is_a_warning(ran):
    code, out, err = ran(*DATA, "--no-partial")
    assert (code, err) == (0, "")
    assert re.search(
        r"NOT ACCURATE: outputs -?0\.\d dB SQNR, at least 20 dB wanted\n +poor: .*\n  next +`qtool tune", out
    )
    code, out, err = ran(*DATA, "--max-float-macs", "1%", "-q")
    assert (code, out) == (0, "")
    assert "no layer in float helps enough within 1 % of multiply-accumulates; most noise is of conv" in err


def test_a_gate_that_is_met(ran):
    code, out, _ = ran(*DATA, "--min-sqnr", "25", "--max-float-macs", "0.5", "--json", "-")
    found = json.loads(out)
    assert (code, found["verdict"]["met"], found["verdict"]["max_float_macs"]) == (0, True, 0.5)
    assert [name for one in found["verdict"]["left"] for name in one["nodes"]] == ["conv0", "conv1"]
    assert found["verdict"]["float_macs"] == pytest.approx(1.0 - found["verification"]["integer_share"])


def test_a_gate_on_a_plan_measures_alone(ran):
    assert ran(*DATA, "--no-partial", "--save-plan", "p.json")[0] == 0
    with pytest.raises(SystemExit) as caught:
        main(["quantize", "m.onnx", "--data", "d.npz", "--plan", "p.json", "--min-sqnr", "5", "-o", "r.onnx"])
    assert caught.value.code == 1
    assert Path("r.onnx").read_bytes() == Path("q.onnx").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--min-sqnr", "20"], "--min-sqnr says nothing without data"),
        (["--no-partial"], "--no-partial says nothing without data"),
        ([*DATA, "--no-partial", "--max-float-macs", "5%"], "--max-float-macs says nothing to --no-partial"),
        ([*DATA, "--plan", "d.npz", "--no-partial"], "--no-partial says nothing to --plan, which has decided it"),
        ([*DATA, "--plan", "d.npz", "--max-float-macs", "5%"], "--max-float-macs says nothing to --plan"),
    ],
)
def test_what_contradicts_is_refused(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        form = [] if "--data" in words else ["--dynamic"]
        main(["quantize", "m.onnx", "-o", "q.onnx", *form, *words])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_python_refuses_the_same(tmp_path):
    model = outlier(tmp_path / "m.onnx")
    for given, words in (
        ({"min_sqnr": 20.0}, "min_sqnr says nothing without data"),
        ({"partial": False}, "partial says nothing without data"),
        (
            {"data": {"x": LOUD}, "partial": False, "max_float_macs": "5%"},
            "max_float_macs says nothing to partial=False",
        ),
        ({"data": {"x": LOUD}, "max_float_macs": "lots"}, "max_float_macs: a share of 'lots' makes no sense"),
    ):
        form = {} if "data" in given else {"form": "weight-only"}
        with pytest.raises(UsageError, match=words):
            qtool.quantize(model, tmp_path / "q.onnx", **given, **form)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_more_than_is_allowed_by_default_where_integers_are_faster_all_the_same(tmp_path):
    """Half of the work, a signal's filters whose power is taken, is float then; but not where a share was asked for."""
    net = Net(1, 1024)
    wave = net.conv("x", 1, 64, kernel=(65,), bias=False, name="filters")
    power = net("Add", net("Mul", wave, wave, name="power"), net.const(np.float32(1e-6)), name="floor")
    hidden = net("Relu", net.conv(net("Log", power, name="log"), 64, 32, kernel=(1,), name="first"))
    model = net.save(tmp_path / "m.onnx", net.conv(hidden, 32, 32, kernel=(3,), name="last"))
    loud = np.random.default_rng(4).normal(size=(6, 1, 1024)) * np.logspace(-2, 1, 6)[:, None, None]
    options = {"calibrator": "max", "bias_correction": "off", "smoothing": "off", "target": "x86"}
    data = {"x": loud.astype(np.float32)}
    default = qtool.quantize(model, tmp_path / "q.onnx", data=data, **options)
    assert default.verdict.before_db < 15.0 and default.verdict.met
    assert {name for one in default.verdict.left for name in one.nodes} == {"filters"}
    assert default.verdict.float_macs == pytest.approx(1.0 - default.verification.integer_share) and (
        default.verdict.float_macs > 0.4
    )
    limited = qtool.quantize(model, tmp_path / "q.onnx", data=data, max_float_macs="10%", **options)
    assert not limited.verdict.met and limited.verdict.float_macs <= 0.1
    assert limited.verdict.float_needed == pytest.approx(default.verdict.float_macs)


def test_other_calibrators_are_tried_once_for_the_same_nodes(tmp_path, monkeypatch):
    tried, counts = [], []

    def found(search, _):
        for _ in range(2):
            search._other_ranges([Region(("conv0",), 1.0, 0.1)])
            counts.append(len(tried))
        return search.candidate, ()

    monkeypatch.setattr(Candidate, "by", lambda self, calibrator, **_: tried.append(calibrator) or self)
    monkeypatch.setattr(PartialSearch, "found", found)
    qtool.quantize(outlier(tmp_path / "m.onnx"), tmp_path / "q.onnx", data={"x": LOUD[3:]}, smoothing="off")
    assert counts[:2] == [10, 10]


def test_no_other_calibrator_is_better_for_what_stays_an_integer(tmp_path, monkeypatch):
    """Which one is best is hidden by the noise of what is float in the end, also where any of them would do."""
    search, seen = PartialSearch.found, []

    def found(self, reported):
        candidate, left = search(self, reported)
        ways = [candidate.by(one, corrected=corrected) for one, corrected in self.request.ways(candidate.plan)]
        figures = [self._figure(one, candidate.floating) for one in ways]
        seen.append((len(left), self._figure(candidate, candidate.floating), max(figures)))
        return candidate, left

    monkeypatch.setattr(PartialSearch, "found", found)
    model, gains = spectrogram(tmp_path / "m.onnx"), np.logspace(-2, 1, 12)[:, None, None, None]
    data = {"x": (np.random.default_rng(0).normal(size=(12, 3, 8, 8)) * gains).astype(np.float32)}
    result = qtool.quantize(model, tmp_path / "q.onnx", data=data, smoothing="off", optimize_for="size")
    ((left, figure, best),) = seen
    assert left and result.verdict.met and figure > best - partial._FLAT_DB


def test_the_same_file_on_one_core_and_on_two(tmp_path, monkeypatch):
    """On two, what is probably asked for next is measured beside what is."""
    model = spectrogram(tmp_path / "m.onnx")
    measured = []
    figure = partial.PartialSearch._figure
    monkeypatch.setattr(partial.PartialSearch, "_figure", lambda *args: measured[-1].append(args[2]) or figure(*args))
    for count in (1, 2):
        measured.append([])
        monkeypatch.setattr(concurrency, "cores", lambda count=count: count)
        monkeypatch.setattr(foresight, "cores", lambda count=count: count)
        qtool.quantize(model, tmp_path / str(count), data={"x": LOUD}, **FAST)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert set(measured[0]) <= set(measured[1]) and len(measured[1]) == len(set(measured[1]))
