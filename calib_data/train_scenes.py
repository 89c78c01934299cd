"""Train the two networks that find digits in scenes; write scenes_detector.onnx and scenes_unet.onnx.

    python calib_data/train_scenes.py [--out FOLDER] [--only detector|unet]

Needs torch, numpy, scikit-learn, onnx and qtool with its extra `detection`. Seeded: on one machine, the same bytes each
time.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from digits_data import load_split
from numpy.typing import NDArray
from scenes_data import CLASSES, TRAINING, Scenes, evaluation_scenes, make_scenes
from scenes_net import BINS, ScenesDetector, ScenesUnet, cells, corners, decoded
from torch import Tensor, nn

import qtool

SEED = 7
SCENES = 8000
BATCH = 32
WEIGHT_DECAY = 0.02
THREADS = 1
"""Fixed, because the order of a sum, and with it the last bits of the weights, depends on it."""

CANDIDATES = 8
"""Cells at most that learn one box."""

BOX, DISTRIBUTION, CLASS = 7.5, 1.5, 0.5
"""Weights of the detector's three losses, YOLOv8's."""


class Batch(NamedTuple):
    """Of some scenes: `pictures` (N, 3, 96, 96) in [0, 1], `boxes` (N, 5, 4), `classes` (N, 5), `masks` (N, 96, 96)."""

    pictures: Tensor
    boxes: Tensor
    classes: Tensor
    masks: Tensor


Loss = Callable[[Tensor, Batch], Tensor]


def overlaps(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union of boxes x1 y1 x2 y2, and CIoU, which also says how far apart and how unlike they are."""
    common = (torch.min(one[..., 2:], other[..., 2:]) - torch.max(one[..., :2], other[..., :2])).clamp(0).prod(-1)
    sizes, others = (one[..., 2:] - one[..., :2]).clamp(1e-6), (other[..., 2:] - other[..., :2]).clamp(1e-6)
    iou = common / (sizes.prod(-1) + others.prod(-1) - common)
    around = torch.max(one[..., 2:], other[..., 2:]) - torch.min(one[..., :2], other[..., :2])
    apart = (one[..., :2] + one[..., 2:] - other[..., :2] - other[..., 2:]).square().sum(-1) / 4
    unlike = 4 / torch.pi**2 * ((sizes[..., 0] / sizes[..., 1]).atan() - (others[..., 0] / others[..., 1]).atan()) ** 2
    share = (unlike / (1 - iou + unlike + 1e-6)).detach()
    return iou, iou - apart / around.square().sum(-1).clamp(1e-6) - share * unlike


