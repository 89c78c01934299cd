"""Train the demonstration network on the handwritten digits; write digits_cnn.onnx and the two .npz files.

    python calib_data/train_digits.py [--out FOLDER]

Needs torch, numpy, scikit-learn, onnx and onnxruntime. Seeded: on one machine, the same bytes each time.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from digits_data import Digits, write_split
from digits_net import DigitsNet, initial_network
from numpy.typing import NDArray
from torch import Tensor, nn

SEED = 7
EPOCHS = 30
BATCH = 64
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.02
LABEL_SMOOTHING = 0.05
THREADS = 2
"""Fixed, because the order of a sum, and with it the last bits of the weights, depends on it."""


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image (N, 1, 8, 8) moved by -1, 0 or 1 pixel in both directions, zeros moving in."""
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    offsets = torch.randint(0, 3, (len(images), 2), generator=generator).tolist()
    return torch.stack([one[:, y : y + 8, x : x + 8] for one, (y, x) in zip(padded, offsets, strict=True)])


def train(data: Digits) -> DigitsNet:
    """Train a new network on `data`; returned in evaluation mode."""
    net = initial_network(SEED).train()
    generator = torch.Generator().manual_seed(SEED)
    images, labels = torch.from_numpy(data.input), torch.from_numpy(data.labels)
    # The last batch is dropped: batch norm learns little from a short one.
    steps = len(images) // BATCH
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=EPOCHS * steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=LABEL_SMOOTHING)
    for epoch in range(1, EPOCHS + 1):
        total = 0.0
        for index in torch.randperm(len(images), generator=generator)[: steps * BATCH].view(steps, BATCH):
            optimizer.zero_grad()
            loss = loss_of(net(shifted(images[index], generator)), labels[index])
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        if epoch % 5 == 0:
            print(f"epoch {epoch:2d}  training loss {total / steps:.4f}", flush=True)
    return net.eval()


def checked_logits(net: DigitsNet, path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits (N, 10) of the exported model in onnxruntime, after comparing them with PyTorch's.

    Raises SystemExit where they differ by 1e-4 or more.
    """
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    logits: NDArray[np.float32] = session.run(None, {"input": images})[0]
    with torch.no_grad():
        difference = float(np.abs(net(torch.from_numpy(images)).numpy() - logits).max())
    print(f"largest difference between PyTorch and onnxruntime: {difference:.1e}")
    if difference >= 1e-4:
        raise SystemExit(f"{path} does not compute what was trained: the logits differ by {difference:.1e}")
    return logits


def main() -> None:
    """Train, export, check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    out: Path = parser.parse_args().out
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(THREADS)

    started = time.perf_counter()
    split = write_split(out)
    net = train(split.training)
    path = out / "digits_cnn.onnx"
    onnx.save(net.to_onnx(), path)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB, {time.perf_counter() - started:.0f} s")
    correct = checked_logits(net, path, split.evaluation.input).argmax(1) == split.evaluation.labels
    print(f"accuracy on {len(correct)} images never trained on: {correct.mean():.2%}")


if __name__ == "__main__":
    main()
