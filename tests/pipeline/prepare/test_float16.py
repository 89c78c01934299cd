"""float16 models: prepared as float32, with the same interface, and quantised as well as the float32 original."""

import math
import re

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import qtool
from bench.zoo_models import vision_models, zoo_folder
from qtool.core.errors import DataError, ModelError, VerificationError
from qtool.core.numerics.sqnr import signal_to_noise
from qtool.graph import model_io, widen
from qtool.pipeline.prepare import prepare
from qtool.pipeline.verify.half_precision import check_rounding, rounding_db
from tests.support.patterns import Net

float16 = pytest.importorskip("onnxruntime.transformers.float16")

ZOO = zoo_folder()
zoo = [
    pytest.mark.zoo,
    pytest.mark.skipif(ZOO is None, reason="no model zoo: set QTOOL_ZOO, or put it at ../shared/zoo"),
]


def halved(source, target, *, keep_io):
    """onnxruntime's own converter, for every operator."""
    model = float16.convert_float_to_float16(onnx.load(source), keep_io_types=keep_io, op_block_list=[])
    onnx.save(model, target)
    return target


def interface(path):
    session = ort.InferenceSession(path)
    return [(v.name, v.type) for v in (*session.get_inputs(), *session.get_outputs())]


def half_tensors(graph, *, main=True):
    """The names of what a serialised graph holds in float16; inputs and outputs of the main graph do not count."""
    told = [*graph.value_info, *([] if main else [*graph.input, *graph.output])]
    found = [v.name for v in told if "elem_type: 10\n" in str(v.type)]
    found += [tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16]
    for node in graph.node:
        for attribute in node.attribute:
            found += [node.name] if attribute.t.data_type == TensorProto.FLOAT16 else []
            found += half_tensors(attribute.g, main=False)
    return set(found)


def convolutions(net):
    x = net("Relu", net.conv("x", 3, 8))
    spread = net.const(net.rng.uniform(0.5, 2.0, 8))
    x = net("BatchNormalization", net.conv(x, 8, 8), net.bias(8), net.bias(8), net.bias(8), spread)
    x = net("Add", x, net("Sigmoid", net.conv(x, 8, 8)))
    return net.gemm(net("Flatten", net("GlobalAveragePool", x)), 8, 5)


def attention(net):
    x = net("Reshape", net.conv("x", 3, 8), net.const([0, 8, -1], dtype=np.int64))
    q, k, v = (net("MatMul", x, net.weight(64, 32, inputs=64)) for _ in range(3))
    scores = net("Mul", net("MatMul", q, net("Transpose", k, perm=[0, 2, 1])), net.const(32**-0.5))
    mask = net.const(np.triu(np.full((8, 8), -np.inf), 1))
    x = net("MatMul", net("Softmax", net("Add", scores, mask), axis=-1), v)
    return net("LayerNormalization", x, net.const(np.ones(32)), axis=-1)


@pytest.mark.parametrize("keep_io", [True, False])
@pytest.mark.parametrize("build", [convolutions, attention])
def test_it_is_quantised_as_well_as_the_original(build, keep_io, tmp_path):
    net = Net()
    single = net.save(tmp_path / "single.onnx", build(net))
    half = halved(single, tmp_path / "half.onnx", keep_io=keep_io)
    data = net.samples(16)
    results = {}
    for source in (single, half):
        output = tmp_path / f"{source.stem}.int8.onnx"
        results[source] = qtool.quantize(source, output, data=data, calibrator="max", target="x86")
        assert interface(output) == interface(source)
        evaluation = qtool.evaluate(source, output, data, min_sqnr=25.0)
        assert evaluation.passed
    ours, original = results[half].verification, results[single].verification
    assert (ours.integer_layers, ours.layers, ours.kernels.get("QLinearConv")) == (
        original.integer_layers, original.layers, original.kernels.get("QLinearConv"),
    )  # fmt: skip
    assert ours.output_sqnr_db > original.output_sqnr_db - 1.0
    assert ours.preparation_sqnr_db > 90.0 or not keep_io
    assert ours.widening_sqnr_db > 50.0
    assert original.widening_sqnr_db == math.inf
    assert results[half].changes["widened"] > 10


