"""Two small recognisers: one that hears all of an utterance (CTC), and a transducer that hears it in chunks.

Inputs and outputs of the transducer's three graphs have the names that k2's icefall gives them.
"""

import torch
from speech import BANDS, HOP, QUIETEST, WINDOW, filters
from torch import Tensor, nn

CLASSES = 11
"""The blank, and ten digits."""
CHUNK, CONTEXT = 16, 2
"""Frames that the streaming encoder takes at once, and tokens that the prediction network reads."""
_WIDTH, _HEADS = 24, 3
_WIDE = 40


class Spectrum(nn.Module):
    """Audio [N, samples] -> the logarithms of the power in each band [N, bands, frames], as `speech.features`."""

    def __init__(self) -> None:
        super().__init__()
        transform, bands = filters()
        self.register_buffer("transform", torch.tensor(transform)[:, None])
        self.register_buffer("bands", torch.tensor(bands)[..., None])

    def forward(self, audio: Tensor) -> Tensor:
        """Filter by sines and cosines, square and add up."""
        found = nn.functional.conv1d(audio[:, None], self.transform, stride=HOP)
        real, imaginary = found.split(WINDOW // 2, 1)
        return torch.log(nn.functional.conv1d(real * real + imaginary * imaginary, self.bands) + QUIETEST)


class Attention(nn.Module):
    """Every frame looks at all others: attention of several heads."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(_WIDTH)
        self.q, self.k, self.v, self.o = (nn.Linear(_WIDTH, _WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """[N, frames, width] -> the same."""
        y = self.norm(x)
        q, k, v = (self._heads(each(y)) for each in (self.q, self.k, self.v))
        scores = q @ k.transpose(-1, -2) * (_WIDTH // _HEADS) ** -0.5
        return x + self.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape[0], -1, _WIDTH))

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], -1, _HEADS, _WIDTH // _HEADS).transpose(1, 2)


def _layer(before: int, after: int, stride: int, width: int = 5, apart: int = 1, pad: bool = True) -> nn.Module:
    convolution = nn.Conv1d(before, after, width, stride, width // 2 if pad else 0, apart, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm1d(after), nn.ReLU())


class Recogniser(nn.Module):
    """Audio [N, samples] -> scores of the classes [N, frames, classes], a frame in 32 ms."""

    def __init__(self) -> None:
        super().__init__()
        self.spectrum = Spectrum()
        self.convolutions = nn.Sequential(
            _layer(BANDS, _WIDTH, 2), _layer(_WIDTH, _WIDTH, 2), _layer(_WIDTH, _WIDTH, 1, 3)
        )
        self.attention = Attention()
        self.feed = nn.Sequential(
            nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, 2 * _WIDTH), nn.ReLU(), nn.Linear(2 * _WIDTH, _WIDTH)
        )
        self.last = nn.Sequential(nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, CLASSES))

    def forward(self, audio: Tensor) -> Tensor:
        """Return scores; the mean of each band over the utterance is taken off first."""
        bands = self.spectrum(audio)
        x = self.convolutions(bands - bands.mean(2, keepdim=True)).transpose(1, 2)
        x = self.attention(x)
        return self.last(x + self.feed(x))


class Streaming(nn.Module):
    """Features [N, frames, bands] -> what is heard of each four frames [N, frames / 4, width].

    Each convolution sees its input's last frames of the chunk before; they go in and out.
    """

    def __init__(self) -> None:
        super().__init__()
        # channels before and behind, stride, and how far apart the five frames are that are looked at
        shapes = ((BANDS, _WIDE, 2, 1), (_WIDE, _WIDE, 2, 1), (_WIDE, _WIDE, 1, 1), (_WIDE, _WIDE, 1, 2))
        self.layers = nn.ModuleList(
            _layer(before, after, stride, apart=apart, pad=False) for before, after, stride, apart in shapes
        )
        self.out = nn.Linear(_WIDE, _WIDE)
        self.kept = [(before, 4 * apart + 1 - stride) for before, _, stride, apart in shapes]

    def start(self, count: int) -> list[Tensor]:
        """Return what a stream begins with."""
        return [torch.zeros(count, channels, length) for channels, length in self.kept]

    def forward(self, x: Tensor, *cached: Tensor) -> tuple[Tensor, ...]:
        """Return what is heard, and what each convolution keeps."""
        # about 0 in the middle and 1 wide
        y = (x.transpose(1, 2) + 2.5) / 2.7
        kept = []
        for layer, before, (_, length) in zip(self.layers, cached, self.kept, strict=True):
            y = torch.cat([before, y], 2)
            kept.append(y[:, :, -length:])
            y = layer(y)
        return self.out(y.transpose(1, 2)), *kept


class Prediction(nn.Module):
    """The last tokens [N, context] -> a vector [N, width]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, _WIDE // CONTEXT)
        self.out = nn.Sequential(nn.Linear(_WIDE, _WIDE), nn.ReLU(), nn.Linear(_WIDE, _WIDE))

    def forward(self, y: Tensor) -> Tensor:
        """Look the tokens up."""
        return self.out(self.embed(y).flatten(1))


class Joiner(nn.Module):
    """What is heard and what was said -> scores of what comes next."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(_WIDE, CLASSES)

    def forward(self, encoder_out: Tensor, decoder_out: Tensor) -> Tensor:
        """Add both."""
        return self.out(torch.tanh(encoder_out + decoder_out))


class Transducer(nn.Module):
    """The three together, as they are trained."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.joiner = Streaming(), Prediction(), Joiner()

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Return log-probabilities [N, frames, tokens + 1, classes] for rows of tokens."""
        heard = self.encoder(x, *self.encoder.start(len(x)))[0]
        before = nn.functional.pad(tokens.clamp(min=0), (CONTEXT, 0))
        contexts = before.unfold(1, CONTEXT, 1).flatten(0, 1)
        said = self.decoder(contexts).reshape(len(x), tokens.shape[1] + 1, -1)
        return self.joiner(heard[:, :, None], said[:, None]).log_softmax(-1)


def transducer_loss(scores: Tensor, tokens: Tensor) -> Tensor:
    """Return the mean of -log of the probability of all alignments (Graves 2012).

    Args:
        scores: log-probabilities [N, frames, tokens + 1, classes]; the blank is class 0.
        tokens: [N, tokens], padded with -1.
    """
    lengths = (tokens >= 0).sum(1)
    blank = scores[..., 0]
    # log-probability of the next token, added up along the tokens
    said = scores[:, :, :-1].gather(3, tokens.clamp(min=0)[:, None, :, None].expand(-1, scores.shape[1], -1, 1))[..., 0]
    along = nn.functional.pad(said.cumsum(2), (1, 0))
    ahead = along[:, 0]
    for frame in range(1, scores.shape[1]):
        from_left = ahead + blank[:, frame - 1]
        ahead = (from_left - along[:, frame]).logcumsumexp(1) + along[:, frame]
    return -(ahead + blank[:, -1]).gather(1, lengths[:, None]).mean()
