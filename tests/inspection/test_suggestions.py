"""The options that a float model's inputs and outputs ask for, read off files that say them in many ways."""

import json

import numpy as np
import onnx
import pytest
from onnx import parser

import qtool
from qtool.core.state import State
from qtool.graph import edit, model_io
from qtool.inspection.suggestions import find_states, suggest


def saved(tmp_path, graph, metadata=None):
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {graph}')
    onnx.helper.set_model_props(model, metadata or {})
    onnx.save(model, tmp_path / "m.onnx")
    return model_io.load(tmp_path / "m.onnx")


def suggested(tmp_path, graph, metadata=None):
    """Option -> value, of every line."""
    loaded = saved(tmp_path, graph, metadata)
    lines = [line.partition("': ")[0].split("='", 1) for line in suggest(loaded.model, loaded.path)]
    return [(option, value.replace(f"{tmp_path}/", "")) for option, value in lines]


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("h", "hn"), ("h0", "hN"), ("c_0", "c_n"), ("state", "stateN"), ("hidden_in", "hidden_out"),
        ("past_0", "present_0"), ("conv_cache", "new_conv_cache"), ("rnnStateIn", "rnnStateOut"),
    ],
)  # fmt: skip
def test_a_state_is_known_by_its_names(tmp_path, given, taken):
    graph = f"(float[1,4] x, float[1,4] {given}) => (float[1,4] y, float[1,4] {taken}) "
    body = f"{{ y = Add(x, {given}) {taken} = Relu({given}) }}"
    assert suggested(tmp_path, graph + body) == [("state", f"{given}={taken}")]


@pytest.mark.parametrize(
    ("given", "taken", "shape"),
    [
        ("image", "mask", "1,4"),
        ("input_1", "output_1", "1,4"),
        ("state", "stateN", "1,5"),
        ("noisy", "noisy_out", "1,4"),
    ],
)
def test_what_only_looks_like_a_state_is_none(tmp_path, given, taken, shape):
    graph = f"(float[1,4] x, float[{shape}] {given}) => (float[1,4] y, float[1,4] {taken}) "
    body = f"{{ y = Relu(x) {taken} = Sigmoid(x) z = Relu({given}) }}"
    assert [option for option, _ in suggested(tmp_path, graph + body)] == []


def test_a_state_is_known_by_the_recurrence_that_begins_and_ends_with_it(tmp_path):
    graph = """(float[T,1,2] x, float[1,1,3] a, float[1,1,3] b) => (float[T,1,1,3] y, float[1,1,3] p, float[1,1,3] q)
      { y, p, q = LSTM<hidden_size = 3>(x, w, r, , , a, b) }"""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {graph}')
    for name, shape in (("w", (1, 12, 2)), ("r", (1, 12, 3))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name))
    onnx.save(model, tmp_path / "m.onnx")
    loaded = model_io.load(tmp_path / "m.onnx")
    found = find_states(loaded.model, edit.input_specs(loaded.model))
    assert [state for state, _ in found] == [State("a", "p"), State("b", "q")]
    assert found[0][1].startswith("LSTM ")


def test_texts_ask_for_a_tokenizer_and_padding_for_trimming(tmp_path):
    graph = (
        """(int64[N,T] input_ids, int64[N,T] attention_mask) => (int64[N,T] y) {y = Mul(input_ids, attention_mask)}"""
    )
    assert suggested(tmp_path, graph) == [("tokenizer", "tokenizer.json"), ("trim", "attention_mask")]
    (tmp_path / "tokenizer.json").write_text("{}")
    assert f"tokenizer='{tmp_path}/tokenizer.json'" in suggest(saved(tmp_path, graph).model, tmp_path / "m.onnx")[0]
    fixed = graph.replace("N,T", "N,128")
    assert [option for option, _ in suggested(tmp_path, fixed)] == ["tokenizer"]


def test_an_input_that_decides_a_branch_is_to_be_fixed_to_what_it_is_compared_with(tmp_path):
    graph = """(float[1,4] x, int64 sr) => (float[1,4] y) <int64 rate = {16000}> {
      c = Equal(sr, rate)
      y = If (c) <then_branch = t () => (float[1,4] a) { a = Relu(x) },
                  else_branch = e () => (float[1,4] b) { b = Abs(x) }>
    }"""
    assert suggested(tmp_path, graph) == [("fix", "sr=16000")]


