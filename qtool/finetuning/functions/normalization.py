"""Normalisations over channels, groups or axes.

Source: the operators' pages of ONNX; onnxruntime docs/ContribOperators.md.
"""

import torch
from torch import Tensor
from torch.nn import functional

from qtool.finetuning.calls import Call


def _by_channel(numbers: Tensor, x: Tensor) -> Tensor:
    """One number a channel, in the shape that multiplies x."""
    return numbers.reshape(-1, *[1] * (x.ndim - 2))


def batch_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Return channels normalised by statistics that are inputs."""
    factor = scale / torch.sqrt(variance + call.get("epsilon", 1e-5))
    return x * _by_channel(factor, x) + _by_channel(bias - mean * factor, x)


def infers(call: Call) -> str | None:
    """Return why a batch norm is none of inference; None where it is."""
    return "trains its statistics" if call.get("training_mode", 0) else None


def layer_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return all axes from one on normalised together, their mean, and the reciprocal of their deviation."""
    axes = list(range(int(call.get("axis", -1)) % x.ndim, x.ndim))
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    inverse = torch.rsqrt((centred * centred).mean(axes, keepdim=True) + call.get("epsilon", 1e-5))
    made = centred * inverse * scale
    return made if bias is None else made + bias, mean, inverse


def rms_norm(call: Call, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return all axes from one on divided by their root mean square, and its reciprocal."""
    axes = list(range(int(call.get("axis", -1)) % x.ndim, x.ndim))
    inverse = torch.rsqrt((x * x).mean(axes, keepdim=True) + call.get("epsilon", 1e-5))
    return x * inverse * scale, inverse


def skip_layer_norm(
    call: Call, x: Tensor, skip: Tensor, scale: Tensor, beta: Tensor | None = None, bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the layer norm of a sum, its mean and the reciprocal of its deviation, and the sum."""
    added = x + skip if bias is None else x + skip + bias
    made, mean, inverse = layer_norm(call, added, scale, beta)
    return made, mean, inverse, added


def instance_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Return each channel of each sample normalised."""
    axes = list(range(2, x.ndim))
    centred = x - x.mean(axes, keepdim=True)
    inverse = torch.rsqrt((centred * centred).mean(axes, keepdim=True) + call.get("epsilon", 1e-5))
    return centred * inverse * _by_channel(scale, x) + _by_channel(bias, x)


def group_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Return groups of channels of each sample normalised; scales are one a channel, before opset 21 one a group."""
    groups = int(call.get("num_groups"))
    made = functional.group_norm(x, groups, eps=call.get("epsilon", 1e-5))
    if scale.numel() != x.shape[1]:
        scale, bias = (t.repeat_interleave(x.shape[1] // groups) for t in (scale, bias))
    return made * _by_channel(scale, x) + _by_channel(bias, x)


def mean_variance_norm(call: Call, x: Tensor) -> Tensor:
    """Return a tensor without mean and with deviation 1 over axes."""
    axes = list(call.get("axes", [0, 2, 3]))
    centred = x - x.mean(axes, keepdim=True)
    return centred / (torch.sqrt((centred * centred).mean(axes, keepdim=True)) + 1e-9)


def lp_norm(call: Call, x: Tensor) -> Tensor:
    """Return a tensor divided by its norm along an axis."""
    axis = int(call.get("axis", -1))
    norm = torch.linalg.vector_norm(x, call.get("p", 2), axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / torch.where(norm == 0, torch.ones_like(norm), norm))


def local_response_norm(call: Call, x: Tensor) -> Tensor:
    """Return elements divided by what the squares of the channels around them add up to."""
    size = int(call.get("size"))
    before = (size - 1) // 2
    squares = functional.pad(x * x, [*[0, 0] * (x.ndim - 2), before, size - 1 - before])
    sums = squares.unfold(1, size, 1).sum(-1)
    scaled = call.get("bias", 1.0) + call.get("alpha", 1e-4) / size * sums
    return x * scaled ** -call.get("beta", 0.75)
