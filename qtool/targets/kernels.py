"""The only list of quantised operators: the kernels that the tables name, and a few that no row asks for."""

from collections.abc import Mapping

from qtool.targets.tables import TARGETS

# onnxruntime makes it between Q/DQ that stand there for other nodes
_UNPLANNED = {"QLinearWhere"}
UNPLANNED_OPERATORS = frozenset({"Where", "ArgMax", "GatherElements"})
"""The operators without a row that onnxruntime's selectors take between Q/DQ of other nodes."""
# those of ONNX that the rewriting emits, or that onnxruntime fuses what it emits from
_EMITTED = {"DynamicQuantizeLinear", "MatMulInteger"}
# what other tools leave in a model
_FOREIGN = {"QuantizeLinear", "DequantizeLinear", "ConvInteger", "QAttention"}

_RULES = [rule for target in TARGETS.values() for rule in target.rules.values()]
INTEGER_KERNELS = _UNPLANNED | frozenset(
    kernel for rule in _RULES if rule.kind in ("weighted", "elementwise") for kernel in rule.kernels
)
"""What computes in integers with calibrated ranges; a pass-through keeps its operator, and so is not among them."""
COMPUTING = _EMITTED | INTEGER_KERNELS | frozenset(kernel for rule in _RULES for kernel in rule.dynamic)
"""What computes in integers, or finds the grid for it."""
BLOCK_WISE = frozenset(kernel for rule in _RULES for kernel in rule.blocks)
"""What reads weights in blocks: as products with integers, on a grid for each block of what they read, or as rows."""
QUANTIZED = _FOREIGN | COMPUTING | BLOCK_WISE
"""What only stands in a model that somebody has quantised."""
_PRODUCTS = frozenset(kernel for rule in _RULES if rule.kind == "weighted" for kernel in rule.blocks)
IN_BLOCKS = 4
"""The accuracy_level of a product in blocks that rounds blocks of its input to 8 bits; else it computes in float."""
_NO_KERNEL = (2, 16)
"""Bits and block of weights that it computes in float at every level."""


def rounds_blocks(operator: str, attributes: Mapping[str, int]) -> bool:
    """Return whether an operator multiplies weights in blocks with its input rounded to 8 bits, hence in integers."""
    kind = (attributes.get("bits"), attributes.get("block_size"))
    return operator in _PRODUCTS and attributes.get("accuracy_level") == IN_BLOCKS and kind != _NO_KERNEL