@torch.no_grad()
def assigned(scores: Tensor, boxes: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Which box a cell learns (N, cells), and with which score, 0 for none: YOLOv8's task-aligned assignment (TOOD)."""
    centres, strides = cells()
    places = (centres * strides).T
    valid = batch.classes >= 0
    x, y = places[:, 0], places[:, 1]
    x1, y1, x2, y2 = batch.boxes[..., None].unbind(2)
    inside = (x > x1) & (x < x2) & (y > y1) & (y < y2) & valid[..., None]
    iou = overlaps(boxes[:, None], batch.boxes[:, :, None])[0] * inside
    of_class = scores.transpose(1, 2).gather(1, batch.classes.clamp(0)[..., None].expand(-1, -1, scores.shape[1]))
    fit = of_class.sqrt() * iou**6 * inside
    best = torch.zeros_like(inside).scatter_(2, fit.topk(CANDIDATES, 2).indices, True) & inside
    # A cell that several boxes want learns the one that it overlaps most.
    which = iou.masked_fill(~best, -1.0).argmax(1)
    best &= nn.functional.one_hot(which, best.shape[1]).transpose(1, 2).bool()
    fit = fit * best
    aim = fit / fit.amax(2, keepdim=True).clamp(1e-12) * (iou * best).amax(2, keepdim=True)
    return which, aim.gather(1, which[:, None])[:, 0]


def detector_loss(raw: Tensor, batch: Batch) -> Tensor:
    """YOLOv8's: binary cross entropy of the classes, CIoU of the boxes, cross entropy of their sides' distributions."""
    distributions, logits = raw[:, : 4 * BINS], raw[:, 4 * BINS :].transpose(1, 2)
    boxes = corners(distributions)
    which, aims = assigned(logits.sigmoid(), boxes, batch)
    classes = batch.classes.clamp(0).gather(1, which)
    aim = nn.functional.one_hot(classes, CLASSES) * aims[..., None]
    total = aims.sum().clamp(1.0)
    loss = CLASS * nn.functional.binary_cross_entropy_with_logits(logits, aim, reduction="sum")
    chosen = aims > 0
    if chosen.any():
        weights = aims[chosen]
        wanted = batch.boxes.gather(1, which[..., None].expand(-1, -1, 4))
        loss = loss + BOX * (weights * (1 - overlaps(boxes[chosen], wanted[chosen])[1])).sum()
        centres, strides = cells()
        in_cells = wanted / strides.T
        sides = torch.cat([centres.T - in_cells[..., :2], in_cells[..., 2:] - centres.T], 2)[chosen].clamp(
            0, BINS - 1.01
        )
        low = sides.long()
        logs = distributions.unflatten(1, (4, BINS)).permute(0, 3, 1, 2)[chosen].log_softmax(2)
        below, above = (logs.gather(2, (low + more)[..., None])[..., 0] for more in (0, 1))
        far = sides - low
        loss = loss - DISTRIBUTION * (weights * (below * (1 - far) + above * far).mean(1)).sum()
    return loss / total


def unet_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Cross entropy of the pixels, and the soft Dice loss, to which a rare class is as much as a common one."""
    chances = logits.softmax(1)
    truth = nn.functional.one_hot(batch.masks, CLASSES + 1).permute(0, 3, 1, 2)
    common = (chances * truth).sum((0, 2, 3))
    dice = (2 * common + 1) / (chances.sum((0, 2, 3)) + truth.sum((0, 2, 3)) + 1)
    return nn.functional.cross_entropy(logits, batch.masks) + 1 - dice.mean()


class Recipe(NamedTuple):
    """How one network is trained, and judged: `judge` gives onnxruntime's outputs the figure of the `metric`."""

    network: Callable[[], ScenesDetector | ScenesUnet]
    loss: Loss
    epochs: int
    rate: float
    metric: str


RECIPES = {
    "detector": Recipe(ScenesDetector, detector_loss, 20, 3e-3, "map"),
    "unet": Recipe(ScenesUnet, unet_loss, 8, 4e-3, "miou"),
}


def batches(scenes: Scenes, generator: torch.Generator) -> list[Tensor]:
    """The numbers of the scenes of each batch of an epoch; a last, short batch is dropped."""
    steps = len(scenes.pictures) // BATCH
    return list(torch.randperm(len(scenes.pictures), generator=generator)[: steps * BATCH].view(steps, BATCH))


def drawn(scenes: Scenes, index: Tensor, generator: torch.Generator) -> Batch:
    """A batch, its colours changed: the three channels in another order, half of the pictures as their negatives."""
    number = index.numpy()
    pictures = torch.from_numpy(scenes.pictures[number]).permute(0, 3, 1, 2).float() / 255
    pictures = pictures[:, torch.randperm(3, generator=generator)]
    negative = torch.randint(0, 2, (len(index), 1, 1, 1), generator=generator).bool()
    pictures = torch.where(negative, 1 - pictures, pictures)
    return Batch(
        pictures.contiguous(memory_format=torch.channels_last),
        torch.from_numpy(scenes.boxes[number]),
        torch.from_numpy(scenes.classes[number]),
        torch.from_numpy(scenes.masks[number]).long(),
    )


def train(recipe: Recipe, scenes: Scenes, path: Path) -> ScenesDetector | ScenesUnet:
    """Train a new network; returned in evaluation mode. After every second epoch it is also written to `path`."""
    torch.manual_seed(SEED)
    net = recipe.network().train().to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=WEIGHT_DECAY)
    steps = recipe.epochs * (len(scenes.pictures) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps)
    for epoch in range(1, recipe.epochs + 1):
        started, losses = time.perf_counter(), []
        for index in batches(scenes, generator):
            batch = drawn(scenes, index, generator)
            optimizer.zero_grad()
            loss = recipe.loss(net(batch.pictures), batch)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 10.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch:2d}  loss {np.mean(losses):.4f}  {time.perf_counter() - started:.0f} s", flush=True)
        if epoch % 2 == 0:
            onnx.save(net.eval().to_onnx(), path)
            net.train()
    return net.eval()


def check(net: ScenesDetector | ScenesUnet, path: Path, images: NDArray[np.float32]) -> None:
    """Compare the exported model in onnxruntime with PyTorch.

    Raises SystemExit where they differ by a thousandth (of a pixel, of a logit or probability) or more.
    """
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = net(torch.from_numpy(images))
        expected = decoded(expected) if isinstance(net, ScenesDetector) else expected
    difference = float(np.abs(session.run(None, {"images": images})[0] - expected.numpy()).max())
    print(f"largest difference between PyTorch and onnxruntime: {difference:.1e}")
    if difference >= 1e-3:
        raise SystemExit(f"{path} does not compute what was trained: its outputs differ by {difference:.1e}")


def judged(path: Path, scenes: Scenes, metric: str) -> float:
    """The figure of `metric` of the model at `path` on `scenes`."""
    feed = {"images": scenes.input}
    if metric == "map":
        feed |= {"boxes": scenes.boxes, "classes": scenes.classes}
    else:
        feed |= {"labels": scenes.masks.astype(np.int64)}
    result = qtool.evaluate(path, path, feed, metrics=[metric], decode="yolov8" if metric == "map" else None)
    return result.float_model.scores[0].value


def main() -> None:
    """Train, export, check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    parser.add_argument("--only", choices=RECIPES, help="train this network alone; otherwise both")
    arguments = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(THREADS)

    digits = load_split().training
    scenes = make_scenes(digits.input, digits.labels, SCENES, TRAINING)
    evaluation = evaluation_scenes()
    for name in [arguments.only] if arguments.only else RECIPES:
        recipe, path, started = RECIPES[name], arguments.out / f"scenes_{name}.onnx", time.perf_counter()
        net = train(recipe, scenes, path)
        onnx.save(net.to_onnx(), path)
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB, {time.perf_counter() - started:.0f} s")
        check(net, path, evaluation.input)
        print(f"{recipe.metric} on {len(evaluation.pictures)} scenes: {judged(path, evaluation, recipe.metric):.4f}")


if __name__ == "__main__":
    main()
