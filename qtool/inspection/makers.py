"""The makers of quantised models: by what they are recognised, and which of their options help."""

from collections.abc import Callable
from dataclasses import dataclass

from qtool.graph.quantizers import is_quantizing
from qtool.inspection.opened import Opened


@dataclass(frozen=True, slots=True)
class Maker:
    """A tool that writes quantised models.

    name: in words. seen: whether a model is one of its. options: rule -> what to set in it; see `qtool.inspection.findings`.
    """

    name: str
    seen: Callable[[Opened], bool]
    options: dict[str, str]


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


MAKERS = (
    Maker("qtool", _any(_metadata("qtool"), _producer("qtool")), {}),
    Maker("NVIDIA ModelOpt", _any(_producer("modelopt"), _metadata("modelopt")), {}),
    Maker("AMD Quark", _any(_producer("quark"), _domains("com.amd.quark", "com.vai.quantize")), {}),
    Maker("NNCF", _any(_producer("nncf"), _metadata("nncf"), _names("nncf")), {}),
    Maker("Intel Neural Compressor", _any(_producer("neural-compressor", "neural_compressor"), _metadata("inc.")), {}),
    Maker("Brevitas", _any(_producer("brevitas"), _domains("onnx.brevitas")), {}),
    Maker("onnxruntime.quantization", _producer("onnx.quantize"), {}),
    Maker("tf2onnx", _producer("tf2onnx"), {}),
    Maker("PyTorch", _producer("pytorch"), {}),
)


def maker_of(model: Opened) -> Maker | None:
    """Return who seems to have written a quantised model; None where nothing says it."""
    return next((maker for maker in MAKERS if maker.seen(model)), None)


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
    if "MatMulNBits" in ops or (has_dq and not has_q and not parts):
        parts.append("weight-only")
    return " and ".join(parts) or "integer operators"
