"""Small quantised models as other tools write them, node by node."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(0)


class Net:
    """A model that is written node by node; `q`, `dq` and `fake` put Q/DQ there as they are asked for."""

    def __init__(self, shape: Sequence[int] = (1, 4, 8, 8), opset: int = 13, producer: str = "") -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))]
        self.opset, self.producer = opset, producer

    def constant(self, array: np.ndarray, name: str | None = None) -> str:
        name = name or f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def add(self, op: str, *inputs: str, name: str | None = None, domain: str = "", **attributes: object) -> str:
        output = name or f"t{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op, list(inputs), [output], name=f"{op}_{output}", domain=domain, **attributes)
        )
        return output

    def grid(self, scale: object, zero: object, dtype: str = "uint8") -> list[str]:
        return [self.constant(np.array(scale, np.float32)), self.constant(np.array(zero, dtype))]

    def fake(self, value: str, scale: object = 0.05, zero: object = 128, dtype: str = "uint8", axis: int = 1) -> str:
        """Q and DQ of one grid; of several numbers along `axis`."""
        grid = self.grid(scale, zero, dtype)
        more = {"axis": axis} if np.ndim(scale) else {}
        return self.add("DequantizeLinear", self.add("QuantizeLinear", value, *grid, **more), *grid, **more)

    def weight(self, shape: Sequence[int], axis: int | None = None, dtype: str = "int8", most: int = 127) -> str:
        """A stored weight behind its DQ, with one scale, or one for each place of an axis."""
        stored = RNG.integers(-most, most + 1, shape).astype(dtype)
        stored.reshape(-1)[0] = most
        scale = np.float32(0.01) if axis is None else np.linspace(0.002, 0.02, shape[axis], dtype=np.float32)
        zero = np.zeros(np.shape(scale), dtype)
        more = {} if axis is None else {"axis": axis}
        return self.add("DequantizeLinear", self.constant(stored), *self.grid(scale, zero, dtype), **more)

    def bias(self, scale: object, size: int = 4) -> str:
        stored = RNG.integers(-500, 500, size).astype(np.int32)
        return self.add(
            "DequantizeLinear", self.constant(stored), *self.grid(np.full(size, scale), np.zeros(size), "int32"), axis=0
        )

    def conv(self, value: str, bias: str | None = None, **weight: object) -> str:
        inputs = [value, self.weight((4, 4, 3, 3), **weight), *([bias] if bias else [])]
        return self.add("Conv", *inputs, pads=[1, 1, 1, 1])

    def write(self, path: Path, *outputs: str) -> Path:
        infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, infos, self.constants)
        domains = {node.domain for node in self.nodes if node.domain}
        imports = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
        model = helper.make_model(graph, opset_imports=imports, producer_name=self.producer)
        model.ir_version = 8
        onnx.save(model, str(path))
        return path
