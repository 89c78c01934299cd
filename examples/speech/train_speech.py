"""Train the two recognisers of this folder on synthetic speech, and export them.

    python examples/speech/train_speech.py FOLDER

Needs torch. Writes ctc.onnx, encoder.onnx, decoder.onnx, joiner.onnx and tokenizer.json. Seeded; each takes
some three minutes of one core.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from speech import HOP, NAMES, WINDOW, features, noisy, utterance
from speech_net import CHUNK, CONTEXT, Recogniser, Streaming, Transducer, transducer_loss
from torch import Tensor, nn

BATCH, BUCKETS = 24, 8
SEED = 100
Utterance = tuple[np.ndarray, list[int]]


def batches(rng: np.random.RandomState, said: list[Utterance]) -> list[tuple[np.ndarray, Tensor]]:
    """Return all utterances once, with new noise: audio [N, samples] and tokens [N, length], padded with -1.

    Those of a batch are alike in length; behind the shorter ones noise goes on.
    """
    order = rng.permutation(len(said))
    made = []
    for group in np.array_split(order, max(len(said) // (BATCH * BUCKETS), 1)):
        by_length = sorted(group, key=lambda i: len(said[i][0]))
        made += [by_length[i : i + BATCH] for i in range(0, len(group), BATCH)]
    for rows in (made[i] for i in rng.permutation(len(made))):
        frames = CHUNK * -(-(max(len(said[i][0]) for i in rows) - WINDOW + HOP) // (HOP * CHUNK))
        audio = np.stack([noisy(rng, said[i][0], WINDOW + HOP * (frames - 1)) for i in rows])
        tokens = [torch.tensor(said[i][1]) + 1 for i in rows]
        yield audio, nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=-1)


def ctc_loss(model: Recogniser, audio: np.ndarray, tokens: Tensor) -> Tensor:
    """Return the mean of -log of the probability of all alignments (Graves et al. 2006)."""
    scores = model(torch.tensor(audio)).log_softmax(-1).transpose(0, 1)
    frames = torch.full((len(audio),), len(scores))
    return nn.functional.ctc_loss(scores, tokens.clamp(min=0), frames, (tokens >= 0).sum(1))


def streaming_loss(model: Transducer, audio: np.ndarray, tokens: Tensor) -> Tensor:
    """Return the loss of the transducer, all chunks at once."""
    return transducer_loss(model(torch.tensor(np.stack([features(one) for one in audio])), tokens), tokens)


def train(model: nn.Module, loss_of: object, said: list[Utterance], epochs: int) -> None:
    """Train on all utterances so many times."""
    rng = np.random.RandomState(SEED + 1)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=1e-3)
    steps = epochs * (len(said) // BATCH + BUCKETS)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    for epoch in range(epochs):
        losses = []
        for audio, tokens in batches(rng, said):
            loss = loss_of(model, audio, tokens)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"{type(model).__name__}, epoch {epoch + 1}: loss {np.mean(losses):.4f}", flush=True)
    model.eval()


def export(part: nn.Module, example: tuple[Tensor, ...], file: Path, names: tuple[str, str], axes: dict) -> None:
    """Write one graph."""
    inputs, outputs = (one.split() for one in names)
    torch.onnx.export(
        part,
        example,
        str(file),
        input_names=inputs,
        output_names=outputs,
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )


def export_transducer(model: Transducer, folder: Path) -> None:
    """Write the three graphs; the encoder takes a chunk, and its state."""
    encoder: Streaming = model.encoder
    state = encoder.start(1)
    cached = [f"cached_{i}" for i in range(len(state))]
    frames = torch.zeros(1, CHUNK, encoder.kept[0][0])
    names = " ".join(["x", *cached]), " ".join(["encoder_out", *(f"new_{name}" for name in cached)])
    export(encoder, (frames, *state), folder / "encoder.onnx", names, {})
    tokens = torch.zeros(2, CONTEXT, dtype=torch.long)
    batch = {0: "N"}
    export(model.decoder, (tokens,), folder / "decoder.onnx", ("y", "decoder_out"), {"y": batch, "decoder_out": batch})
    heard, said = encoder(frames, *state)[0][0], model.decoder(tokens[:1].expand(CHUNK // 4, -1))
    inputs, outputs = "encoder_out decoder_out", "logit"
    axes = dict.fromkeys([*inputs.split(), outputs], batch)
    export(model.joiner, (heard, said), folder / "joiner.onnx", (inputs, outputs), axes)


def tokenizer() -> dict[str, object]:
    """Return a tokenizer of digits, as Hugging Face's library writes it."""
    blank = {"id": 0, "content": "<blank>", "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{**blank, **flags}],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {name: i for i, name in enumerate(["<blank>", *NAMES])},
            "unk_token": "<blank>",
        },
    }


def main() -> None:
    """Train both, and export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--utterances", type=int, default=2500)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--only", choices=["ctc", "transducer"])
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    rng = np.random.RandomState(SEED)
    said = [utterance(rng) for _ in range(asked.utterances)]
    (asked.folder / "tokenizer.json").write_text(json.dumps(tokenizer()), encoding="utf-8")
    if asked.only != "transducer":
        torch.manual_seed(0)
        recogniser = Recogniser()
        train(recogniser, ctc_loss, said, asked.epochs)
        audio = torch.tensor(said[0][0][None], dtype=torch.float32)
        axes = {"audio": {0: "N", 1: "samples"}, "log_probs": {0: "N", 1: "frames"}}
        export(recogniser, (audio,), asked.folder / "ctc.onnx", ("audio", "log_probs"), axes)
    if asked.only != "ctc":
        torch.manual_seed(0)
        transducer = Transducer()
        train(transducer, streaming_loss, said, asked.epochs)
        export_transducer(transducer, asked.folder)


if __name__ == "__main__":
    main()
