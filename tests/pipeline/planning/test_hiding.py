"""What onnxruntime must not move a DQ through."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import qtool
from qtool.runtime.session import Session
from tests.support.noise import sqnr_db

RNG = np.random.default_rng(0)
MOVED = {
    "Reshape": "t = Reshape(h, flat)",
    "Transpose": "t = Transpose<perm = [0, 1, 3, 2]>(h)",
    "Unsqueeze": "t = Unsqueeze(h, one)",
    "Squeeze": "wide = Unsqueeze(h, one)  t = Squeeze(wide, one)",
    "Slice": "t = Slice(h, one, two, one)",
    "MaxPool": "t = MaxPool<kernel_shape = [2, 2]>(h)",
    "two": "u = Transpose<perm = [0, 1, 3, 2]>(h)  t = Unsqueeze(u, one)",
    "in integers too": "t = Transpose<perm = [0, 1, 3, 2]>(h)  behind = Conv(t, v)  used = Relu(behind)",
}
INSIDE = {
    "If": """s = If(g) <then_branch = yes () => (float[k] a) { a = Neg(t) },
        else_branch = no () => (float[k] b) { b = Abs(t) }>""",
    "Loop": """s = Loop (count, , m) <body = steps (int64 i, bool on, float state) => (bool still, float next) {
        still = Identity(on)  part = ReduceMean<keepdims = 0>(t)  next = Add(state, part) }>""",
}


@pytest.mark.parametrize(("name", "inside"), [*((name, "If") for name in MOVED), ("two", "Loop")])
def test_what_a_graph_inside_of_a_node_reads_behind_a_pass_through(name, inside, tmp_path):
    """onnxruntime 1.32 ends the process where a DQ stands in front of the pass-through."""
    body = f"""c = Conv(x, w)  h = Relu(c)  {MOVED[name]}  m = ReduceMax<keepdims = 0>(t)  g = Greater(m, zero)
        {INSIDE[inside]}  y = Conv(h, v)"""
    model = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,6,6] x) => (float[l] s, float[n,o,p,q] y)
        <float zero = {{0.0}}, int64 count = {{2}}, int64[1] one = {{1}}, int64[1] two = {{2}},
        int64[4] flat = {{0, 4, 8, 4}}>
        {{ {body} }}"""
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    inner = [attribute.g for node in model.graph.node for attribute in node.attribute]
    for output in (output for graph in inner for output in graph.output if output.name in ("a", "b")):
        output.type.tensor_type.ClearField("shape")
    weights = {"w": RNG.normal(size=(8, 3, 3, 3)), "v": RNG.normal(size=(4, 8, 1, 1))}
    model.graph.initializer.extend(numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items())
    source, written = tmp_path / "f.onnx", tmp_path / "q.onnx"
    onnx.save(model, source)
    data = {"x": RNG.normal(size=(4, 3, 6, 6)).astype(np.float32)}
    result = qtool.quantize(source, written, data=data, target="x86", calibrator="max", smoothing="off")
    assert result.verification.integer_layers >= 2
    exact, found = Session(source).run(data), Session(written).run(data)
    assert all(sqnr_db(np.asarray(exact[output]), np.asarray(found[output])) > 25.0 for output in ("s", "y"))
