"""Absorption of high biases: what a channel never falls below moves into the bias of the layer that reads it.

Source: Nagel et al. 2019, section 4.1.3: relu(W1 x + b1) = relu(W1 x + b1 - c) + c where W1 x + b1 >= c, so that
W2 relu(W1 x + b1) + b2 = W2 relu(W1 x + (b1 - c)) + (b2 + W2 c). The paper takes c = max(0, beta - 3 gamma) from the
batch norm, which is folded away here, and which one value in a thousand falls below; this takes the least value of each
channel on the data, which makes it exact on the data.

Declines for all but Conv or Gemm, Relu or Clip(0, b), Conv or Gemm (GlobalAveragePool, GlobalMaxPool and Flatten may
stand between), for channels that reach b on the data, for a second convolution that pads (the zeros at the border stand
for zeros, not for -c), and for a Gemm with alpha or beta.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Array, Model
from qtool.graph.layers import Layer, per_channel
from qtool.pipeline.recovery.chains import Chain, find_chains, upper_bound
from qtool.pipeline.recovery.equalization import Extremes, replace_bias

_ROUNDING = 1e-5
_ACTIVATIONS = ("Relu", "Clip")
_SHIFTED = (*_ACTIVATIONS, "Flatten", "GlobalAveragePool", "GlobalMaxPool")


def absorbable_tensors(model: Model) -> list[str]:
    """Return the names of the layers' outputs whose least values decide what can be absorbed."""
    return [chain.tensor for chain in _chains(model)]


def find_shifts(
    model: Model, extremes: Extremes, scales: Mapping[str, Sequence[float]] | None = None
) -> dict[str, tuple[float, ...]]:
    """Find the amounts by which the channels of each first layer can be lowered, by the layer's output.

    They are float32, [C], not negative; layers that cannot be lowered are left out. `extremes` are those of the layers
    that `absorbable_tensors` names, measured before they were divided by `scales`.
    """
    result = {}
    for chain in _chains(model):
        scale = np.asarray((scales or {}).get(chain.tensor, 1.0))
        low, high = (np.asarray(e, np.float64) / scale for e in extremes[chain.tensor])
        bound = upper_bound(chain)
        if bound is None or not (np.isfinite(low).all() and np.isfinite(high).all()):
            continue
        # lower than that by what float32 may round
        shift = np.where(high < bound, np.maximum(low * (1.0 - _ROUNDING), 0.0), 0.0)
        if shift.any():
            result[chain.tensor] = tuple(map(float, shift.astype(np.float32)))
    return result


def absorb_biases(model: Model, shifts: Mapping[str, Sequence[float]]) -> Model:
    """Return a copy of the prepared graph with the biases absorbed; it computes the same where no channel falls lower.

    Raises:
        ValueError: the shifts do not fit the graph.
    """
    result = edit.clone(model)
    chains = {chain.tensor: chain for chain in _chains(result)}
    names = edit.Names(result.graph)
    for tensor, numbers in shifts.items():
        chain, shift = chains.get(tensor), np.asarray(numbers, np.float64)
        if chain is None or shift.shape != (chain.size,):
            raise ValueError(f"it lowers tensor {tensor!r}, which this model does not hold like that")
        weight = edit.constant(chain.second.weight).astype(np.float64)
        columns = chain.second.input_channels(weight, chain.size)
        gained = columns * per_channel(shift, columns)
        total = gained.sum(axis=(1, *range(3, gained.ndim))).reshape(-1)
        replace_bias(result, chain.first, _bias(chain.first) - shift, names, "lowered")
        replace_bias(result, chain.second, _bias(chain.second) + total, names, "absorbing")
    return result


def _bias(layer: Layer) -> Array | float:
    return 0.0 if layer.bias is None else edit.constant(layer.bias).astype(np.float64)


def _chains(model: Model) -> list[Chain]:
    return [chain for chain in find_chains(model) if _absorbs(chain)]


def _absorbs(chain: Chain) -> bool:
    if not all(edit.is_main_op(node, *_SHIFTED) for node in chain.between):
        return False
    if sum(node.op_type in _ACTIVATIONS for node in chain.between) != 1:
        return False
    if any(factor != 1.0 for layer in (chain.first, chain.second) for factor in (layer.alpha, layer.beta)):
        return False
    bias = edit.constant_or_none(chain.second.bias)
    if chain.second.bias is not None and (bias is None or bias.ndim != 1 or not np.isfinite(bias).all()):
        return False
    return not _pads(chain.second)


def _pads(layer: Layer) -> bool:
    if str(edit.attribute(layer.node, "auto_pad", "NOTSET")).startswith("SAME"):
        return True
    return any(edit.attribute(layer.node, "pads", []))