HEAD = '<ir_version: 9, opset_import: ["":{opset}, "own":1, "com.microsoft":1]>\n'
CASES = {
    "casts to and fro": """g (float16[N,3,8,8] x) => (float16[N,4,8,8] y, float[N] s) {
        a = Conv(x, w)  b = Cast<to=1>(a)  c = Exp(b)  d = Cast<to=10>(c)  y = CastLike(d, x)
        m = ReduceMean<axes=[1,2,3], keepdims=0>(a)  s = Cast<to=1>(m)
    }""",
    "constants in attributes": """g (float16[N,3,8,8] x) => (float16[N,4,8,8] y) {
        a = Conv(x, w)  k = Constant<value=float16[1] {~2.0}>()  b = Mul(a, k)
        shape = Shape(b)  c = ConstantOfShape<value=float16[1] {~3.0}>(shape)
        y = Add(b, c)
    }""",
    "an If": """g (float16[N,3,8,8] x) => (float16[N,4,8,8] y) {
        a = Conv(x, w)  m = ReduceMean<keepdims=0>(a)  z = Constant<value=float16 {~0.0}>()  k = Greater(m, z)
        y = If(k)<
            then_branch = t () => (float16[N,4,8,8] p) { two = Constant<value=float16 {~2.0}>()  p = Mul(a, two) },
            else_branch = e () => (float16[N,4,8,8] q) <float16 h = {~0.5}> { q = Mul(a, h) }>
    }""",
    "a Loop": """g (float16[N,3,8,8] x) => (float16[N,4,8,8] y, float16[T,N,4,8,8] all) {
        a = Conv(x, w)  n = Constant<value=int64 {3}>()  go = Constant<value=bool {1}>()
        y, all = Loop(n, go, a)<
            body = b (int64 i, bool c, float16[N,4,8,8] s) => (bool d, float16[N,4,8,8] t, float16[N,4,8,8] u) {
            d = Identity(c)  f = Cast<to=10>(i)  t = Add(s, f)  u = Neg(t) }>
    }""",
    "a Scan": """g (float16[N,3,8,8] x) => (float16[N,8,8] y) {
        a = Conv(x, w)  b = Transpose<perm=[1,0,2,3]>(a)  h = ReduceSum<keepdims=0>(b, zero)
        y, seq = Scan<num_scan_inputs=1,
            body = c (float16[N,8,8] s, float16[N,8,8] p) => (float16[N,8,8] t, float16[N,8,8] u) {
            t = Add(s, p)  u = Neg(t) }>(h, b)
    }""",
    "a function": """g (float16[N,3,8,8] x) => (float16[N,4,8,8] y) { a = Conv(x, w)  y = own.F(a) }
        <domain: "own", opset_import: ["":17]>
        F (i) => (o) { two = Constant<value=float16 {~2.0}>()  t = Cast<to=10>(i)  o = Mul(t, two) }""",
    "a sequence": """g (float16[N,3,8,8] x) => (float16[N,8,8,8] y) {
        a = Conv(x, w)  e = SequenceEmpty<dtype=10>()  s = SequenceInsert(e, a)  t = SequenceInsert(s, a)
        y = ConcatFromSequence<axis=1>(t)
    }""",
    "operators of onnxruntime's own, whose types nobody infers": """g (float16[N,3,8,8] x) => (float16[N,4,8,8] y) {
        a = Conv(x, w)  b = com.microsoft.Gelu(a)  c = Conv(b, v)  d = Cast<to=1>(c)  e = Cast<to=10>(d)
        y = com.microsoft.FastGelu(e)
    }""",
    "the bits": """g (float16[N,3,8,8] x) => (float16[N,4,8,8] y) {
        a = Conv(x, w)  b = BitCast<to=5>(a)  c = BitCast<to=10>(b)  d = Neg(c)  y = Conv(d, v)
    }""",
    "inputs handed through": """g (float16[N,3,8,8] x) => (float16[N,4,8,8] y, float16[N,3,8,8] z, float16[4,3,1,1] u) {
        y = Conv(x, w)  z = Identity(x)  u = Identity(w)
    }""",
}  # fmt: skip


def written(text, path, opset=17, kind=np.float16):
    # the parser wants the bits of float16 constants
    text = re.sub(r"~([0-9.]+)", lambda found: str(int(np.float16(found[1]).view(np.uint16))), text)
    model = parser.parse_model(HEAD.format(opset=opset) + text)
    rng = np.random.default_rng(0)
    for name, shape in {"w": (4, 3, 1, 1), "v": (4, 4, 1, 1)}.items():
        array = (rng.normal(size=shape) / 2).astype(kind)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "zero"))
    onnx.save(model, path)
    return path


SAMPLES = {"x": np.random.default_rng(3).normal(size=(6, 3, 8, 8)).astype(np.float16)}


