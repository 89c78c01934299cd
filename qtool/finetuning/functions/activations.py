"""Functions that bend each element. Source: the operators' pages of ONNX; onnxruntime docs/ContribOperators.md."""

import torch
from torch import Tensor
from torch.nn import functional

from qtool.finetuning.calls import Call


def relu(_call: Call, x: Tensor) -> Tensor:
    """Return max(x, 0)."""
    return torch.relu(x)


def leaky_relu(call: Call, x: Tensor) -> Tensor:
    """Return x, and alpha * x below zero."""
    return functional.leaky_relu(x, call.get("alpha", 0.01))


def prelu(_call: Call, x: Tensor, slope: Tensor) -> Tensor:
    """Return x, and slope * x below zero; the slope is broadcast to x."""
    return torch.where(x < 0, slope * x, x)


def elu(call: Call, x: Tensor) -> Tensor:
    """Return x, and alpha * (exp(x) - 1) below zero."""
    return functional.elu(x, call.get("alpha", 1.0))


def celu(call: Call, x: Tensor) -> Tensor:
    """Return max(0, x) + min(0, alpha * (exp(x / alpha) - 1))."""
    return functional.celu(x, call.get("alpha", 1.0))


def selu(call: Call, x: Tensor) -> Tensor:
    """Return gamma times x, and gamma * alpha * (exp(x) - 1) below zero."""
    alpha = call.get("alpha", 1.67326319217681884765625)
    return call.get("gamma", 1.05070102214813232421875) * functional.elu(x, alpha)


def thresholded_relu(call: Call, x: Tensor) -> Tensor:
    """Return x where it is above alpha, else 0."""
    return torch.where(x > call.get("alpha", 1.0), x, torch.zeros_like(x))


def shrink(call: Call, x: Tensor) -> Tensor:
    """Return x moved by the bias towards zero outside of [-lambd, lambd], else 0."""
    bound, bias = call.get("lambd", 0.5), call.get("bias", 0.0)
    return torch.where(x < -bound, x + bias, torch.where(x > bound, x - bias, torch.zeros_like(x)))


def clip(call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Return x within bounds, which are attributes in old opsets; where they cross, the upper one holds."""
    least = call.get("min") if low is None else low
    most = call.get("max") if high is None else high
    return x if least is None and most is None else torch.clamp(x, least, most)


def sigmoid(_call: Call, x: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-x))."""
    return torch.sigmoid(x)


def hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    """Return alpha * x + beta within [0, 1]."""
    return torch.clamp(call.get("alpha", 0.2) * x + call.get("beta", 0.5), 0.0, 1.0)


def hard_swish(_call: Call, x: Tensor) -> Tensor:
    """Return x times a hard sigmoid of x."""
    return x * torch.clamp(x / 6.0 + 0.5, 0.0, 1.0)


def swish(call: Call, x: Tensor) -> Tensor:
    """Return x * sigmoid(alpha * x)."""
    return x * torch.sigmoid(call.get("alpha", 1.0) * x)


def quick_gelu(call: Call, x: Tensor) -> Tensor:
    """Return x * sigmoid(alpha * x), with onnxruntime's alpha."""
    return x * torch.sigmoid(call.get("alpha", 1.702) * x)


def tanh(_call: Call, x: Tensor) -> Tensor:
    """Return the hyperbolic tangent."""
    return torch.tanh(x)


def gelu(call: Call, x: Tensor) -> Tensor:
    """Return x times the normal distribution's function at x, or its approximation by tanh."""
    return functional.gelu(x, approximate=call.get("approximate", "none"))


def bias_gelu(_call: Call, x: Tensor, bias: Tensor) -> Tensor:
    """Return Gelu of a sum, exactly."""
    return functional.gelu(x + bias)


def fast_gelu(_call: Call, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return Gelu of a sum by its approximation."""
    return functional.gelu(x if bias is None else x + bias, approximate="tanh")


def softplus(_call: Call, x: Tensor) -> Tensor:
    """Return log(1 + exp(x))."""
    return torch.logaddexp(x, torch.zeros_like(x))


def softsign(_call: Call, x: Tensor) -> Tensor:
    """Return x / (1 + |x|)."""
    return functional.softsign(x)


def mish(_call: Call, x: Tensor) -> Tensor:
    """Return x * tanh(softplus(x))."""
    return functional.mish(x)


def softmax(call: Call, x: Tensor) -> Tensor:
    """Return exponents over their sum along an axis; before opset 13 along all axes from one on."""
    if call.opset >= 13:
        return torch.softmax(x, call.get("axis", -1))
    return torch.softmax(x.flatten(_old_axis(call, x)), -1).reshape(x.shape)


def log_softmax(call: Call, x: Tensor) -> Tensor:
    """Return the logarithm of `softmax`."""
    if call.opset >= 13:
        return torch.log_softmax(x, call.get("axis", -1))
    return torch.log_softmax(x.flatten(_old_axis(call, x)), -1).reshape(x.shape)


def _old_axis(call: Call, x: Tensor) -> int:
    axis: int = call.get("axis", 1)
    rank: int = x.ndim
    return axis % rank


def hardmax(call: Call, x: Tensor) -> Tensor:
    """Return 1 at the first largest element along an axis, else 0."""
    axis = call.get("axis", -1)
    return torch.zeros_like(x).scatter(axis, first_largest(x, axis).unsqueeze(axis), 1)


def first_largest(x: Tensor, axis: int, *, last: bool = False) -> Tensor:
    """Return the index of the largest element along an axis, of several the first, or the last."""
    size = x.shape[axis]
    places = torch.arange(size, device=x.device).reshape([-1 if a == axis % x.ndim else 1 for a in range(x.ndim)])
    largest = x == x.amax(axis, keepdim=True)
    if last:
        return torch.where(largest, places, -1).amax(axis)
    return torch.where(largest, places, size).amin(axis)
