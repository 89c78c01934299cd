"""The limit on how far a float16 model may lie from the same model in float32."""

import math
from collections.abc import Mapping

from qtool.core.errors import VerificationError
from qtool.graph import compose, edit
from qtool.graph.edit import Model, Node, Value
from qtool.graph.layers import Layer

# relative: half a step of float16's 11 bits
_ROUNDOFF = 2.0**-11
# four standard deviations
_LAMBDA = 4.0


def rounding_db(model: Model) -> float:
    """Return the SQNR in dB that float16 may leave of an output; kernels may round every partial sum, as ARM's do.

    n roundings one behind another leave a relative error of lambda sqrt(n) u; n is that of the longest path.
    Source: Higham and Mary, A new approach to probabilistic rounding error analysis (2019), theorem 2.4.
    """
    depth: dict[Value, int] = {}
    for node in model.graph:
        inside = sum(_roundings(inner) for body in edit.subgraphs(node) for inner in body.all_nodes())
        longest = max((depth.get(value, 0) for value in compose.reads(node)), default=0)
        depth.update(dict.fromkeys(node.outputs, longest + _roundings(node) + inside))
    return -20.0 * math.log10(_LAMBDA * math.sqrt(max(depth.values(), default=1)) * _ROUNDOFF)


def _roundings(node: Node) -> int:
    """The length of a linear layer's sums where it is known; 1 for other nodes."""
    layer = Layer.of(node)
    shape = None if layer is None or not layer.is_linear else edit.static_shape(layer.weight)
    return 1 if layer is None or shape is None else layer.sum_length(shape)


def check_rounding(outputs: Mapping[str, float], limit_db: float) -> None:
    """Refuse a float16 model that lies further from the same model in float32 than rounding explains.

    `outputs`: the SQNR of each output in dB. `limit_db`: the least that rounding explains.

    Raises:
        VerificationError: an output lies below the limit.
    """
    for name, found in outputs.items():
        if found < limit_db:
            raise VerificationError(
                f"output {name!r} of the float16 model lies {found:.1f} dB from the same model in float32, which "
                f"rounding does not explain ({limit_db:.1f} dB would); export the model in float32"
            )
