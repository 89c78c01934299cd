"""Attention in its forms. Source: ONNX, "Attention"; onnxruntime docs/ContribOperators.md.

B samples, S queries, L keys, H heads, D the size of a head.
"""

import torch
from torch import Tensor

from qtool.finetuning.calls import Call

_KNOWN = {"is_causal", "kv_num_heads", "q_num_heads", "qk_matmul_output_mode", "scale", "softmax_precision"}


def attention(call: Call, q: Tensor, k: Tensor, v: Tensor, *others: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return attention of ONNX, and the keys and values with what came before them."""
    mask, past_keys, past_values = [*others, *[None] * 3][:3]
    flat, length = q.ndim == 3, q.shape[-2]
    if flat:
        q = _heads(q, int(call.get("q_num_heads")))
        k, v = (_heads(t, int(call.get("kv_num_heads"))) for t in (k, v))
    if past_keys is not None and past_values is not None:
        k, v = torch.cat([past_keys, k], 2), torch.cat([past_values, v], 2)
    repeats = q.shape[1] // k.shape[1]
    keys, values = (t.repeat_interleave(repeats, 1) if repeats > 1 else t for t in (k, v))
    scores = _scores(call, q, keys)
    if call.get("is_causal", 0):
        before = keys.shape[2] - length if past_keys is not None else 0
        scores = scores.masked_fill(_future(scores, before), -torch.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    made = _shares(scores) @ values
    return _joined(made) if flat else made, k, v


def attends(call: Call) -> str | None:
    """Return why the attention of a node of ONNX is not computed; None where it is."""
    for name, value in call.attributes.items():
        if name not in _KNOWN and (name, value) != ("softcap", 0.0):
            return f"has {name}"
    return "is told how many keys count" if call.has(6) else None


def joint_attention(call: Call, x: Tensor, weight: Tensor, *others: Tensor | None) -> Tensor:
    """Return attention of onnxruntime, whose queries, keys and values are one product."""
    bias, mask, _, added = [*others, *[None] * 4][:4]
    sizes = call.get("qkv_hidden_sizes") or [weight.shape[1] // 3] * 3
    joint = x @ weight if bias is None else x @ weight + bias
    q, k, v = joint.split(list(sizes), -1)
    return _attended(call, (q, k, v), mask, added)


def multi_head_attention(
    call: Call, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, *others: Tensor | None
) -> Tensor:
    """Return attention of onnxruntime between queries, keys and values that are given."""
    mask, added = [*others, *[None] * 2][:2]
    if bias is not None:
        parts = bias.split([q.shape[-1], k.shape[-1], v.shape[-1]])
        q, k, v = q + parts[0], k + parts[1], v + parts[2]
    return _attended(call, (q, k, v), mask, added)


_PAST = "continues earlier keys and values"


def joins(call: Call) -> str | None:
    """Return why a joint attention is not computed; None where it is."""
    if call.get("do_rotary", 0):
        return "turns its queries and keys"
    return _PAST if call.has(4) or call.has(6) else None


def is_split(call: Call) -> str | None:
    """Return why an attention between inputs is not computed; None where it is."""
    if not (call.has(1) and call.has(2)):
        return "has its keys and values in its queries"
    return _PAST if any(map(call.has, (6, 7, 8, 9))) else None


def _attended(call: Call, inputs: tuple[Tensor, Tensor, Tensor], mask: Tensor | None, added: Tensor | None) -> Tensor:
    heads = int(call.get("num_heads"))
    q, k, v = (_heads(t, heads) if t.ndim == 3 else t for t in inputs)
    scores = _scores(call, q, k)
    if added is not None:
        scores = scores + added
    if mask is not None:
        scores = scores + call.get("mask_filter_value", -10000.0) * _masked(mask, k.shape[2])
    if call.get("unidirectional", 0):
        scores = scores.masked_fill(_future(scores, k.shape[2] - q.shape[2]), -torch.inf)
    return _joined(_shares(scores) @ v)


def _masked(mask: Tensor, length: int) -> Tensor:
    """1 where a key does not count, in the shape of the scores: of lengths, of keys, or of queries and keys."""
    if mask.ndim == 1:
        mask = torch.arange(length, device=mask.device) < mask.unsqueeze(1)
    gone = (mask == 0).to(torch.float32)
    return gone[:, None, None, :] if gone.ndim == 2 else gone[:, None]


def _scores(call: Call, q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2)) * (call.get("scale") or q.shape[-1] ** -0.5)


def _shares(scores: Tensor) -> Tensor:
    """Of each key for each query; none where no key counts."""
    none = (scores == -torch.inf).all(-1, keepdim=True)
    return torch.softmax(scores.masked_fill(none, 0.0), -1).masked_fill(none, 0.0)


def _future(scores: Tensor, before: int) -> Tensor:
    """Which keys [S, L] lie behind a query, where so many lie before the first."""
    return torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(before + 1)


def _heads(x: Tensor, heads: int) -> Tensor:
    """[B, S, H * D] -> [B, H, S, D]."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)