@pytest.mark.parametrize("name", CASES)
def test_every_place_that_names_the_type(name, tmp_path):
    opset = 26 if name == "the bits" else 17
    if opset > onnx.defs.onnx_opset_version():
        pytest.skip(f"onnx {onnx.__version__} does not know opset {opset}")
    source = written(CASES[name], tmp_path / "m.onnx", opset)
    prepared = prepare(model_io.load(source))
    data = model_io.to_bytes(prepared.model)
    onnx.checker.check_model(onnx.load_from_string(data))
    ours, theirs = ort.InferenceSession(data), ort.InferenceSession(source)
    assert [(v.name, v.type) for v in ours.get_outputs()] == [(v.name, v.type) for v in theirs.get_outputs()]
    for a, b in zip(theirs.run(None, SAMPLES), ours.run(None, SAMPLES), strict=True):
        assert a.dtype == b.dtype
        assert signal_to_noise(a, b) > 55.0
    half = half_tensors(onnx.load_from_string(data).graph)
    assert half == set() or (name == "the bits" and len(half) == 2)
    result = qtool.quantize(source, tmp_path / "q.onnx", data=SAMPLES, calibrator="max")
    assert result.verification.integer_layers >= 1
    assert interface(tmp_path / "q.onnx") == interface(source)


def rows(**more):
    return [{"x": SAMPLES["x"][k : k + 1], **{name: found[k] for name, found in more.items()}} for k in range(6)]


def test_loops_that_take_no_step_in_some_samples(tmp_path):
    """onnxruntime gives what these stack the shape that the body says."""
    body = """body = b (int64 i, bool c, float16[{0}] s) => (bool d, float16[{0}] t, float16[{0}] u) {{
        d = Identity(c)  t = Tanh(s)  u = Neg(t) }}"""
    text = f"""g (float16[N,3,8,8] x, int64 n) => (float16[N,4,8,8] y, float16[T,N,4,8,8] all,
        float16[U,4,3,1,1] more) {{ a = Conv(x, w)  go = Constant<value=bool {{1}}>()
        y, all = Loop(n, go, a)<{body.format("N,4,8,8")}>  last, more = Loop(n, go, w)<{body.format("4,3,1,1")}> }}"""
    source, data = written(text, tmp_path / "m.onnx"), rows(n=[np.array(k % 3) for k in range(6)])
    qtool.quantize(source, tmp_path / "q.onnx", data=data, form="static", calibrator="max", partial=False)
    for name in ("m.onnx", "q.onnx"):
        found = ort.InferenceSession(tmp_path / name).run(None, data[0])
        assert [array.shape for array in found] == [(1, 4, 8, 8), (0, 0, 4, 8, 8), (0, 4, 3, 1, 1)]


def test_an_output_whose_size_is_another_one_in_float16(tmp_path):
    text = """g (float16[N,3,8,8] x, float16[N,4,8,8] n) => (float16[N,4,8,8] a, float16[M] z) {
        a = Conv(x, w)  r = Constant<value_ints=[-1]>()  all = Reshape(a, r)  others = Reshape(n, r)
        k = Greater(all, others)  z = Compress(all, k) }"""
    source = written(text, tmp_path / "m.onnx")
    half = ort.InferenceSession(source)
    made = [half.run(["a"], feeds)[0] for feeds in rows(n=np.zeros((6, 1, 4, 8, 8), np.float16))]
    data = rows(n=made)
    single = ort.InferenceSession(model_io.to_bytes(prepare(model_io.load(source)).widened))
    # a Reshape is one of float16, so that what the Conv makes is rounded before it is compared
    assert any(half.run(["z"], feeds)[0].size != single.run(["z"], feeds)[0].size for feeds in data)
    result = qtool.quantize(source, tmp_path / "q.onnx", data=data, form="static", calibrator="max", partial=False)
    assert result.verification.widening_sqnr_db > 55.0


@pytest.mark.parametrize(
    "made", ["RandomNormalLike<dtype=10>(a)", "EyeLike<dtype=10>(m)", "HannWindow<output_datatype=10>(n)"]
)
def test_what_makes_a_tensor_of_the_type(made, tmp_path):
    """onnxruntime has some of these in float32 alone."""
    text = f"""g (float16[N,3,8,8] x) => (float16[N,4,8,8] y) {{
        a = Conv(x, w)  m = Constant<value=int64[1,8] {{0,0,0,0,0,0,0,0}}>()  n = Constant<value=int64 {{8}}>()
        r = {made}  y = Mul(a, r) }}"""
    data = model_io.to_bytes(prepare(model_io.load(written(text, tmp_path / "m.onnx"))).model)
    assert half_tensors(onnx.load_from_string(data).graph) == set()
    assert ort.InferenceSession(data).run(None, SAMPLES)[0].dtype == np.float16


