"""Bodies of onnxruntime's own operators, in models of any opset."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from qtool.graph import contrib, model_io
from qtool.runtime.session import Session


@pytest.mark.parametrize("version", [13, 15, 17, 20, 21])
def test_the_bodies_are_valid_at_the_opset_of_the_model(tmp_path, version):
    """ONNX's checker takes the file, as does qtool again, and the bodies compute what onnxruntime's kernels do."""
    made = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Gelu", ["x"], ["mid"], "first", domain=contrib.DOMAIN),
                helper.make_node("FastGelu", ["mid"], ["y"], "second", domain=contrib.DOMAIN),
            ],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 5])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 5])],
        ),
        opset_imports=[helper.make_opsetid("", version), helper.make_opsetid(contrib.DOMAIN, 1)],
        ir_version=9,
    )
    model = ir.serde.deserialize_model(made)
    contrib.define(model)
    written = ir.serde.serialize_model(model)
    onnx.checker.check_model(written, full_check=True)
    assert {f.name: f.opset_import[0].version for f in written.functions} == {"Gelu": version, "FastGelu": version}
    file = tmp_path / "gelu.onnx"
    onnx.save(written, file)
    assert [node.op_type for node in model_io.load(file).model.graph] == ["Gelu", "FastGelu"]
    x = np.linspace(-3, 3, 10, dtype=np.float32).reshape(2, 5)
    expected = Session(file).run({"x": x})["y"]
    np.testing.assert_allclose(ReferenceEvaluator(written).run(None, {"x": x})[0], expected, atol=1e-5)
