"""Bodies run by themselves, iteration by iteration, compute what onnxruntime computes in there."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import parser

from qtool.graph import model_io, shapes
from qtool.runtime.bodies import BodyRuns

HEAD = '<ir_version: 8, opset_import: ["": 17]>\n'
ENOUGH = "lim = Constant<value_float=40.0>()"
# text -> body -> (the tensor that is handed out of it, the output of the model that stacks it)
CASES = {
    "a loop": (
        f"""g (float[2,3] x, int64 n) => (float[2,3] y, float[T,2,3] all) {{
        {ENOUGH}  go = Constant<value=bool {{1}}>()
        y, all = [l] Loop(n, go, x)<body = b
            (int64 it, bool ci, float[2,3] s) => (bool co, float[2,3] so, float[2,3] sc) {{
            f = Cast<to=1>(it)  d = Add(s, f)  so = Add(d, x)  top = ReduceMax<keepdims=0>(so)  co = Less(top, lim)
            sc = Identity(d) }}> }}""",
        "l.body", "d",
    ),
    "a loop without a count, in which a branch is taken": (
        f"""g (float[2,3] x, int64 n) => (float[2,3] y, float[T,2,3] all) {{
        {ENOUGH}  go = Constant<value=bool {{1}}>()
        y, all = [l] Loop(, go, x)<body = b
            (int64 it, bool ci, float[2,3] s) => (bool co, float[2,3] so, float[2,3] sc) {{
            two = Constant<value_int=2>()  m = Mod(it, two)  odd = Cast<to=9>(m)
            so = [i] If(odd)<then_branch = t () => (float[2,3] p) {{ d = Add(s, x)  p = Identity(d) }},
                             else_branch = e () => (float[2,3] q) {{ q = Add(s, s) }}>
            top = ReduceMax<keepdims=0>(so)  co = Less(top, lim)  sc = Identity(so) }}> }}""",
        "i.then_branch", "d",
    ),
    "a scan backwards along another axis": (
        """g (float[2,3] x, int64 n) => (float[2] y, float[T,2] all) {
        z = ReduceSum<keepdims=0>(x, one)
        y, all = [s] Scan<num_scan_inputs=1, scan_input_axes=[1], scan_input_directions=[1],
            body = b (float[2] p, float[2] xi) => (float[2] ho, float[2] yo) {
                d = Sub(xi, p)  ho = Add(d, z)  yo = Identity(d) }>(z, x) }""",
        "s.body", "d",
    ),
}  # fmt: skip


def loaded(text, tmp_path):
    for name in ("l", "i", "s"):
        text = text.replace(f"[{name}] ", "")
    model = parser.parse_model(HEAD + text)
    names = iter("s" if "Scan" in text else "l")

    def name_all(graph):
        for node in graph.node:
            if node.op_type in ("Loop", "Scan", "If"):
                node.name = "i" if node.op_type == "If" else next(names)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    name_all(attribute.g)

    name_all(model.graph)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "one"))
    onnx.save(model, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def runs(path, wanted, feeds):
    model = model_io.load(path).model
    shapes.infer(model)
    return list(BodyRuns(model, wanted).run(feeds))


@pytest.mark.parametrize("name", CASES)
def test_every_run_of_a_body_is_seen(name, tmp_path):
    text, body, tensor = CASES[name]
    path = loaded(text, tmp_path)
    feeds = {"x": np.random.default_rng(0).normal(1.0, 0.1, size=(2, 3)).astype(np.float32), "n": np.array(4)}
    stacked = ort.InferenceSession(path).run(["all"], feeds)[0]
    seen = runs(path, {body: [tensor]}, feeds)
    assert {run.body for run in seen} == {body}
    found = np.stack([run.found[tensor] for run in seen])
    # every other iteration takes the branch
    expected = stacked[1::2] if body == "i.then_branch" else stacked
    assert len(expected) > 1
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_body_that_is_not_asked_for_does_not_run(tmp_path):
    path = loaded(CASES["a loop"][0], tmp_path)
    feeds = {"x": np.ones((2, 3), np.float32), "n": np.array(4)}
    assert runs(path, {}, feeds) == []
    none = {"x": np.ones((2, 3), np.float32), "n": np.array(0)}
    assert runs(path, {"l.body": ["d"]}, none) == []
