"""Padded positions set no range and make no noise: against the same data without any padding."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qtool
from qtool.cli import main
from qtool.core.errors import CalibrationError, UsageError
from qtool.core.numerics.padding import Padding
from qtool.core.records.statistics import load_statistics
from qtool.core.tensorspec import InputSpec
from qtool.feeds.masks import chosen_mask
from qtool.graph import model_io
from qtool.graph.positions import find_padding

WORDS, WIDTH, LENGTH = 20, 8, 6
PAD = 0
"""Its embedding is a hundred times as large as that of words."""


def tagger(path, *, length="length", batch="batch"):
    """Tokens -> attention of one head -> scores [N, T, 5], and a mean over the tokens [N, 5]."""
    rng = np.random.default_rng(0)
    table = rng.normal(0, 1, (WORDS, WIDTH))
    table[PAD] *= 100
    weights = {
        "table": table,
        **{n: rng.normal(0, 0.4, (WIDTH, WIDTH)) for n in "qkv"},
        "w": rng.normal(0, 1, (WIDTH, 5)),
    }
    held = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    held += [
        numpy_helper.from_array(np.array(value, kind), name)
        for name, value, kind in (
            ("axis", [2], np.int64),
            ("row", [1], np.int64),
            ("one", 1, np.float32),
            ("far", -1e4, np.float32),
        )
    ]
    make = helper.make_node
    nodes = [
        make("Gather", ["table", "input_ids"], ["x"]),
        *(make("MatMul", ["x", n], [f"{n}_out"], n) for n in "qkv"),
        make("Transpose", ["k_out"], ["k_turned"], perm=[0, 2, 1]),
        make("MatMul", ["q_out", "k_turned"], ["scores"]),
        make("Cast", ["attention_mask"], ["real"], to=TensorProto.FLOAT),
        make("Sub", ["one", "real"], ["padded"]),
        make("Mul", ["padded", "far"], ["low"]),
        make("Unsqueeze", ["low", "row"], ["added"]),
        make("Add", ["scores", "added"], ["seen"]),
        make("Softmax", ["seen"], ["share"], axis=-1),
        make("MatMul", ["share", "v_out"], ["context"]),
        make("Add", ["context", "x"], ["sum"]),
        make("MatMul", ["sum", "w"], ["tags"], "tag"),
        make("Unsqueeze", ["real", "axis"], ["real3"]),
        make("Mul", ["tags", "real3"], ["kept"]),
        make("ReduceMean", ["kept"], ["mean"], axes=[1], keepdims=0),
    ]  # fmt: skip
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, [batch, length])
        for name in ("input_ids", "attention_mask")
    ]
    outputs = [
        helper.make_tensor_value_info("tags", TensorProto.FLOAT, [batch, length, 5]),
        helper.make_tensor_value_info("mean", TensorProto.FLOAT, [batch, 5]),
    ]
    graph = helper.make_graph(nodes, "tagger", inputs, outputs, held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def padded(count=12, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, LENGTH, count)
    mask = (np.arange(LENGTH) < lengths[:, None]).astype(np.int64)
    return {"input_ids": rng.integers(1, WORDS, (count, LENGTH)) * mask, "attention_mask": mask}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tagger(tmp_path_factory.mktemp("tagger") / "tagger.onnx")


def ranges(statistics, names):
    return {name: (statistics.tensors[name].minimum, statistics.tensors[name].maximum) for name in names}


def test_each_axis_of_positions_is_found_where_shapes_tell_it(model):
    graph = model_io.load(model).model
    names = ["x", "k_out", "k_turned", "seen", "context", "tags", "mean", "added", "nobody"]
    found = find_padding(graph, "attention_mask", names)
    assert found.axes == {
        **dict.fromkeys(["x", "k_out", "context", "tags"], (0, 1)),
        "k_turned": (0, 2),
        "seen": (0, 1),
        "added": (0, 2),
    }


def test_of_a_fixed_length_only_what_cannot_be_another_axis_is_taken(tmp_path):
    graph = model_io.load(tagger(tmp_path / "fixed.onnx", length=LENGTH)).model
    assert find_padding(graph, "attention_mask", ["x", "tags", "seen", "k_turned", "mean"]).axes == {
        "x": (0, 1),
        "tags": (0, 1),
    }


def test_what_is_selected_and_blanked_are_the_padded_positions():
    padding, kept = Padding("m", {"a": (0, 1), "b": (0, 2)}), np.array([[True, False, True], [True, False, False]])
    a, b = np.arange(1, 13.0).reshape(2, 3, 2), np.arange(1, 13.0).reshape(2, 2, 3)
    assert padding.selected("a", a, kept).tolist() == [[1, 2], [5, 6], [7, 8]]
    assert padding.selected("b", b, kept).tolist() == [[1, 4], [3, 6], [7, 10]]
    assert padding.blanked("b", b, kept).tolist() == [[[1, 0, 3], [4, 0, 6]], [[7, 0, 0], [10, 0, 0]]]
    assert padding.blanked("c", b, kept) is b and padding.selected("a", a, None) is a
    assert padding.kept({"m": np.array([[1, 2]])}) is None and padding.kept({"m": np.array([[0, 0]])}) is None
    assert padding.kept({"m": np.array([[1.0, 0.0]])}).tolist() == [[True, False]]


def test_ranges_are_those_of_data_without_padding(model):
    data = padded()
    exact = qtool.calibrate(model, data, trim="attention_mask").statistics
    found = qtool.calibrate(model, data, batch_size=4).statistics
    whole = qtool.calibrate(model, data, batch_size=4, mask="none").statistics
    names = [name for name in exact.tensors if name != "mean"]
    assert {"x", "sum"} & set(names)
    for name in names:
        np.testing.assert_allclose(ranges(found, [name])[name], ranges(exact, [name])[name], rtol=1e-4)
        assert found.tensors[name].count == exact.tensors[name].count
    assert (found.mask, whole.mask, exact.mask) == ("attention_mask", "", "attention_mask")
    assert any(whole.tensors[n].maximum > 10 * exact.tensors[n].maximum for n in names)


def test_outputs_are_judged_without_their_padding(model, tmp_path):
    """Noise is measured on positions that are kept: as on the same data, trimmed."""
    data = padded(16)
    int8 = tmp_path / "int8.onnx"
    made = qtool.quantize(model, int8, data=data, batch_size=4, form="static")
    assert made.verification.output_sqnr_db > 15
    assert onnx.load(int8).metadata_props[0].key == "qtool.mask"

    def judged(**options):
        found = qtool.evaluate(model, [int8], padded(20, 1), **options).candidates[0]
        return dict(found.sqnr_db_by_output)

    trimmed = judged(trim="attention_mask")
    assert judged(batch_size=5)["tags"] == pytest.approx(trimmed["tags"], abs=0.5)
    assert judged(batch_size=5, mask="none")["tags"] < trimmed["tags"] - 6


def test_workers_and_shards_leave_out_the_same(model, tmp_path):
    data = tmp_path / "d.npz"
    np.savez(data, **padded())
    whole = qtool.calibrate(model, data, tmp_path / "whole.calib", batch_size=2).statistics
    for k in (1, 2):
        qtool.calibrate(model, data, tmp_path / f"{k}.calib", batch_size=2, shard=f"{k}/2")
    qtool.merge([tmp_path / "1.calib", tmp_path / "2.calib"], tmp_path / "sum.calib")
    assert (tmp_path / "sum.calib").read_bytes() == (tmp_path / "whole.calib").read_bytes()
    assert load_statistics(tmp_path / "sum.calib").mask == whole.mask == "attention_mask"
    qtool.calibrate(model, data, tmp_path / "2.calib", batch_size=2, shard="2/2", mask="none")
    with pytest.raises(CalibrationError, match="merge"):
        qtool.merge([tmp_path / "1.calib", tmp_path / "2.calib"], tmp_path / "sum.calib")


def specs(*shapes, kind=np.int64):
    return [InputSpec(name, np.dtype(kind), shape) for name, shape in shapes]


IDS, MASK = ("input_ids", ("N", "T")), ("attention_mask", ("N", "T"))


@pytest.mark.parametrize(
    ("inputs", "asked", "expected"),
    [
        (specs(IDS, MASK), None, "attention_mask"),
        (specs(("input_ids:0", (1, 128)), ("input_mask:0", (1, 128))), None, "input_mask:0"),
        (specs(("x", ("N", 80, "T")), MASK), None, "attention_mask"),
        (specs(("encoder_attention_mask", ("N", "S")), ("cache", ("N", 4, "S", 8))), None, "encoder_attention_mask"),
        # of a cache and the tokens behind it: no input has that length
        (specs(IDS, ("attention_mask", ("N", "past + T"))), None, None),
        (specs(IDS, ("global_attention_mask", ("N", "T"))), None, None),
        (specs(IDS, ("attention_mask", ("N", 1, "T", "T"))), None, None),
        (specs(IDS, ("lengths", ("N", "T"))), "lengths", "lengths"),
        (specs(IDS, MASK), "none", None),
    ],
)
def test_the_mask_is_found_or_named(inputs, asked, expected):
    assert chosen_mask(inputs, asked) == expected


@pytest.mark.parametrize(
    ("asked", "message"),
    [("atention_mask", "did you mean 'attention_mask'"), ("x", r"must be numbers \[samples, length\]")],
)
def test_a_mask_that_is_none_is_refused(asked, message):
    with pytest.raises(UsageError, match=message):
        chosen_mask(specs(IDS, MASK, ("x", ("N", 3, 4))), asked)


@pytest.mark.long
def test_tune_leaves_out_what_it_is_told_to(model, tmp_path):
    data = padded(24) | {"labels": np.zeros((24, LENGTH), np.int64)}
    found = {}
    for mask in ("attention_mask", "none"):
        qtool.tune(model, data, tmp_path / f"{mask}.onnx", max_drop="90%", mask=mask)
        found[mask] = [row.key for row in onnx.load(tmp_path / f"{mask}.onnx").metadata_props]
    assert "qtool.mask" in found["attention_mask"] and "qtool.mask" not in found["none"]


def test_where_all_positions_count_a_mask_is_refused(model, tmp_path):
    for call in (qtool.inspect_model, qtool.sensitivity):
        with pytest.raises(UsageError, match="where all positions count; use trim"):
            extra = {"calibration": tmp_path / "none"} if call is qtool.sensitivity else {}
            call(model, data=padded(), mask="attention_mask", **extra)


def test_the_command_says_what_was_left_out(model, tmp_path, capsys):
    np.savez(tmp_path / "d.npz", **padded())
    arguments = ["calibrate", str(model), "--data", str(tmp_path / "d.npz"), "-o", str(tmp_path / "c.calib")]
    for extra, said in ((["--mask", "attention_mask"], True), (["--mask", "none"], False)):
        with pytest.raises(SystemExit) as caught:
            main([*arguments, *extra])
        assert caught.value.code == 0
        assert ("padding left out by 'attention_mask'" in capsys.readouterr().out) == said
    with pytest.raises(SystemExit) as caught:
        main(["inspect", str(tmp_path / "c.calib"), "--json", "-"])
    assert caught.value.code == 0 and json.loads(capsys.readouterr().out)["samples"] == 12
