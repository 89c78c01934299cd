"""An If that an input decides: the input is fixed, its branch is quantised, and nothing changes for who feeds it."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qtool
from qtool.core.errors import DataError, NothingToQuantizeError, UsageError
from qtool.runtime.session import Session

Arrays = dict[str, np.ndarray]


def two_rates(
    path: Path,
    *,
    kind: int = TensorProto.INT64,
    shape: tuple[int, ...] = (),
    state: bool = False,
    sequence: bool = False,
) -> Path:
    """y = relu(x A) where sr is 16000, else relu(x B); with a state, hn = h + y.

    sequence: the branches read x out of a sequence, and so cannot be run by themselves.
    """

    def branch(name: str) -> onnx.GraphProto:
        nodes = [
            helper.make_node("SequenceAt", ["several", "first"], [f"x{name}"])
            if sequence
            else helper.make_node("Identity", ["x"], [f"x{name}"]),
            helper.make_node("MatMul", [f"x{name}", f"w{name}"], [f"m{name}"], name=f"layer{name}"),
            helper.make_node("Relu", [f"m{name}"], [f"y{name}"], name=f"relu{name}"),
        ]
        return helper.make_graph(
            nodes, name, [], [helper.make_tensor_value_info(f"y{name}", TensorProto.FLOAT, ["N", 32])]
        )

    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["sr"], ["rate"], to=TensorProto.INT64),
        helper.make_node("ReduceMin", ["rate"], ["least"], keepdims=0),
        helper.make_node("Equal", ["least", "sixteen"], ["fast"]),
        helper.make_node("If", ["fast"], ["y"], name="choose", then_branch=branch("A"), else_branch=branch("B")),
    ]
    if sequence:
        nodes.insert(0, helper.make_node("SequenceConstruct", ["x"], ["several"]))
    stored = [numpy_helper.from_array(rng.normal(size=(64, 32)).astype(np.float32), f"w{name}") for name in "AB"]
    stored.append(numpy_helper.from_array(np.array(16000), "sixteen"))
    stored.append(numpy_helper.from_array(np.array(0), "first"))
    fed = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64]),
        helper.make_tensor_value_info("sr", kind, shape),
    ]
    made = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 32])]
    if state:
        nodes.append(helper.make_node("Add", ["h", "y"], ["hn"]))
        fed.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [1, 32]))
        made.append(helper.make_tensor_value_info("hn", TensorProto.FLOAT, [1, 32]))
    graph = helper.make_graph(nodes, "g", fed, made, stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def data(rate: int = 16000, kind: type = np.int64, shape: tuple[int, ...] = ()) -> list[Arrays]:
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(1, 64)).astype(np.float32), "sr": np.full(shape, rate, kind)} for _ in range(8)]


@pytest.mark.parametrize("rate", [16000, 8000])
@pytest.mark.parametrize("form", ["static", "dynamic", "weight-only", "plan", "calibration file"])
def test_the_branch_is_quantised_and_the_input_stays(rate, form, tmp_path):
    source, output, samples = two_rates(tmp_path / "m.onnx"), tmp_path / "q.onnx", data(rate)
    if form == "calibration file":
        qtool.calibrate(source, samples, tmp_path / "c.calib", fix=[f"sr={rate}"])
        result = qtool.quantize(source, output, calibration=tmp_path / "c.calib")
    elif form == "plan":
        qtool.quantize(source, output, data=samples, fix={"sr": rate}, save_plan=tmp_path / "plan.json")
        result = qtool.quantize(source, output, plan=tmp_path / "plan.json")
    elif form == "static":
        result = qtool.quantize(source, output, data=samples, fix={"sr": rate}, form="static")
    else:
        result = qtool.quantize(source, output, fix={"sr": rate}, form=form)
    written = onnx.load(output)
    assert [v.name for v in written.graph.input] == ["x", "sr"]
    notes = {p.key: p.value for p in written.metadata_props if p.key not in ("qtool.float", "qtool.made")}
    assert notes == {"qtool.fixed.sr": str(rate)}
    assert result.verification.layers == 1 and result.plan.recipe.fixed == {"sr": (float(rate),)}
    session, exact = Session(output), Session(source)
    for sample in samples:
        wanted, got = exact.run(sample)["y"], session.run(sample)["y"]
        assert 10 * np.log10((wanted**2).sum() / ((wanted - got) ** 2).sum()) > 25


def test_the_message_of_nothing_to_quantise_names_the_value(tmp_path):
    source, output = two_rates(tmp_path / "m.onnx", sequence=True), tmp_path / "q.onnx"
    for call in (
        lambda **k: qtool.quantize(source, output, data=data(), **k),
        lambda **k: qtool.tune(source, data(), output, min_sqnr=5.0, **k),
        lambda **k: qtool.calibrate(source, data(), **k),
    ):
        with pytest.raises(
            NothingToQuantizeError, match=r"inside a subgraph.*the same in all data: give fix='sr=16000'"
        ):
            call()
        call(fix=["sr=16000"])
    with pytest.raises(NothingToQuantizeError, match="if it always has one value, give it, as in fix='sr=VALUE'"):
        qtool.quantize(source, output, form="weight-only")
    mixed = [*data(), *data(8000)]
    with pytest.raises(NothingToQuantizeError, match=r"inside a subgraph.*; use it as it is"):
        qtool.quantize(source, output, data=mixed)


def test_both_branches_are_quantised_that_the_data_takes(tmp_path):
    source, output = two_rates(tmp_path / "m.onnx"), tmp_path / "q.onnx"
    proof = qtool.quantize(source, output, data=[*data(), *data(8000)]).verification
    assert (proof.integer_layers, proof.layers, proof.float_layers) == (2, 2, {})
    proof = qtool.quantize(source, output, data=data()).verification
    assert proof.float_layers == {"layerB": "the data never runs the body 'choose.else_branch'"}
    exact, ours = Session(source), Session(output)
    for sample in data(8000):
        assert (exact.run(sample)["y"] == ours.run(sample)["y"]).all()


@pytest.mark.parametrize(
    ("fix", "message"),
    [
        (["sr"], "give the name of an input and its value, such as sr=16000"),
        (["sr=fast"], "give the name of an input"),
        (["=1"], "give the name of an input"),
        (["sr=nan"], "give the name of an input"),
        (["sr=1", "sr=2"], "'sr' is fixed twice"),
        (["rate=1"], "has no such input, only x, sr"),
        (["x=1"], "no fixed shape"),
        (["sr=1,2"], "the input has 1 element;"),
        (["sr=0.5"], "is int64, which cannot hold that"),
    ],
)
def test_what_cannot_be_fixed(fix, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        qtool.quantize(two_rates(tmp_path / "m.onnx"), tmp_path / "q.onnx", data=data(), fix=fix)
    assert not (tmp_path / "q.onnx").exists()


def test_data_that_say_otherwise_are_refused(tmp_path):
    source = two_rates(tmp_path / "m.onnx")
    with pytest.raises(DataError, match="sample 8: holds sr=8000, and fix='sr=16000' says otherwise"):
        qtool.calibrate(source, [*data(), *data(8000)], fix=["sr=16000"])
    calibrated = qtool.calibrate(source, data(), fix=["sr=16000"]).statistics
    with pytest.raises(UsageError, match="calibrated without fix='sr=8000'"):
        qtool.quantize(source, tmp_path / "q.onnx", calibration=calibrated, fix=["sr=8000"])
    mixed, output = [*data(), *data(8000)], tmp_path / "q.onnx"
    qtool.quantize(source, output, calibration=calibrated)
    with pytest.raises(DataError, match=r"sample 8: holds sr=8000, and .*q\.onnx is for sr=16000 alone; leave"):
        qtool.evaluate(source, output, mixed)
    assert qtool.evaluate(source, output, mixed, samples=8).samples == 8
    with pytest.raises(DataError, match="sample 8: holds sr=8000, and the calibration is for sr=16000 alone; leave"):
        qtool.sensitivity(source, mixed, calibration=calibrated)


@pytest.mark.parametrize(
    ("kind", "dtype", "shape"), [(TensorProto.INT32, np.int32, (1,)), (TensorProto.FLOAT, np.float32, ())]
)
def test_other_types(kind, dtype, shape, tmp_path):
    source = two_rates(tmp_path / "m.onnx", kind=kind, shape=shape)
    samples = data(kind=dtype, shape=shape)
    assert qtool.quantize(source, tmp_path / "q.onnx", data=samples, fix=["sr=16000"]).verification.layers == 1


@pytest.mark.parametrize("shape", [(), (2,)])
def test_the_value_to_fix_of_sequences_is_that_of_one_step(shape, tmp_path):
    source = two_rates(tmp_path / "m.onnx", shape=shape, state=True, sequence=True)
    rng = np.random.default_rng(2)
    rows = [{"x": rng.normal(size=(steps, 64)).astype(np.float32), "sr": np.full(shape, 16000)} for steps in (3, 5)]
    with pytest.raises(NothingToQuantizeError, match=r"the same in all data: give fix='sr=16000'"):
        qtool.quantize(source, tmp_path / "q.onnx", data=rows, state="h=hn")
    qtool.quantize(source, tmp_path / "q.onnx", data=rows, state="h=hn", fix=["sr=16000"])
    assert qtool.evaluate(source, tmp_path / "q.onnx", rows, state="h=hn").samples == 2
    rows[1]["sr"] = np.full(shape, 8000)
    with pytest.raises(DataError, match=r"sample 1: holds sr=8000(,8000)?, and .* is for sr=16000 alone"):
        qtool.evaluate(source, tmp_path / "q.onnx", rows, state="h=hn")
