"""How many layers of a model are integer arithmetic in what onnxruntime runs, counted in its own optimised graph."""

import tempfile
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime

INTEGER = {
    "QLinearConv",
    "ConvInteger",
    "QLinearMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "QGemm",
    "MatMulNBits",
    "DynamicQuantizeLSTM",
    "QAttention",
}
FLOAT = {"Conv", "FusedConv", "ConvTranspose", "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "LSTM", "GRU", "Attention"}


def integer_layers(model: Path) -> tuple[int, int]:
    """Layers with integer kernels, and all layers (convolutions, products, recurrences)."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        operators = Counter(_operators(onnx.load(options.optimized_model_filepath, load_external_data=False).graph))
    integer = sum(count for name, count in operators.items() if name in INTEGER)
    return integer, integer + sum(count for name, count in operators.items() if name in FLOAT)


def _operators(graph: onnx.GraphProto) -> list[str]:
    inner = [a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return [node.op_type for node in graph.node] + [name for body in inner for name in _operators(body)]