@pytest.mark.parametrize("kind", ["seq(float16[N,4,8,8])", "optional(float16[N,4,8,8])"])
def test_an_output_that_cannot_be_cast(kind, tmp_path):
    made = "SequenceConstruct(a)" if "seq" in kind else "Optional(a)"
    text = f"g (float16[N,3,8,8] x) => ({kind} y) {{ a = Conv(x, w)  y = {made} }}"
    with pytest.raises(ModelError, match=r"output 'y' is .*cannot be cast"):
        qtool.calibrate(written(text, tmp_path / "m.onnx"), SAMPLES)


def test_an_old_opset(tmp_path):
    text = """g (float16[N,3,8,8] x) => (float16[N,4,8,8] y) {
        a = Conv(x, w)  b = Unsqueeze<axes=[0]>(a)  c = Squeeze<axes=[0]>(b)  y = Conv(c, v) }"""
    result = qtool.quantize(written(text, tmp_path / "m.onnx", opset=11), tmp_path / "q.onnx", data=SAMPLES)
    assert result.changes["opset"] == 13
    assert result.verification.integer_layers == 2


def test_statistics_are_those_of_float32(tmp_path):
    """What overflows in float16 does not; ranges are exact; the outputs that the model gave are the same."""
    text = """g (float16[N,3,8,8] x) => (float16[N,4,8,8] y) {
        k = Constant<value=float16 {~60000.0}>()  a = Conv(x, w)  b = Mul(a, k)  c = Mul(b, k)  r = Relu(c)
        h = Constant<value=int64[4] {1, 1, 8, 8}>()  l = Expand(k, h)  d = Div(r, l)  e = Div(d, l)  y = Conv(e, v) }"""
    source = written(text, tmp_path / "m.onnx")
    constants = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in onnx.load(source).graph.initializer}
    exact = np.einsum("oi,nihw->nohw", constants["w"][:, :, 0, 0], SAMPLES["x"].astype(np.float64))
    statistics = qtool.calibrate(source, SAMPLES).statistics
    found = {name: histogram.maximum for name, histogram in statistics.tensors.items()}
    assert found["r"] == pytest.approx(exact.max() * 60000.0**2, rel=1e-5)
    assert found["e"] == pytest.approx(exact.max(), rel=1e-5)
    result = qtool.quantize(source, tmp_path / "q.onnx", calibration=statistics, calibrator="max")
    assert result.verification.output_sqnr_db > 25.0
    y = ort.InferenceSession(tmp_path / "q.onnx").run(None, SAMPLES)[0]
    wanted = np.einsum("oi,nihw->nohw", constants["v"][:, :, 0, 0], np.maximum(exact, 0.0))
    assert signal_to_noise(wanted, y) > 25.0


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A classifier with a float16 interface."""
    folder = tmp_path_factory.mktemp("half")
    net = Net()
    single = net.save(folder / "single.onnx", convolutions(net))
    return halved(single, folder / "half.onnx", keep_io=False)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_data_of_any_float_type(half, kind, tmp_path):
    samples = {"x": np.random.default_rng(1).normal(size=(8, 3, 8, 8)).astype(np.float16)}
    files = []
    for name, array in (("a.npz", samples["x"]), ("b.npz", samples["x"].astype(kind))):
        np.savez(tmp_path / name, x=array)
        files.append(qtool.calibrate(half, tmp_path / name, tmp_path / f"{name}.calib").output.read_bytes())
    assert files[0] == files[1]


def test_data_that_the_type_cannot_hold(half):
    with pytest.raises(DataError, match=r"sample 2: .*'x' holds 70000\.0, which float16 cannot hold"):
        qtool.calibrate(half, {"x": np.array([0, 1, 7e4])[:, None, None, None] * np.ones((3, 3, 8, 8))})


def test_pictures(half, tmp_path):
    pictures = np.random.default_rng(1).integers(0, 256, (8, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "p.npz", x=pictures)
    settings = {"color": "RGB", "layout": "NCHW", "scale": 1 / 255, "mean": [0.5] * 3, "std": [0.25] * 3}
    ours = qtool.calibrate(half, tmp_path / "p.npz", preprocess=settings).statistics.tensors
    arrays = ((pictures.astype(np.float32) * np.float32(1 / 255) - 0.5) / 0.25).transpose(0, 3, 1, 2)
    other = qtool.calibrate(half, {"x": arrays}).statistics.tensors
    assert {name: h.maximum for name, h in ours.items()} == {name: h.maximum for name, h in other.items()}


def test_every_command(half, tmp_path):
    rng = np.random.default_rng(1)
    data = {"x": rng.normal(size=(24, 3, 8, 8)).astype(np.float32)}
    scores = ort.InferenceSession(half).run(None, {"x": data["x"].astype(np.float16)})[0]
    labelled = {**data, "labels": scores.argmax(1)}
    np.savez(tmp_path / "d.npz", **labelled)
    qtool.calibrate(half, tmp_path / "d.npz", tmp_path / "m.calib")
    qtool.quantize(half, tmp_path / "q.onnx", calibration=tmp_path / "m.calib")
    evaluation = qtool.evaluate(half, tmp_path / "q.onnx", tmp_path / "d.npz", metrics=["top1", "sqnr"])
    assert evaluation.candidates[0].sqnr_db > 25.0
    ranking = qtool.sensitivity(half, tmp_path / "d.npz", calibration=tmp_path / "m.calib")
    assert len(ranking.layers) == 4
    tuned = qtool.tune(half, tmp_path / "d.npz", tmp_path / "t.onnx", max_drop="20%")
    assert tuned.met
    assert interface(tmp_path / "t.onnx") == interface(half)


def test_the_noise_of_float16_is_no_error_of_preparation(half):
    """The limit follows from the depth; past it, and only there, the model is refused."""
    widened = prepare(model_io.load(half)).widened
    limit = rounding_db(widened)
    # a Cast, three convolutions (the last of which is added to what it reads), seven nodes, a Gemm, a Cast
    assert limit == pytest.approx(20 * math.log10(2**11 / 4 / math.sqrt(1 + 27 + 72 + 72 + 6 + 8 + 1)))
    check_rounding({"y": limit + 0.1, "z": math.inf}, limit)
    with pytest.raises(VerificationError, match=r"output 'y' of the float16 model lies \d+\.\d dB from"):
        check_rounding({"z": math.inf, "y": limit - 0.1}, limit)


def test_a_wrong_widening_is_found(half, tmp_path, monkeypatch):
    right = widen.float16_to_float32

    def wrong(model):
        count = right(model)
        weight = next(v for v in model.graph.initializers.values() if v.shape.rank() == 2)
        weight.const_value = type(weight.const_value)(-weight.const_value.numpy(), name=weight.name)
        return count

    monkeypatch.setattr(widen, "float16_to_float32", wrong)
    with pytest.raises(VerificationError, match="which rounding does not explain"):
        qtool.quantize(half, tmp_path / "q.onnx", data={"x": SAMPLES["x"]})
    assert not (tmp_path / "q.onnx").exists()


def test_a_model_whose_nodes_are_not_sorted(half, tmp_path):
    """As onnxruntime's own converter leaves them; but what is read must be made."""
    model = onnx.load(half)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    onnx.save(model, tmp_path / "m.onnx")
    data = {"x": np.random.default_rng(0).normal(size=(2, 3, 8, 8))}
    qtool.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", data=data)
    qtool.quantize(half, tmp_path / "r.onnx", data=data)
    fed = {"x": data["x"].astype(np.float16)}
    ours, other = (ort.InferenceSession(tmp_path / name).run(None, fed)[0] for name in ("q.onnx", "r.onnx"))
    np.testing.assert_array_equal(ours, other)
    model.graph.node[3].input[0] = "nothing"
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="reads 'nothing', which nothing makes"):
        qtool.calibrate(tmp_path / "m.onnx", data)


