"""The makers of quantised models: by what they are recognised, and which of their options help."""

from collections.abc import Callable
from dataclasses import dataclass

from qtool.anatomy.grids import grid_of, is_constant
from qtool.anatomy.integers import NBITS
from qtool.anatomy.opened import Opened
from qtool.core.records.inspection import FOR_LATENCY
from qtool.graph.edit import Node
from qtool.graph.quantizers import is_quantizing


@dataclass(frozen=True, slots=True)
class Maker:
    """A tool that writes quantised models.

    name: in words. seen: whether a model is one of its. options: rule of `findings.py` -> what to set.
    meant: rules whose finds it leaves so on purpose, so that there is nothing to mend.
    """

    name: str
    seen: Callable[[Opened], bool]
    options: dict[str, str]
    meant: frozenset[str] = frozenset()


def _producer(*words: str) -> Callable[[Opened], bool]:
    return lambda model: any(word in model.producer.lower() for word in words)


def _names(*words: str) -> Callable[[Opened], bool]:
    def seen(model: Opened) -> bool:
        return any(any(word in (node.name or "").lower() for word in words) for node in model.nodes)

    return seen


def _domains(*words: str) -> Callable[[Opened], bool]:
    return lambda model: any(domain.startswith(words) for domain in model.opset)


def _metadata(*words: str) -> Callable[[Opened], bool]:
    return lambda model: any(key.lower().startswith(words) for key in model.metadata)


def _any(*ways: Callable[[Opened], bool]) -> Callable[[Opened], bool]:
    return lambda model: any(way(model) for way in ways)


def _all(*ways: Callable[[Opened], bool]) -> Callable[[Opened], bool]:
    return lambda model: all(way(model) for way in ways)


def _is_dynamic(model: Opened) -> bool:
    return form_of(model) == "dynamic"


THESE = "[these]"
"""In an option: a list of what a rule has found."""
# Sources: the makers' own documentation; each was tried with the version that tests or docs/inspect.md name
_ORT_UINT8 = (
    "quantize_static(activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, quant_format=QuantFormat.QDQ)"
)
_ORT_ALL = "run quant_pre_process first, and quantize_static without op_types_to_quantize and nodes_to_exclude"
_ORT = {
    "relu-zero-point": _ORT_UINT8,
    "signed-activations": _ORT_UINT8,
    "signed-kernel": _ORT_UINT8,
    "mixed-types": _ORT_UINT8,
    "wide-type": _ORT_UINT8,
    "conv-integer": "quantize_static with data, or quantize_dynamic(op_types_to_quantize=['MatMul', 'Gemm'])",
    "missing-output-q": _ORT_ALL,
    "missing-input-q": _ORT_ALL,
    "not-quantised": _ORT_ALL,
    "float-tail": _ORT_ALL,
    "batch-norm": "run quant_pre_process first, which folds batch normalisations",
    "reduced-range": "quantize_static(reduce_range=False)",
    "per-tensor": "quantize_static(per_channel=True)",
    "accuracy": f"nodes_to_exclude={THESE}, or another calibrate_method",
    "old-opset": "raise the opset to 13 with onnx.version_converter first",
}
_ORT_DYNAMIC = {
    "accuracy": f"quantize_dynamic(nodes_to_exclude={THESE}), or per_channel=True",
    "conv-integer": _ORT["conv-integer"],
    "per-tensor": "quantize_dynamic(per_channel=True)",
    "reduced-range": "quantize_dynamic(reduce_range=False)",
}
_NNCF_RANGES = (
    "nncf.quantize(preset=nncf.QuantizationPreset.MIXED, advanced_parameters=nncf.AdvancedQuantizationParameters("
    "activations_quantization_params=nncf.QuantizationParameters(per_channel=False)))"
)
_NNCF = {
    "vector-scale": _NNCF_RANGES,
    "signed-activations": _NNCF_RANGES,
    "relu-zero-point": _NNCF_RANGES,
    "batch-norm": "run onnxruntime's quant_pre_process on the float model first, which folds batch normalisations",
}
_TENSORRT = "its Q/DQ are placed for TensorRT: run it with onnxruntime's TensorRT provider"
_FOR_TENSORRT = dict.fromkeys(
    (
        "no-integers",
        "slow-pool",
        "not-quantised",
        "missing-output-q",
        "signed-activations",
        "relu-zero-point",
        "float-tail",
        "missing-input-q",
    ),
    _TENSORRT,
)
_QUARK = "get_default_config('U8S8_AAWS'), and not 'XINT8' or a config with int8 activations"


def _for_tensorrt(model: Opened) -> bool:
    """Weights in float behind a symmetric Q, by onnxruntime's quantiser, whose name ModelOpt leaves in the file too."""
    weights = [node for node in model.nodes if node.op_type == "QuantizeLinear" and is_constant(node.inputs[0])]
    return "onnx.quantize" in model.producer and bool(weights) and all(_is_symmetric(node) for node in weights)


