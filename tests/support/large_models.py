"""A stack of MatMuls with its weights in a file beside it, written one at a time."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper


def write_stack(path: Path, layers: int, width: int) -> Path:
    """x [N, T, width] -> y; layers of MatMul and Relu, float32, weights as external data."""
    rng = np.random.default_rng(5)
    nodes, weights, value = [], [], "x"
    data = path.with_name(path.name + ".weights")
    with data.open("wb") as stream:
        for layer in range(layers):
            name = f"w{layer}"
            offset = stream.tell()
            for _ in range(width):
                stream.write((rng.standard_normal(width, np.float32) * np.float32(1.4 / width**0.5)).tobytes())
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[width, width])
            tensor.data_location = TensorProto.EXTERNAL
            for key, entry in (("location", data.name), ("offset", offset), ("length", stream.tell() - offset)):
                tensor.external_data.add(key=key, value=str(entry))
            weights.append(tensor)
            nodes.append(helper.make_node("MatMul", [value, name], [f"m{layer}"], name=f"layer{layer}"))
            value = "y" if layer == layers - 1 else f"r{layer}"
            nodes.append(helper.make_node("Relu", [f"m{layer}"], [value], name=f"relu{layer}"))
    shape: list[int | str] = ["N", "T", width]
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, shape) for end in ("x", "y")]
    graph = helper.make_graph(nodes, "stack", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
