"""An encoder-decoder in the manner of T5: RMS norm, no biases, distances instead of positions, shared embeddings.

Its three graphs have the names that Hugging Face's optimum gives them: `encoder_model`, `decoder_model` (the first
step, which makes the cache) and `decoder_with_past_model` (each later step).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

FARTHEST = 16
"""The distance between two tokens from which on all are alike."""
Cache = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Sizes:
    """How large the network is; `hidden` is the width inside of a feed-forward part."""

    width: int = 32
    heads: int = 4
    hidden: int = 64
    encoder_layers: int = 2
    layers: int = 1

    @property
    def head(self) -> int:
        """The width of a head."""
        return self.width // self.heads


class Norm(nn.Module):
    """Each vector divided by its root mean square."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(sizes.width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class Distances(nn.Module):
    """What is added to the scores of attention for the distance of key and query."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.table = nn.Embedding(2 * FARTHEST + 1, sizes.heads)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return [1, heads, queries, keys] for the positions of both."""
        apart = (keys[None, :] - queries[:, None]).clamp(-FARTHEST, FARTHEST) + FARTHEST
        return self.table(apart).permute(2, 0, 1)[None]


class Attention(nn.Module):
    """Attention of several heads."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.q, self.k, self.v, self.o = (nn.Linear(sizes.width, sizes.width, bias=False) for _ in range(4))

    def keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, each [batch, heads, length, width of a head]."""
        return self._heads(self.k(x)), self._heads(self.v(x))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, added: Tensor) -> Tensor:
        """Look up `x` among the keys; `added` is added to the scores."""
        scores = self._heads(self.q(x)) @ keys.transpose(-1, -2) * self.sizes.head**-0.5 + added
        found = (scores.softmax(-1) @ values).transpose(1, 2)
        return self.o(found.reshape(x.shape[0], -1, self.sizes.width))

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], -1, self.sizes.heads, self.sizes.head).transpose(1, 2)


def _feed_forward(sizes: Sizes) -> nn.Module:
    up, down = (sizes.width, sizes.hidden), (sizes.hidden, sizes.width)
    return nn.Sequential(Norm(sizes), nn.Linear(*up, bias=False), nn.ReLU(), nn.Linear(*down, bias=False))


def _hidden(mask: Tensor) -> Tensor:
    """What keeps attention from padding: [batch, 1, 1, length]."""
    return (1.0 - mask[:, None, None].float()) * -1e4


class Encoder(nn.Module):
    """The tokens of the source -> a vector each."""

    def __init__(self, embed: nn.Embedding, sizes: Sizes) -> None:
        super().__init__()
        self.embed, self.distances, self.norm = embed, Distances(sizes), Norm(sizes)
        self.attend = nn.ModuleList(Attention(sizes) for _ in range(sizes.encoder_layers))
        self.before = nn.ModuleList(Norm(sizes) for _ in range(sizes.encoder_layers))
        self.feed = nn.ModuleList(_feed_forward(sizes) for _ in range(sizes.encoder_layers))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return [batch, length, width]."""
        x = self.embed(input_ids)
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        added = self.distances(places, places) + _hidden(attention_mask)
        for before, attend, feed in zip(self.before, self.attend, self.feed, strict=True):
            y = before(x)
            x = x + attend(y, *attend.keys(y), added)
            x = x + feed(x)
        return self.norm(x)


class Decoder(nn.Module):
    """The tokens so far -> scores of the next, with a cache of keys and values."""

    def __init__(self, embed: nn.Embedding, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.embed, self.distances, self.norm = embed, Distances(sizes), Norm(sizes)
        self.attend, self.cross = (nn.ModuleList(Attention(sizes) for _ in range(sizes.layers)) for _ in range(2))
        self.before, self.between = (nn.ModuleList(Norm(sizes) for _ in range(sizes.layers)) for _ in range(2))
        self.feed = nn.ModuleList(_feed_forward(sizes) for _ in range(sizes.layers))

    def crossed(self, encoded: Tensor) -> Cache:
        """Return keys and values of what the encoder said, a pair a layer."""
        return [cross.keys(encoded) for cross in self.cross]

    def forward(self, ids: Tensor, mask: Tensor, crossed: Cache, past: Cache | None) -> tuple[Tensor, Cache]:
        """Return scores [batch, length, tokens] and the cache, which is `past` with these tokens behind."""
        x = self.embed(ids)
        before = past[0][0].shape[2] if past else 0
        places = torch.arange(before + ids.shape[1], device=ids.device)
        queries = places[before:]
        added = self.distances(queries, places)
        if past is None:
            added = added + (places[None, :] > queries[:, None]).float() * -1e4
        present = []
        for i in range(self.sizes.layers):
            y = self.before[i](x)
            keys, values = self.attend[i].keys(y)
            if past:
                keys, values = torch.cat([past[i][0], keys], 2), torch.cat([past[i][1], values], 2)
            present.append((keys, values))
            x = x + self.attend[i](y, keys, values, added)
            x = x + self.cross[i](self.between[i](x), *crossed[i], _hidden(mask))
            x = x + self.feed[i](x)
        return self.norm(x) @ self.embed.weight.T, present


class Numbers(nn.Module):
    """The whole model, as it is trained."""

    def __init__(self, tokens: int, sizes: Sizes) -> None:
        super().__init__()
        embed = nn.Embedding(tokens, sizes.width)
        nn.init.normal_(embed.weight, std=sizes.width**-0.5)
        self.sizes, self.encoder, self.decoder = sizes, Encoder(embed, sizes), Decoder(embed, sizes)

    def forward(self, source: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        """Return the scores of each next token of `target`."""
        crossed = self.decoder.crossed(self.encoder(source, mask))
        return self.decoder(target, mask, crossed, None)[0]


class FirstStep(nn.Module):
    """`decoder_model`: no cache yet."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, ids: Tensor, encoded: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Return scores, and of each layer keys and values of the decoder, then of the encoder."""
        crossed = self.decoder.crossed(encoded)
        scores, present = self.decoder(ids, mask, crossed, None)
        return scores, *(array for own, other in zip(present, crossed, strict=True) for array in (*own, *other))


class NextStep(nn.Module):
    """`decoder_with_past_model`: one token behind a cache."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, ids: Tensor, mask: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """Return scores and the grown cache of each layer; `past` is what the first step gave."""
        own = [(past[4 * i], past[4 * i + 1]) for i in range(self.decoder.sizes.layers)]
        crossed = [(past[4 * i + 2], past[4 * i + 3]) for i in range(self.decoder.sizes.layers)]
        scores, present = self.decoder(ids, mask, crossed, own)
        return scores, *(array for pair in present for array in pair)
