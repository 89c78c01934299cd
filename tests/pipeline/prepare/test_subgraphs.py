"""If, Loop, Scan and local functions: quantised around and inside, inlined where that is known to be right."""

import re
from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

import qtool
from bench.zoo_models import zoo_folder
from qtool.core.errors import ModelError, VerificationError
from qtool.core.numerics.sqnr import signal_to_noise
from qtool.graph import edit, model_io, names
from qtool.pipeline.prepare import prepare
from qtool.pipeline.verify.structure import check_structure

ZOO = zoo_folder()
HEAD = '<ir_version: 8, opset_import: ["":{opset}, "a":1, "b":1]>\n'
WEIGHTS = {"w1": (8, 3, 3, 3), "w2": (8, 8, 3, 3), "w3": (4, 8, 3, 3), "b1": (8,), "wm": (8, 8), "wp": (8, 8, 1, 1)}
PAD = "pads=[1,1,1,1]"
MEAN = "m = ReduceMean<keepdims=0>(x)"
CONDITION = f"{MEAN}  z = Constant<value_float=0.0>()  k = Greater(m, z)"


def written(text, path, opset=17):
    """The model with random weights for those names that it uses; `Conv` pads so that sizes stay."""
    text = text.replace("Conv(", f"Conv<{PAD}>(")
    model = parser.parse_model(HEAD.format(opset=opset) + text)
    rng = np.random.default_rng(0)
    for name, shape in WEIGHTS.items():
        array = (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        if re.search(rf"\b{name}\b", text):
            model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.save(model, path)
    return path


def samples(count=6):
    """Means of either sign, so that both branches run."""
    rng = np.random.default_rng(1)
    return [
        {"x": (rng.normal(size=(1, 3, 8, 8)) + sign).astype(np.float32)} for sign in (0.3, -0.3) * (count // 2)
    ]  # fmt: skip


def graphs(graph):
    """A serialised graph and all that its nodes hold."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from graphs(body)


def optimized(path, folder):
    """The graph that onnxruntime executes."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(path, options)
    return onnx.load(folder / "optimized.onnx").graph


def check(source, quantized, data=None):
    """Both have one interface, and compute nearly the same on every sample."""
    exact, ours = ort.InferenceSession(source), ort.InferenceSession(quantized)
    for get in ("get_inputs", "get_outputs"):
        assert [(v.name, v.type) for v in getattr(exact, get)()] == [(v.name, v.type) for v in getattr(ours, get)()]
    for sample in data or samples():
        for a, b in zip(exact.run(None, sample), ours.run(None, sample), strict=True):
            if isinstance(a, np.ndarray) and a.dtype.kind == "f":
                assert a.shape == b.shape
                assert signal_to_noise(a, b) > 20.0
            else:
                assert a == b


# text, integer layers, layers inside
BODIES = {
    "outer values that are quantised, a weight that is too": (
        f"""g (float[N,3,8,8] x) => (float[N,4,8,8] y) {{
        a = Conv(x, w1, b1)  r = Relu(a)  c = Conv(r, w2)  {CONDITION}
        i = If(k)<then_branch = t () => (float[N,8,8,8] to) {{ t1 = Conv(c, w2)  to = Relu(t1) }},
                  else_branch = e () => (float[N,8,8,8] eo) {{ e1 = Conv(r, w2)  eo = Add(e1, r) }}>
        y = Conv(i, w3) }}""", 3, 2,
    ),
    "a loop whose output is quantised": (
        """g (float[N,3,8,8] x) => (float[N,4,8,8] y, float[T,N,8,8,8] all) {
        a = Conv(x, w1, b1)  r = Relu(a)  n = Constant<value_int=3>()  go = Constant<value=bool {1}>()
        l, all = Loop(n, go, r)<
            body = b (int64 it, bool ci, float[N,8,8,8] s) => (bool co, float[N,8,8,8] so, float[N,8,8,8] sc) {
            co = Identity(ci)  q = Conv(s, w2)  t = Relu(q)  so = Add(t, r)  sc = Identity(so) }>
        y = Conv(l, w3) }""", 2, 1,
    ),
    "a scan": (
        """g (float[N,3,8,8] x) => (float[8,N,8] y) {
        a = Conv(x, w1, b1)  f = ReduceMean<axes=[3], keepdims=0>(a)  s = Transpose<perm=[2,0,1]>(f)
        h = ReduceMean<axes=[0], keepdims=0>(s)
        last, hs = Scan<num_scan_inputs=1, body = b (float[N,8] p, float[N,8] xi) => (float[N,8] ho, float[N,8] yo) {
            g1 = MatMul(p, wm)  g2 = Add(g1, xi)  ho = Tanh(g2)  yo = Identity(ho) }>(h, s)
        y = MatMul(hs, wm) }""", 2, 1,
    ),
    "branches in branches that repeat names of each other and of what follows": (
        f"""g (float[N,3,8,8] x) => (float[N,4,8,8] y) {{
        a = Conv(x, w1, b1)  {CONDITION}
        i = If(k)<then_branch = t () => (float[N,8,8,8] o) {{
                q = Relu(a)
                j = If(k)<then_branch = tt () => (float[N,8,8,8] oo) {{ q2 = Conv(q, w2)  oo = Relu(q2) }},
                          else_branch = te () => (float[N,8,8,8] oo) {{ q2 = Neg(q)  oo = Relu(q2) }}>
                o = Add(j, a) }},
            else_branch = e () => (float[N,8,8,8] o) {{ q = Sigmoid(a)  j = Conv(q, w2)  o = Relu(j) }}>
        q = Conv(i, w2)  j = Relu(q)  o = Conv(j, w2)  y = Conv(o, w3) }}""", 4, 2,
    ),
    "names that the tool itself would give": (
        f"""g (float[N,3,8,8] x) => (float[N,4,8,8] y) {{
        a = Conv(x, w1, b1)  {CONDITION}
        i = If(k)<then_branch = t () => (float[N,8,8,8] to) {{
                a_scale = Relu(a)  a_quantized = Conv(a_scale, w2)  to = Add(a_quantized, a) }},
            else_branch = e () => (float[N,8,8,8] eo) <float a_zero_point = {{1.0}}, float w3_scale = {{3.0}}> {{
                e1 = Mul(a, a_zero_point)  eo = Mul(e1, w3_scale) }}>
        y = Conv(i, w3) }}""", 2, 1,
    ),
    "a layer whose bias is added in a branch": (
        f"""g (float[N,3,8,8] x) => (float[N,8] y) {{
        a = Conv(x, w1, b1)  f = ReduceMean<axes=[2,3], keepdims=0>(a)  mm = MatMul(f, wm)  {CONDITION}
        y = If(k)<then_branch = t () => (float[N,8] to) {{ to = Add(mm, b1) }},
                  else_branch = e () => (float[N,8] eo) {{ eo = Neg(mm) }}> }}""", 2, 0,
    ),
    "a layer that is flattened in a branch, and one whose activation is there": (
        f"""g (float[N,3,8,8] x) => (float[N,8] y, float[N,8,8,8] u) {{
        a = Conv(x, w1, b1)  f = GlobalAveragePool(a)  mm = Conv<strides=[2,2]>(f, wp)  c = Conv(a, w2)  {CONDITION}
        y, u = If(k)<
            then_branch = t () => (float[N,8] to, float[N,8,8,8] tu) {{ to = Flatten(mm)  tu = Relu(c) }},
            else_branch = e () => (float[N,8] eo, float[N,8,8,8] eu) {{ en = Neg(mm)  eo = Flatten(en)  eu = Neg(c) }}>
        }}""", 3, 0,
    ),
    "sequences": (
        """g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
        a = Conv(x, w1, b1)  n = Constant<value_int=3>()  go = Constant<value=bool {1}>()  s0 = SequenceEmpty()
        l = Loop(n, go, s0)<
            body = b (int64 it, bool ci, seq(float[N,8,8,8]) s) => (bool co, seq(float[N,8,8,8]) so) {
            co = Identity(ci)  so = SequenceInsert(s, a) }>
        one = Constant<value_int=1>()  p = SequenceAt(l, one)  y = Conv(p, w3) }""", 2, 0,
    ),
    "optionals": (
        """g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
        a = Conv(x, w1, b1)  op = Optional(a)  h = OptionalHasElement(op)
        i = If(h)<then_branch = t () => (float[N,8,8,8] to) { t1 = OptionalGetElement(op)  to = Conv(t1, w2) },
                  else_branch = e () => (float[N,8,8,8] eo) { eo = Neg(a) }>
        y = Conv(i, w3) }""", 2, 1,
    ),
    "strings": (
        f"""g (float[N,3,8,8] x) => (float[N,8,8,8] y, string s) {{
        a = Conv(x, w1, b1)  {CONDITION}
        s = If(k)<then_branch = t () => (string to) {{ to = Constant<value=string {{"yes"}}>() }},
                  else_branch = e () => (string eo) {{ eo = Constant<value=string {{"no"}}>() }}>
        y = Conv(a, w2) }}""", 2, 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_bodies_are_quantised(name, tmp_path):
    text, integer, inside = BODIES[name]
    # what reads an optional cannot be run by itself
    left = inside if name == "optionals" else 0
    source = written(text, tmp_path / "m.onnx")
    result = qtool.quantize(source, tmp_path / "q.onnx", data=samples(), calibrator="max", target="x86")
    proof = result.verification
    assert (proof.integer_layers, proof.layers) == (integer + inside - left, integer + inside)
    assert list(proof.float_layers.values()) == ["inside a subgraph that reads what is no tensor"] * left
    assert proof.integer_share == (None if left else 1.0)
    assert proof.steps is not None and proof.steps <= 1 and not proof.idle_bodies
    check(source, tmp_path / "q.onnx")
    model = onnx.load(tmp_path / "q.onnx")
    onnx.checker.check_model(model, full_check=True)
    made = [o for graph in graphs(model.graph) for node in graph.node for o in node.output if o]
    # who reads the file calls a node without a name so
    called = [node.name or node.output[0] for graph in graphs(model.graph) for node in graph.node]
    assert len(set(made)) == len(made)
    assert len(set(called)) == len(called)
    assert set(proof.float_layers) <= set(called)
    # what a body reads is what the model holds, to the last bit
    before = {t.name: t.raw_data for t in onnx.load(source).graph.initializer}
    floats = {t.name: t.raw_data for t in model.graph.initializer if t.name in before}
    assert floats == {weight: before[weight] for weight in floats}
    # and onnxruntime runs the layers in there in integers
    bodies = list(graphs(optimized(tmp_path / "q.onnx", tmp_path)))[1:]
    kinds = Counter(node.op_type for body in bodies for node in body.node)
    assert sum(kinds[kind] for kind in ("QLinearConv", "QLinearMatMul", "QGemm")) == inside - left
    assert sum(kinds[kind] for kind in ("Conv", "FusedConv", "MatMul", "Gemm", "FusedGemm")) == left


def test_an_excluded_layer_may_feed_a_body_and_be_in_one(tmp_path):
    text = f"""g (float[N,3,8,8] x) => (float[N,4,8,8] y) {{
        a = Conv(x, w1, b1)  c = [middle] Conv(a, w2)  {CONDITION}
        i = If(k)<then_branch = t () => (float[N,8,8,8] to) {{ to = [inner] Conv(c, w2) }},
                  else_branch = e () => (float[N,8,8,8] eo) {{ eo = Add(c, a) }}>
        y = Conv(i, w3) }}""".replace("[middle] Conv(", f"Conv<{PAD}>(").replace("[inner] Conv(", f"Conv<{PAD}>(")
    source = written(text, tmp_path / "m.onnx")
    scheme = qtool.Scheme(exclude=("c", "to"))
    result = qtool.quantize(source, tmp_path / "q.onnx", data=samples(), scheme=scheme, target="x86")
    assert sorted(result.verification.float_layers.values()) == ["excluded by 'c'", "excluded by 'to'"]
    check(source, tmp_path / "q.onnx")
    kinds = Counter(node.op_type for node in optimized(tmp_path / "q.onnx", tmp_path).node)
    assert (kinds["QLinearConv"], kinds["Conv"]) == (2, 1)


@pytest.mark.parametrize(
    ("options", "why"),
    [({"exclude": ("i",)}, "excluded by 'i'"), ({"exclude_ops": ("If",)}, "operator If is excluded")],
)
def test_what_holds_a_body_is_excluded_with_it(options, why, tmp_path):
    text = f"""g (float[N,3,8,8] x) => (float[N,4,8,8] y) {{
        a = Conv(x, w1, b1)  {CONDITION}
        i = If(k)<then_branch = t () => (float[N,8,8,8] to) {{ to = Conv(a, w2) }},
                  else_branch = e () => (float[N,8,8,8] eo) {{ eo = Add(a, a) }}>
        y = Conv(i, w3) }}"""
    source = written(text, tmp_path / "m.onnx")
    result = qtool.quantize(source, tmp_path / "q.onnx", data=samples(), scheme=qtool.Scheme(**options), target="x86")
    assert result.verification.float_layers == {"to": f"in a body of If 'i': {why}"}
    check(source, tmp_path / "q.onnx")


# text, operators of the prepared graph; the condition is what the case is about
CONSTANT = {
    "a flag": (
        """g (float[N,3,8,8] x) => (float[N,8,8,8] y) { a = Conv(x, w1)  f = Constant<value=bool {0}>()
        y = If(f)<then_branch = t () => (float[N,8,8,8] p) { p = Tanh(a) },
                  else_branch = e () => (float[N,8,8,8] q) { q = Conv(a, w2) }> }""",
        {"Conv": 2},
    ),
    "a computed flag, and constants inside": (
        """g (float[N,3,8,8] x) => (float[N,8,8,8] y) { a = Conv(x, w1)  f = Constant<value=bool {0}>()  g = Not(f)
        i = If(g)<then_branch = t () => (float[N,8,8,8] p) <float two = {2.0}> {
                    three = Constant<value_float=3.0>()  s = Mul(two, three)  c = Conv(a, w2)  p = Mul(c, s) },
                  else_branch = e () => (float[N,8,8,8] q) { q = Conv(a, w2) }>
        y = Relu(i) }""",
        {"Conv": 2, "Relu": 1},
    ),
    "branches in branches": (
        """g (float[N,3,8,8] x) => (float[N,8,8,8] y) { f = Constant<value=bool {1}>()
        y = If(f)<then_branch = t () => (float[N,8,8,8] p) {
                    a = Conv(x, w1)  n = Not(f)
                    p = If(n)<then_branch = tt () => (float[N,8,8,8] u) { u = Tanh(a) },
                              else_branch = te () => (float[N,8,8,8] u) { u = Conv(a, w2) }> },
                  else_branch = e () => (float[N,8,8,8] p) { a = Conv(x, w1)  p = Tanh(a) }> }""",
        {"Conv": 2},
    ),
    "several results, some of them the same, from outside, or constant": (
        """g (float[N,3,8,8] x)
        => (float[N,8,8,8] y, float[N,8,8,8] u, float[N,8,8,8] v, float[1] c, float[N,3,8,8] h) {
        a = Conv(x, w1)  f = Constant<value=bool {1}>()
        y, u, v, c, h = If(f)<
            then_branch = t () => (float[N,8,8,8] p, float[N,8,8,8] q, float[N,8,8,8] r, float[1] s, float[N,3,8,8] i) {
                p = Conv(a, w2)  q = Identity(p)  r = Identity(a)  s = Constant<value=float[1] {5.0}>()
                i = Identity(x) },
            else_branch = e () => (float[N,8,8,8] p, float[N,8,8,8] q, float[N,8,8,8] r, float[1] s, float[N,3,8,8] i) {
                p = Conv(a, w2)  q = Tanh(p)  r = Tanh(a)  s = Constant<value=float[1] {6.0}>()  i = Neg(x) }> }""",
        {"Conv": 2, "Constant": 1},
    ),
    "in a loop": (
        """g (float[N,3,8,8] x) => (float[N,8,8,8] y) {
        a = Conv(x, w1)  n = Constant<value_int=3>()  f = Constant<value=bool {1}>()
        y = Loop(n, f, a)<body = b (int64 it, bool ci, float[N,8,8,8] s) => (bool co, float[N,8,8,8] so) {
            co = Identity(ci)
            so = If(f)<then_branch = t () => (float[N,8,8,8] p) { r = Relu(s)  p = Conv(r, w2) },
                       else_branch = e () => (float[N,8,8,8] p) { p = Tanh(s) }> }> }""",
        {"Conv": 1, "Loop": 1, "inside Conv": 1, "inside Relu": 1},
    ),
    "a dimension, as exporters write squeeze": (
        """g (float[N,3,8,8] x) => (float[N,8] y) {
        a = Conv(x, w1)  p = GlobalAveragePool(a)  s = Shape(p)  two = Constant<value_int=2>()  d = Gather(s, two)
        one = Constant<value_int=1>()  k = Equal(d, one)
        i = If(k)<then_branch = t () => (float[M,8,1] u) { ax = Constant<value_ints=[2]>()  u = Squeeze(p, ax) },
                  else_branch = e () => (float[M,8,1,1] v) { v = Identity(p) }>
        f = Flatten(i)  y = MatMul(f, wm) }""",
        {"Conv": 1, "GlobalAveragePool": 1, "Squeeze": 1, "Flatten": 1, "MatMul": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONSTANT)
def test_a_constant_condition_takes_its_branch(name, tmp_path):
    """onnxruntime would take it too, and round the weights of layers that are planned as float."""
    text, expected = CONSTANT[name]
    source = written(text, tmp_path / "m.onnx")
    prepared = prepare(model_io.load(source))
    nodes = list(prepared.model.graph.all_nodes())
    found = Counter(("" if n.graph is prepared.model.graph else "inside ") + n.op_type for n in nodes)
    for kind in ("Identity", "inside Identity"):
        del found[kind]
    assert found == expected
    assert prepared.changes["constant_branches"] == text.count("If(")
    data = model_io.to_bytes(prepared.model)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    exact, ours = ort.InferenceSession(source), ort.InferenceSession(data)
    for sample in (*samples(2), {"x": np.concatenate([s["x"] for s in samples(4)])}):
        for a, b in zip(exact.run(None, sample), ours.run(None, sample), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    result = qtool.quantize(source, tmp_path / "q.onnx", data=samples(), target="x86")
    assert (
        result.verification.integer_layers
        == result.verification.layers
        == found["Conv"] + found["MatMul"] + found["inside Conv"]
    )
    check(source, tmp_path / "q.onnx")


def test_a_branch_that_goes_reads_nothing_any_more(tmp_path):
    """The Relu is the only reader then, and is absorbed; a branch whose result nobody reads goes as well."""
    text = f"""g (float[N,3,8,8] x) => (float[N,4,8,8] y) {{
        a = Conv(x, w1)  f = Constant<value=bool {{0}}>()  r = Relu(a)
        i = If(f)<then_branch = t () => (float[N,8,8,8] p) {{ p = Tanh(a) }},
                  else_branch = e () => (float[N,8,8,8] q) {{ q = Sigmoid(r) }}>
        {CONDITION}
        unused = If(k)<then_branch = tt () => (float[N,8,8,8] u) {{ u = Exp(a) }},
                       else_branch = te () => (float[N,8,8,8] v) {{ v = Neg(a) }}>
        dead = Neg(unused)  y = Conv(i, w3) }}"""
    source = written(text, tmp_path / "m.onnx")
    model = prepare(model_io.load(source)).model
    first = next(node for node in model.graph if node.op_type == "Conv")
    assert [node.op_type for node in edit.consumers(first.outputs[0])] == ["Relu"]
    assert Counter(n.op_type for n in model.graph.all_nodes()) == {"Conv": 2, "Relu": 1, "Sigmoid": 1}
    qtool.quantize(source, tmp_path / "q.onnx", data=samples(), target="x86")
    assert "Relu" not in {node.op_type for node in optimized(tmp_path / "q.onnx", tmp_path).node}


# what is made of p, a [N, 8, 1, 1]; whether Shape goes
SHAPES = {
    "one dimension": ("s = Shape(p)  i = Constant<value_int=1>()  d = Gather(s, i)  y = Add(d, i)", True),
    "from behind": ("s = Shape(p)  i = Constant<value_ints=[-1,-3]>()  y = Gather(s, i)", False),
    "some, negative": ("s = Shape(p)  i = Constant<value_ints=[-1,-3]>()  d = Gather(s, i)  y = Neg(d)", True),
    "a free one": ("s = Shape(p)  i = Constant<value_ints=[0,1]>()  d = Gather(s, i)  y = Neg(d)", False),
    "a part": ("s = Shape<start=1>(p)  y = Neg(s)", True),
    "a part from behind": ("s = Shape<start=-3, end=-1>(p)  y = Neg(s)", True),
    "a part with a free one": ("s = Shape<end=2>(p)  y = Neg(s)", False),
    "the output": ("y = Shape<start=1>(p)", False),
    "computed": ("s = Shape(p)  c = Cast<to=7>(m)  i = Sub(c, c)  d = Gather(s, i)  y = Neg(d)", False),
}


@pytest.mark.parametrize("name", SHAPES)
def test_known_dimensions(name, tmp_path):
    body, goes = SHAPES[name]
    shape = "int64 y" if name in ("one dimension", "computed") else "int64[K] y"
    text = f"""g (float[N,3,8,8] x) => (float[N,8,1,1] p, {shape}) {{
        a = Conv(x, w1)  p = GlobalAveragePool(a)  {MEAN}  {body} }}"""
    source = written(text, tmp_path / "m.onnx")
    model = prepare(model_io.load(source)).model
    assert any(node.op_type == "Shape" for node in model.graph) != goes
    exact, ours = ort.InferenceSession(source), ort.InferenceSession(model_io.to_bytes(model))
    for batch in (1, 3):
        fed = {"x": np.ones((batch, 3, 8, 8), np.float32)}
        np.testing.assert_array_equal(exact.run(["y"], fed)[0], ours.run(["y"], fed)[0])


# text, integer layers
FUNCTIONS = {
    "that call functions": (
        """g (float[N,3,8,8] x) => (float[N,4,8,8] y) { h = a.Outer(x, w1, b1)  y = a.Outer(h, w3) }
        <domain: "a", opset_import: ["":17,"a":1]> Outer (i, w, b) => (o) { t = a.Inner(i, w, b)  o = Relu(t) }
        <domain: "a", opset_import: ["":17]> Inner (i, w, b) => (o) { o = Conv(i, w, b) }""", 2,
    ),
    "with attributes and defaults": (
        """g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
        h = a.Act<alpha=0.3>(x, w1)  k = a.Act(h, w2)  y = a.Act<alpha=0.9, pads=[1,2,1,0]>(k, w3) }
        <domain: "a", opset_import: ["":17]> Act <alpha: float = 0.1, pads: ints = [1,1,1,1]>(i, w) => (o) {
        t = Conv<pads: ints = @pads>(i, w)  o = LeakyRelu<alpha: float = @alpha>(t) }""", 3,
    ),
    "with optional inputs": (
        """g (float[N,3,8,8] x) => (float[N,4,8,8] y) { h = a.F(x, w1, )  k = a.F(h, w2, b1)  y = a.F(k, w3) }
        <domain: "a", opset_import: ["":17]> F (i, w, b) => (o) { t = Conv(i, w, b)  o = Relu(t) }""", 3,
    ),
    "of one name in two domains": (
        """g (float[N,3,8,8] x) => (float[N,4,8,8] y) { h = a.F(x, w1)  k = b.F(h, w2)  y = Conv(k, w3) }
        <domain: "a", opset_import: ["":17]> F (i, w) => (o) { t = Conv(i, w)  o = Relu(t) }
        <domain: "b", opset_import: ["":17]> F (i, w) => (o) { t = Conv(i, w)  o = Sigmoid(t) }""", 3,
    ),
    "that hold branches, twice": (
        """g (float[N,3,8,8] x) => (float[N,4,8,8] y) { h = a.F(x, w1)  i = a.F(h, w2)  y = Conv(i, w3) }
        <domain: "a", opset_import: ["":17]> F (i, w) => (o) {
        t = Conv(i, w)  m = ReduceMean<keepdims=0>(t)  z = Constant<value_float=-0.07>()  k = Greater(m, z)
        o = If(k)<then_branch = th () => (float[N,8,8,8] tt) { tt = Relu(t) },
                  else_branch = el () => (float[N,8,8,8] tt) { q = Neg(t)  tt = Relu(q) }> }""", 3,
    ),
    "called in branches": (
        f"""g (float[N,3,8,8] x) => (float[N,4,8,8] y) {{ a = Conv(x, w1)  {CONDITION}
        c = If(k)<then_branch = th () => (float[N,8,8,8] tt) {{ tt = a.F(a, w2) }},
                  else_branch = el () => (float[N,8,8,8] tt) {{ t = a.F(a, w2)  tt = a.F(t, w2) }}>  y = a.F(c, w3) }}
        <domain: "a", opset_import: ["":17]> F (i, w) => (o) {{ t = Conv(i, w)  o = Relu(t) }}""", 5,
    ),
    "that hand their input through": (
        """g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
        h = a.F(x)  k = Conv(h, w1)  j = a.F(k)  l = Conv(j, w3)  y = a.F(l) }
        <domain: "a", opset_import: ["":17]> F (i) => (o) { o = Identity(i) }""", 2,
    ),
    "of an older opset, where nothing changed since": (
        """g (float[N,3,8,8] x) => (float[N,4,8,8] y) { h = a.F(x, w1)  y = Conv(h, w3) }
        <domain: "a", opset_import: ["":16]> F (i, w) => (o) { t = Conv(i, w)  o = Sigmoid(t) }""", 2,
    ),
    "of an opset that is raised": (
        """g (float[N,3,8,8] x) => (float[N,4,8,8] y) { h = a.F(x, w1)  y = a.F(h, w3) }
        <domain: "a", opset_import: ["":12]> F (i, w) => (o) {
        t = Conv(i, w)  u = Unsqueeze<axes=[0]>(t)  v = Squeeze<axes=[0]>(u)  o = Relu(v) }""", 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name, tmp_path):
    text, integer = FUNCTIONS[name]
    source = written(text, tmp_path / "m.onnx", opset=12 if "raised" in name else 17)
    result = qtool.quantize(source, tmp_path / "q.onnx", data=samples(), target="x86")
    assert result.verification.integer_layers == integer
    check(source, tmp_path / "q.onnx")
    assert not onnx.load(tmp_path / "q.onnx").functions


def test_a_function_that_cannot_be_inlined(tmp_path):
    text = """g (float[N,3,8,8] x) => (float[N,8,8,8] y) { y = a.F(x, w1) }
        <domain: "a", opset_import: ["":17]> F (i, w) => (o) { o = Conv(i, w) }"""
    source = written(text, tmp_path / "m.onnx")
    model = onnx.load(source)
    model.graph.node[0].input.extend(["x", "x"])
    onnx.save(model, source)
    with pytest.raises(ModelError, match="export"):
        qtool.calibrate(source, samples())


@pytest.mark.parametrize("name", ["a loop whose output is quantised", "sequences", "optionals"])
def test_the_other_commands(name, tmp_path):
    text, integer, inside = BODIES[name]
    source = written(text, tmp_path / "m.onnx")
    statistics = qtool.calibrate(source, samples()).statistics
    ranking = qtool.sensitivity(source, samples(), calibration=statistics, target="x86")
    assert len(ranking.layers) == integer + (0 if name == "optionals" else inside)
    assert all(np.isfinite(layer.alone.sqnr_db) for layer in ranking.layers)
    tuned = qtool.tune(source, samples(8), tmp_path / "t.onnx", min_sqnr=20.0, max_drop="50%", target="x86")
    assert tuned.met
    check(source, tmp_path / "t.onnx")


def test_all_layers_inside(tmp_path):
    text = f"""g (float[N,3,8,8] x) => (float[N,8,8,8] y) {{ {CONDITION}
        y = If(k)<then_branch = t () => (float[N,8,8,8] p) {{ p = Conv(x, w1) }},
                  else_branch = e () => (float[N,8,8,8] q) {{ r = Neg(x)  q = Conv(r, w1) }}> }}"""
    source = written(text, tmp_path / "m.onnx")
    result = qtool.quantize(source, tmp_path / "q.onnx", data=samples(), target="x86")
    assert result.verification.integer_layers == result.verification.layers == 2
    check(source, tmp_path / "q.onnx")
    # the weight of both branches is stored once
    assert [t.name for g in graphs(onnx.load(tmp_path / "q.onnx").graph) for t in g.initializer].count(
        "w1_quantized"
    ) == 1
    positive = samples()[::2]
    result = qtool.quantize(source, tmp_path / "p.onnx", data=positive, target="x86")
    assert result.verification.float_layers == {"q": "the data never runs the body 'y.else_branch'"}
    check(source, tmp_path / "p.onnx")


def test_weights_with_the_same_integers_keep_their_own_scales(tmp_path):
    """One integer each, and both branches read what is stored once around them."""
    text = """g (float[N,3,8,8] x) => (float[N,3,8,1] y) { C
        y = If(k)<then_branch = t () => (float[N,3,8,1] p) { a = MatMul(s, v1)  p = Relu(a) },
                  else_branch = e () => (float[N,3,8,1] q) { b = MatMul(s, v2)  q = Tanh(b) }> }"""
    text = text.replace("C\n", f"{CONDITION}  s = ReduceMax<axes=[3]>(x)\n", 1)
    source = written(text, tmp_path / "m.onnx")
    model = onnx.load(source)
    for name, number in (("v1", 0.7), ("v2", 2.5)):
        model.graph.initializer.append(numpy_helper.from_array(np.full((1, 1), number, np.float32), name))
    onnx.save(model, source)
    qtool.quantize(source, tmp_path / "q.onnx", form="weight-only", target="x86")
    exact, ours = ort.InferenceSession(source), ort.InferenceSession(tmp_path / "q.onnx")
    for sample in samples():
        (expected,), (found,) = exact.run(None, sample), ours.run(None, sample)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.zoo
@pytest.mark.skipif(ZOO is None, reason="no model zoo: set QTOOL_ZOO, or put it at ../shared/zoo")
def test_a_real_model_that_is_all_branches():
    prepared = prepare(model_io.load(ZOO / "silero_vad" / "silero_vad.onnx"))
    session = ort.InferenceSession(model_io.to_bytes(prepared.model))
    fed = {
        "input": np.random.default_rng(0).normal(size=(1, 576)).astype(np.float32) / 9,
        "state": np.zeros((2, 1, 128), np.float32),
        "sr": np.array(16000),
    }
    exact = ort.InferenceSession(ZOO / "silero_vad" / "silero_vad.onnx").run(None, fed)
    for a, b in zip(exact, session.run(None, fed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_names(tmp_path):
    text = BODIES["branches in branches that repeat names of each other and of what follows"][0]
    model = model_io.load(written(text, tmp_path / "m.onnx")).model
    before = [v.name for v in (*model.graph.inputs, *model.graph.outputs, *(o for n in model.graph for o in n.outputs))]
    names.make_unique(model)
    after = [v.name for v in (*model.graph.inputs, *model.graph.outputs, *(o for n in model.graph for o in n.outputs))]
    assert after == before
    made = [o.name for node in model.graph.all_nodes() for o in node.outputs]
    assert len(made) == len(set(made))
    fresh = edit.Names(model.graph)
    assert all(fresh.fresh(name) != name for name in made)


@pytest.mark.parametrize("kind", ["attribute", "input", "output"])
def test_a_changed_body_is_found(kind, tmp_path):
    text = BODIES["a loop whose output is quantised"][0]
    prepared = prepare(model_io.load(written(text, tmp_path / "m.onnx"))).model
    changed = edit.clone(prepared)
    check_structure(prepared, changed)
    (loop,) = (node for node in changed.graph if node.op_type == "Loop")
    (body,) = edit.subgraphs(loop)
    conv, relu, add = (next(n for n in body if n.op_type == kind) for kind in ("Conv", "Relu", "Add"))
    if kind == "attribute":
        edit.set_attribute(conv, "pads", [0, 0, 2, 2])
    elif kind == "input":
        add.replace_input_with(0, conv.outputs[0])
    else:
        body.outputs[1] = relu.outputs[0]
    with pytest.raises(VerificationError):
        check_structure(prepared, changed)