BRAIN = {
    "an input": "g (bfloat16[N,3,8,8] x) => (float[N,4,8,8] y) { c = Cast<to=1>(x)  y = Conv(c, w) }",
    "a layer": """g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
        b = Conv(x, w)  c = Cast<to=16>(b)  d = Add(c, c)  y = Cast<to=1>(d) }""",
}  # fmt: skip


@pytest.mark.parametrize("name", BRAIN)
def test_bfloat16_is_refused_in_one_line(name, tmp_path):
    source = written(BRAIN[name], tmp_path / "m.onnx", kind=np.float32)
    with pytest.raises(
        ModelError, match=r"m\.onnx: tensor '\w+' is bfloat16, .* export the model in float32 or float16$"
    ):
        qtool.calibrate(source, {"x": SAMPLES["x"].astype(np.float32)})


def test_a_bfloat16_output_is_measured_as_it_is(tmp_path):
    text = "g (float[N,3,8,8] x) => (bfloat16[N,4,8,8] y) { c = Conv(x, w)  y = Cast<to=16>(c) }"
    source = written(text, tmp_path / "m.onnx", kind=np.float32)
    data = {"x": SAMPLES["x"].astype(np.float32)}
    qtool.quantize(source, tmp_path / "q.onnx", data=data)
    assert qtool.evaluate(source, tmp_path / "q.onnx", data).candidates[0].sqnr_db > 30.0
    kind = onnx.load(tmp_path / "q.onnx").graph.output[0].type.tensor_type.elem_type
    assert kind == onnx.TensorProto.BFLOAT16


