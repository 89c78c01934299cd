"""ONNX's own tests of nodes, for every operator that has a row: what the standard says it computes."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra finetune")

from onnx import TensorProto, numpy_helper
from onnx.backend.test.case.node import collect_testcases

from qtool.finetuning.interpreter import Interpreter
from qtool.finetuning.operators import OPERATORS
from qtool.graph.model_io import from_bytes

AS_ONNXRUNTIME = {
    "test_resize_downsample_scales_linear_align_corners",
    "test_resize_downsample_scales_cubic_align_corners",
}
"""The standard takes the length that the scale asks for, onnxruntime the length that it is rounded to; so do we."""
OUTSIDE = (
    "reads or makes",
    "makes numbers of a type",
    "has its samples in front",
    "is told whether to train",
    "its output",
    "has coordinate_transformation_mode tf_crop_and_resize",
    "smooths what it makes smaller",
    "reduces what it scatters by",
    "has softcap",
    "has left_window",
    "is told how many keys count",
)
"""What the rows leave to onnxruntime, by the beginning of the reason."""
UNTRIED = {("", "SimplifiedLayerNormalization"), ("", "GlobalLpPool")}
"""Without a test of ONNX's."""
HALF = 5e-3
"""Relative; sums in float16 depend on their order."""


def array(value):
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def assert_as_said(case, interpreter):
    for fed, made in case.data_sets:
        names = [value.name for value in case.model.graph.input if value.name]
        got = interpreter.run({name: array(value) for name, value in zip(names, fed, strict=False)})
        for info, value in zip(case.model.graph.output, made, strict=True):
            want, found = array(value), got[info.name].numpy()
            assert (found.shape, found.dtype) == (want.shape, want.dtype), case.name
            if want.dtype.kind == "f":
                relative, absolute = (HALF, HALF) if want.dtype == np.float16 else (case.rtol, 1e-5)
                np.testing.assert_allclose(found, want, rtol=relative, atol=absolute, err_msg=case.name)
            else:
                np.testing.assert_array_equal(found, want, case.name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_rows_compute_what_the_standard_says():
    tried = set()
    for case in collect_testcases(None):
        nodes = [(node.domain, node.op_type) for node in case.model.graph.node]
        if not nodes or not OPERATORS.keys() >= set(nodes) or case.name in AS_ONNXRUNTIME:
            continue
        interpreter = Interpreter(from_bytes(case.model.SerializeToString()))
        left = [border for border in interpreter.borders if border.outside]
        if left:
            assert left[0].why.startswith(OUTSIDE), left[0].says
            continue
        assert_as_said(case, interpreter)
        tried.update(nodes)
    assert {key for key in OPERATORS if not key[0]} - tried == UNTRIED