@pytest.mark.parametrize(("rates", "options"), [((8000, 8000), ["fix='sr=8000"]), ((8000, 16000), [])])
def test_an_input_is_fixed_to_what_it_always_is_in_the_data(rates, options, tmp_path):
    graph = """(float[1,4] x, int64 sr) => (float[1,4] y) <int64 rate = {16000}> {
      c = Equal(sr, rate)
      y = If (c) <then_branch = t () => (float[1,4] a) { a = Relu(x) },
                  else_branch = e () => (float[1,4] b) { b = Abs(x) }>
    }"""
    loaded = saved(tmp_path, graph)
    examples = [{"x": np.zeros((1, 4), np.float32), "sr": np.array(rate)} for rate in rates]
    assert [line.partition("': ")[0] for line in suggest(loaded.model, loaded.path, examples)] == options


def test_work_in_bodies_is_that_of_the_data_and_unknown_without_any(tmp_path):
    graph = """(float[1,4] x, bool k) => (float[1,4] y) <float[4,4] w = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}> {
      a = MatMul(x, w)
      y = If (k) <then_branch = t () => (float[1,4] p) { p = MatMul(a, w) },
                  else_branch = e () => (float[1,4] q) { u = MatMul(a, w)  q = MatMul(u, w) }>
    }"""
    path = saved(tmp_path, graph).path
    unknown = qtool.inspect_model(path)
    assert unknown.macs is None and {layer.share for layer in unknown.layers} == {None}
    assert {one.macs_share for one in unknown.targets} == {None}
    known = qtool.inspect_model(
        path, data=[{"x": np.ones((1, 4), np.float32), "k": np.array(n == 0)} for n in range(4)]
    )
    assert {layer.output: layer.macs for layer in known.layers} == {"a": 16, "p": 4, "u": 12, "q": 12}
    assert known.macs == 44 and [line for line in known.suggestions if line.startswith("fix")] == []


@pytest.mark.parametrize(
    ("graph", "metadata", "preset"),
    [
        ("(float[N,3,224,224] x) => (float[N,1000] y) {y = Foo(x)}", {}, "imagenet"),
        ("(float[N,224,224,3] x) => (float[N,1000] y) {y = Foo(x)}", {}, "imagenet-nhwc"),
        ("(float[N,224,224,3] x) => (float[N,1001] y) {y = Foo(x)}", {}, "tf"),
        ("(uint8[N,3,224,224] x) => (float[N,10] y) {y = Foo(x)}", {}, "raw"),
        ("(float[1,1,28,28] x) => (float[1,10] y) {y = Foo(x)}", {}, "unit-gray"),
        ("(float[1,3,640,640] x) => (float[1,84,8400] y) {y = Foo(x)}", {}, "yolo"),
        ("(float[1,3,640,640] x) => (float[1,25200,85] y) {y = Foo(x)}", {}, "yolo"),
        ("(float[1,3,416,416] x) => (float[1,3549,85] y) {y = Foo(x)}", {}, "yolox"),
        ("(float[1,3,H,W] x) => (float[1,100,4] pred_boxes) {pred_boxes = Foo(x)}", {}, "detr"),
        ("(float[1,3,640,640] x) => (float[1,9] y) {y = Foo(x)}", {"author": "Ultralytics"}, "yolo"),
        ("(float[1,3,320,320] x) => (float[1,9] y) {y = Foo(x)}", {}, "PRESET"),
        ("(float[1,3,H,W] x) => (float[1,3,H,W] y) <float m = {0.45}> {z = Sub(x, m) y = Relu(z)}", {}, "unit"),
        ("(float[1,3,H,W] x) => (float[1,3,H,W] y) <float m = {127.5}> {z = Div(x, m) y = Relu(z)}", {}, "raw"),
        ("(float[1,3,H,W] x) => (float[1,3,H,W] y) <float m = {0.0039}> {z = Mul(x, m) y = Relu(z)}", {}, "raw"),
    ],
)
def test_the_preset_of_pictures(tmp_path, graph, metadata, preset):
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17, "d" : 1]> g {graph.replace("Foo", "d.Foo")}')
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, tmp_path / "m.onnx")
    loaded = model_io.load(tmp_path / "m.onnx")
    (line,) = suggest(loaded.model, loaded.path)
    assert line.startswith(f"preprocess='{preset}': input 'x' takes ")
    (tmp_path / "preprocess.json").write_text(json.dumps({"preset": "raw"}))
    (line,) = suggest(loaded.model, loaded.path)
    assert line.startswith(f"preprocess='{tmp_path}/preprocess.json'")


@pytest.mark.parametrize("shape", ["N,3,frames,160", "N,1,96,64", "1,3,8,8", "N,5,64,64", "N,3"])
def test_what_is_no_picture_asks_for_no_preprocessing(tmp_path, shape):
    assert suggested(tmp_path, f"(float[{shape}] x) => (float[{shape}] y) {{ y = Relu(x) }}") == []