def _is_symmetric(node: Node) -> bool:
    grid = grid_of(node)
    return grid.dtype == "int8" and not any(grid.zero_point)


def _outputs(word: str) -> Callable[[Opened], bool]:
    return lambda model: any(str(value.name).startswith(word) for node in model.nodes for value in node.outputs)


_LEFT = frozenset({
    "not-quantised", "missing-output-q", "missing-input-q", "float-tail", "no-kernel", "layout", "dynamic",
    "weights-only", "unequal-ranges", "float-constant", "seams", "slower-in-integers",
})  # fmt: skip
_FOLDED = "fold batch normalisations into the convolutions before Q/DQ are put there (torch.nn.utils.fuse_conv_bn_eval)"
_LATENCY = f"{FOR_LATENCY}: it leaves in float what is slower in integers on this machine"
OWN = Maker(
    "qtool",
    _any(_metadata("qtool"), _producer("qtool")),
    {
        "one-channel": _LATENCY,
        "slow-pool": _LATENCY,
        "signed-kernel": _LATENCY,
        "accuracy": "run qtool tune, which looks for the layers that have to stay in float",
    },
    _LEFT,
)
"""qtool itself: that it quantises the model again is no remedy."""
MAKERS = (
    OWN,
    Maker("NVIDIA ModelOpt", _any(_producer("modelopt"), _metadata("modelopt")), _FOR_TENSORRT),
    Maker("NVIDIA ModelOpt or onnxruntime.quantization", _for_tensorrt, _FOR_TENSORRT),
    Maker(
        "AMD Quark",
        _any(_producer("quark"), _metadata("quark"), _domains("com.amd.quark", "com.vai.quantize")),
        {
            "signed-activations": _QUARK,
            "relu-zero-point": _QUARK,
            "signed-kernel": _QUARK,
            "mixed-types": _QUARK,
            "bias-scale": _QUARK,
            "no-integers": _QUARK,
        },
    ),
    Maker("NNCF", _any(_producer("nncf"), _metadata("nncf"), _names("nncf"), _outputs("dq_output_")), _NNCF),
    Maker("Intel Neural Compressor", _any(_producer("neural-compressor", "neural_compressor"), _metadata("inc.")), {}),
    Maker("Brevitas", _any(_producer("brevitas"), _domains("onnx.brevitas"), _names("/export_handler")), {}),
    Maker("pytorch-quantization", _names("input_quantizer/", "weight_quantizer/"), _FOR_TENSORRT),
    Maker("onnxruntime.quantization", _all(_producer("onnx.quantize"), _is_dynamic), _ORT_DYNAMIC),
    Maker("onnxruntime.quantization", _producer("onnx.quantize"), _ORT),
    Maker("tf2onnx", _producer("tf2onnx"), {}),
    Maker("PyTorch", _producer("pytorch"), {"batch-norm": _FOLDED}),
)


def maker_of(model: Opened) -> Maker | None:
    """Return who seems to have written a quantised model; None where nothing says it."""
    return next((maker for maker in MAKERS if maker.seen(model)), None)


# domain -> what to do, where onnxruntime knows its operators not
_STRANGE = {
    ("qonnx", "onnx.brevitas", "finn"): "QONNX's: export it with Q/DQ in their place (Brevitas: export_onnx_qcdq)",
    ("com.vai", "com.amd.quark"): "AMD Quark's: load its library of operators, or quantise with 'U8S8_AAWS'",
    ("trt", "tensorrt"): "TensorRT's: run it with that, or quantise the float model for this device",
}


def strange_operators(model: Opened) -> str:
    """Return whose operators a model holds that onnxruntime does not know, and what to do; "" where it knows all."""
    for domains, whose in _STRANGE.items():
        found = next((node for node in model.nodes if node.domain.startswith(domains)), None)
        if found is not None:
            return f"its operators ({found.op_type} and others) are {whose}"
    return ""


def form_of(model: Opened) -> str:
    """Return the form of a quantised model in words."""
    ops = {node.op_type for node in model.nodes if is_quantizing(node.op_type)}
    has_q, has_dq = "QuantizeLinear" in ops, "DequantizeLinear" in ops
    written = ops - {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
    parts = []
    if has_q and has_dq and not any(op.startswith(("QLinear", "QGemm")) for op in written):
        parts.append("QDQ")
    if any(op.startswith("QLinear") or op == "QGemm" for op in written):
        parts.append("QOperator")
    if "DynamicQuantizeLinear" in ops or any(op.startswith("DynamicQuantize") for op in written):
        parts.append("dynamic")
    if NBITS in ops or not ops or (has_dq and not has_q and not parts):
        parts.append("weight-only")
    return " and ".join(parts) or "integer operators"