def test_weights_that_are_stored_as_bfloat16(tmp_path):
    text = "g (float[N,3,8,8] x) => (float[N,4,8,8] y) { u = Cast<to=1>(s)  y = Conv(x, u) }"
    source = written(text, tmp_path / "m.onnx", kind=np.float32)
    model = onnx.load(source)
    weight = numpy_helper.to_array(model.graph.initializer[0])
    bits = (weight.view(np.uint32) >> 16).astype(np.uint16)
    model.graph.initializer.append(
        helper.make_tensor("s", TensorProto.BFLOAT16, weight.shape, bits.tobytes(), raw=True)
    )
    onnx.save(model, source)
    result = qtool.quantize(source, tmp_path / "q.onnx", data={"x": SAMPLES["x"].astype(np.float32)})
    assert result.verification.integer_layers == 1


class TestZoo:
    """The accuracy of the int8 model does not depend on which of the two it was made of."""

    pytestmark = zoo

    @pytest.mark.slow
    def test_mobilenet(self, tmp_path):
        model = {m.name: m for m in vision_models(ZOO)}["mobilenetv2"]
        figures = []
        for source in (model.model, halved(model.model, tmp_path / "half.onnx", keep_io=False)):
            qtool.quantize(
                source, tmp_path / "q.onnx", data=model.calibration, samples=32, preprocess=model.preprocess,
                calibrator="percentile", bias_correction="off", target="x86", partial=False,
            )  # fmt: skip
            evaluation = qtool.evaluate(
                source, tmp_path / "q.onnx", model.evaluation, preprocess=model.preprocess, samples=100
            )
            figures.append(evaluation.candidates[0])
        assert figures[1].sqnr_db == pytest.approx(figures[0].sqnr_db, abs=1.5)
        top1 = [figure.scores[0].value for figure in figures]
        assert top1[1] == pytest.approx(top1[0], abs=0.04)

    @pytest.mark.slow
    def test_minilm(self, tmp_path):
        folder = ZOO / "minilm_sst2"
        figures = []
        for source in (folder / "model.onnx", halved(folder / "model.onnx", tmp_path / "half.onnx", keep_io=True)):
            qtool.quantize(
                source, tmp_path / "q.onnx", data=folder / "calib.npz", samples=8, calibrator="max",
                bias_correction="off", smoothing="off", target="x86", partial=False,
            )  # fmt: skip
            evaluation = qtool.evaluate(source, tmp_path / "q.onnx", folder / "eval.npz", samples=20, batch_size=10)
            figures.append(evaluation.candidates[0])
        assert figures[1].sqnr_db == pytest.approx(figures[0].sqnr_db, abs=2.0)


def test_what_stays_float_is_stored_in_float16(tmp_path):
    net = Net(16, 8, 8)
    hidden = net("Relu", net.conv("x", 16, 48, name="first"))
    y = net.conv(net("Relu", net.conv(hidden, 48, 48, name="middle")), 48, 8)
    source = halved(net.save(tmp_path / "float32.onnx", y), tmp_path / "float16.onnx", keep_io=True)
    result = qtool.quantize(
        source, tmp_path / "int8.onnx", data=[net.samples(2)], exclude=("middle",), calibrator="max"
    )
    assert list(result.verification.float_layers) == ["middle"]
    assert result.size < result.float_size
    stored = {i.data_type for i in onnx.load(result.output).graph.initializer if np.prod(i.dims) == 48 * 48 * 9}
    assert stored == {TensorProto.FLOAT16}
    assert "weights of layers in float" in {part.what for part in result.parts}
