"""The int8 file is never larger than the float one: what layers and others share stays shared."""

import hashlib

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import qtool
from qtool.graph import model_io, shapes
from qtool.runtime.session import Session
from tests.support.patterns import Net


def _quantized(net, y, tmp_path, feeds, **options):
    source = net.save(tmp_path / "float.onnx", y)
    result = qtool.quantize(source, tmp_path / "int8.onnx", data=feeds, bias_correction="off", **options)
    wanted, got = ([Session(path).run(feed)[y] for feed in feeds] for path in (source, result.output))
    noise = sum(((a - b) ** 2).sum() for a, b in zip(wanted, got, strict=True))
    assert 10 * np.log10(sum((a**2).sum() for a in wanted) / noise) > 25
    return result


@pytest.mark.parametrize("form", ["static", "dynamic"])
@pytest.mark.parametrize("transposed", [True, False])
def test_a_table_that_is_a_weight_too_is_stored_once(form, transposed, tmp_path):
    net = Net(6)
    table = net.weight(200, 64, inputs=64)
    rows = net("Gather", table, net("Cast", "x", to=onnx.TensorProto.INT64), axis=0)
    hidden = net("MatMul", rows, net.weight(64, 64, inputs=64), name="middle")
    if transposed:
        y = net("MatMul", hidden, net("Transpose", table, perm=[1, 0]), name="head")
    else:
        flat = net("Reshape", hidden, net.const([-1, 64], dtype=np.int64))
        y = net("Gemm", flat, table, transB=1, name="head")
    feeds = [{"x": np.random.default_rng(n).integers(0, 200, (1, 6)).astype(np.float32)} for n in range(4)]
    calibrator = {"calibrator": "max"} if form == "static" else {}
    result = _quantized(net, y, tmp_path, feeds, form=form, smoothing="off", **calibrator)
    assert result.verification.integer_layers == 2
    assert result.size < result.float_size
    stored = [i for i in onnx.load(result.output).graph.initializer if np.prod(i.dims) == 200 * 64]
    assert len(stored) == 1


@pytest.mark.parametrize("different", [1, 8])
def test_convolutions_that_share_a_weight_share_it_behind_batch_norms(different, tmp_path):
    net = Net(16, 6, 6)
    weight, x = net.weight(16, 16, 3, 3, inputs=144), "x"
    norms = [[net.const(np.abs(net.rng.normal(size=16)) + 0.5) for _ in range(4)] for _ in range(different)]
    for n in range(8):
        x = net("Conv", x, weight, pads=[1] * 4, name=f"conv{n}")
        x = net("Relu", net("BatchNormalization", x, *norms[n % different]))
    result = _quantized(net, x, tmp_path, [net.samples(1)], calibrator="max")
    assert result.verification.integer_layers == 8
    stored = [i for i in onnx.load(result.output).graph.initializer if np.prod(i.dims) == 16 * 144]
    assert [i.data_type for i in stored] == [onnx.TensorProto.INT8 if different == 1 else onnx.TensorProto.FLOAT]


def test_a_file_holds_no_traces_of_the_exporter(tmp_path):
    net = Net()
    y = net.conv(net("Relu", net.conv("x", 3, 8)), 8, 8)
    model = net.model(y)
    for node in model.graph.node:
        node.doc_string = "/home/user/model.py(10): forward " * 100
        node.metadata_props.add(key="stack_trace", value="line of code" * 100)
    model.metadata_props.add(key="names", value="cat,dog")
    onnx.save(onnx.shape_inference.infer_shapes(model), tmp_path / "float.onnx")
    qtool.quantize(tmp_path / "float.onnx", tmp_path / "int8.onnx", data=[net.samples(2)], calibrator="max")
    made = onnx.load(tmp_path / "int8.onnx")
    assert not any(node.doc_string or node.metadata_props for node in made.graph.node)
    digest = hashlib.sha256((tmp_path / "float.onnx").read_bytes()).hexdigest()
    notes = {p.key: p.value for p in made.metadata_props if p.key != "qtool.made"}
    assert notes == {"names": "cat,dog", "qtool.float": digest}
    # inference finds them again
    assert not made.graph.value_info and made.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 8


def test_shapes_that_inference_does_not_find_are_kept():
    net = Net(4, 8)
    y = net("Relu", net("Gelu", net("Relu", "x"), domain="com.microsoft"))
    nodes = net.nodes
    net.nodes = nodes[:1]
    model = net.model(f"{nodes[0].name}_out")
    model.graph.node.extend(nodes[1:])
    model.opset_import.add(domain="com.microsoft", version=1)
    del model.graph.output[:]
    for name in (nodes[0].output[0], nodes[1].output[0], y):
        kind = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 4, 8])
        (model.graph.output if name == y else model.graph.value_info).append(kind)
    loaded = model_io.from_bytes(model.SerializeToString())
    shapes.drop_inferable(loaded)
    kept = {v.name for v in onnx.load_from_string(model_io.to_bytes(loaded)).graph.value_info}
    assert kept == {nodes[1].output[0]}


@pytest.mark.parametrize(("length", "kept"), [("unk__7", False), ("N", True), (5, True)])
def test_names_of_lengths_that_inference_makes_up_are_not_kept(length, kept):
    """It numbers them otherwise each time, so that no shape with one would ever be found again."""
    net = Net(3, 8, 8)
    y = net("Relu", net("Reshape", "x", net.const([-1, 3, 4, 8], dtype=np.int64), name="parts"))
    loaded = model_io.from_bytes(net.model(y).SerializeToString())
    (parts,) = (node.outputs[0] for node in loaded.graph if node.op_type == "Reshape")
    parts.shape = ir.Shape([length, 3, 4, 8])
    parts.type = ir.TensorType(ir.DataType.FLOAT)
    shapes.drop_inferable(loaded)
    assert (parts.shape is not None) == kept
