"""rewrite: what one row of a plan replaces, the next ones find under its name."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qtool
from tests.support.patterns import Net
from tests.support.since import has


@pytest.mark.parametrize("form", ["auto", "static", "dynamic", "weight-only"])
def test_a_static_layer_reads_a_table_of_8_bit_rows(form, tmp_path):
    """Gather -> Gemm: the Gather becomes several nodes, and what it makes is quantised."""
    net = Net()
    rows = net("Gather", net.weight(4096, 32, inputs=4), "ids", name="embedding")
    y = net("MatMul", rows, net.weight(32, 8, inputs=32), name="head")
    graph = helper.make_graph(
        net.nodes, "g", [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N"])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", 8])],
        [numpy_helper.from_array(array, name) for name, array in net.constants.items()],
    )  # fmt: skip
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    data = {"ids": np.arange(64) * 7}
    result = qtool.quantize(path, tmp_path / "q.onnx", data=data, form=form)
    assert result.verification.output_sqnr_db > 30.0
    assert [row.tensor for row in result.plan.stored][:1] == ["c0"]
    # weight-only: onnxruntime multiplies it in blocks of integers
    assert result.verification.integer_layers == int(form != "weight-only" or has("blocks-by-channel"))
