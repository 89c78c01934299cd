"""Models with bodies of If: what stands around them is trained, what stands in them is named."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import qtool
from qtool.core.errors import UsageError
from qtool.report.quantize import quantized_text

torch = pytest.importorskip("torch", reason="needs the extra finetune")

from qtool.report.finetune import finetuned_text

CHOOSES = """m = ReduceMean<keepdims=0>(x)  z = Constant<value_float=0.0>()  k = Greater(m, z)
    i = If(k)<then_branch = t () => (float[N,16] to) { to = MatMul(a, w2) },
              else_branch = e () => (float[N,16] eo) { eo = Gemm(a, w2, b) }>"""
AROUND = f"g (float[N,16] x) => (float[N,16] y) {{ a = MatMul(x, w1)  {CHOOSES}  s = Add(a, i)  y = MatMul(s, w3) }}"
THROUGH = f"g (float[N,16] x) => (float[N,16] y) {{ a = MatMul(x, w1)  {CHOOSES}  y = Tanh(i) }}"


def written(text, path):
    model = parser.parse_model('<ir_version: 8, opset_import: ["": 17]>\n' + text)
    rng = np.random.default_rng(0)
    for name, shape in {"w1": (16, 16), "w2": (16, 16), "w3": (16, 16), "b": (16,)}.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float32) / 4, name))
    inside = [n for node in model.graph.node for a in node.attribute for n in a.g.node]
    for node in [*model.graph.node, *inside]:
        node.name = node.output[0]
    onnx.save(model, path)
    return path


def rows():
    signs = np.where(np.arange(24) % 2, 0.4, -0.4)[:, None]
    return [{"x": row[None]} for row in (np.random.default_rng(1).normal(size=(24, 16)) + signs).astype(np.float32)]


@pytest.mark.long
def test_layers_in_bodies_stay_as_they_are_and_are_named(tmp_path):
    source, plan = written(AROUND, tmp_path / "m.onnx"), tmp_path / "plan.json"
    before = qtool.quantize(source, tmp_path / "q.onnx", data=rows(), form="static", target="x86", save_plan=plan).plan
    result = qtool.finetune(source, rows(), tmp_path / "f.onnx", plan=plan, steps=2, threads=1)
    assert result.learned == {"weights": 2 * 256, "scales": 2}
    assert set(result.untrained) == {"to", "eo"}
    assert "to, eo: in a body of If 'i', which onnxruntime runs" in finetuned_text(result)
    # trained or not, what a body holds is what quantize planned
    for row in before.weights:
        if row.tensor == "w2":
            assert row in result.plan.weights
    assert [row for row in before.activations if "@" in row.tensor] == [
        row for row in result.plan.activations if "@" in row.tensor
    ]


@pytest.mark.long
def test_what_reaches_no_output_but_through_a_body_is_refused_and_not_proposed(tmp_path):
    proposed = {}
    for name, text in {"around": AROUND, "through": THROUGH}.items():
        source = written(text, tmp_path / f"{name}.onnx")
        result = qtool.quantize(
            source, tmp_path / "q.onnx", data=rows(), form="static", target="x86", partial=False, min_sqnr=90.0
        )
        proposed[name] = "qtool finetune" in quantized_text(result)
    assert proposed == {"around": True, "through": False}
    with pytest.raises(UsageError, match=r"nothing of it can be trained .*in a body of If 'i'"):
        qtool.finetune(tmp_path / "through.onnx", rows(), tmp_path / "f.onnx", steps=2, threads=1, target="x86")
