"""Models that say less of their inputs and outputs than ONNX asks, or what onnx-ir has no type for."""

import numpy as np
import onnx
import pytest

from qtool.core.errors import DataError, ModelError
from qtool.feeds.checks import to_input
from qtool.graph import edit, model_io
from qtool.graph.finite import fed_specs, fed_specs_of
from qtool.graph.protos import from_proto, to_proto
from tests.support.odd_models import MODELS, OddModel, node, value

BOOL = onnx.TensorProto.BOOL


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("name", ["an output without shape", "an output without type", "an input without shape"])
def test_what_has_no_shape_is_loaded(name, external, tmp_path):
    path = MODELS[name]().save(tmp_path / "m.onnx")
    if external:
        model = onnx.load(path)
        onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    with pytest.raises(onnx.checker.ValidationError, match="required but missing"):
        onnx.checker.check_model(str(path))
    loaded = model_io.load(path)
    again = model_io.deserialize(model_io.serialize(loaded.model))
    assert [v.name for v in again.graph.outputs] == [v.name for v in loaded.model.graph.outputs]


def test_what_else_is_wrong_is_still_seen(tmp_path):
    path = MODELS["an output without shape"]().save(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("nonsense", 1))
    onnx.save(model, path)
    with pytest.raises(ModelError, match="nonsense"):
        model_io.load(path)


def test_inputs_must_be_finite_where_a_layer_reads_them(tmp_path):
    odd = OddModel(
        [
            node("Transpose", ["t"], ["u"], perm=[1, 0]),
            node("MatMul", ["u", "w"], ["a"]),
            node("Where", ["mask", "a", "b"], ["c"]),
            node("Add", ["c", "d"], ["y"]),
        ],
        [value("y", None)],
        {},
        [
            value("t", [8, "N"]),
            value("mask", ["N", 16], onnx.TensorProto.BOOL),
            value("b", ["N", 16]),
            value("d", None),
        ],
        trunk=False,
    )
    path = odd.save(tmp_path / "m.onnx")
    model = model_io.load(path).model
    wanted = {"t": True, "mask": False, "b": False, "d": False}
    assert {spec.name: spec.finite for spec in fed_specs(model)} == wanted
    given = fed_specs_of(edit.input_specs(model), path)
    assert {spec.name: spec.finite for spec in given} == wanted
    assert next(spec.shape for spec in given if spec.name == "d") is None
    (path.parent / "other").write_bytes(b"no model")
    assert all(spec.finite for spec in fed_specs_of(edit.input_specs(model), path.parent / "other"))
    specs = {spec.name: spec for spec in given}
    masked = np.array([[-np.inf, np.nan, 1.0, 2.0]] * 2)
    np.testing.assert_array_equal(to_input("d.npz", masked, specs["b"], 0, samples=True), masked.astype(np.float32))
    with pytest.raises(DataError, match="the input 't' holds Inf"):
        to_input("d.npz", masked, specs["t"], 0, samples=True)
    with pytest.raises(DataError, match="sample 1: the input 'b' holds 1e\\+300, which float32 cannot hold"):
        to_input("d.npz", np.array([[-np.inf], [1e300]]), specs["b"], 0, samples=True)


def test_no_bytes_for_fields_that_are_empty():
    """In bodies neither."""
    branch = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["r"])], "then", [], [value("r", [2])])
    other = onnx.helper.make_graph([onnx.helper.make_node("Abs", ["x"], ["s"])], "else", [], [value("s", [2])])
    node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=other)
    fed = [value("x", [2]), value("c", [], onnx.TensorProto.BOOL)]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", fed, [value("y", [2])]))
    written = to_proto(from_proto(model)).graph.node[0]
    nodes = [written, *(a.g.node[0] for a in written.attribute)]
    assert {n.op_type for n in nodes} == {"If", "Relu", "Abs"}
    assert not any(n.HasField(field) for n in nodes for field in ("name", "domain", "doc_string"))
