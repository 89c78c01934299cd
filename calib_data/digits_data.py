"""Write digits_calib.npz and digits_eval.npz from scikit-learn's handwritten digits.

    python calib_data/digits_data.py [--out FOLDER]

Needs numpy and scikit-learn. The same inputs give the same bytes.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SEED = 20240817
CLASSES = 10
EVAL_PER_CLASS = 50
CALIB_PER_CLASS = 20
PIXEL_MAX = 16.0
"""Pixels are counts 0..16; dividing by a power of two gives [0, 1] without rounding."""


@dataclass(frozen=True, slots=True)
class Digits:
    """Images `input`, float32 (N, 1, 8, 8) in [0, 1], with `labels`, int64 (N,) in 0..9."""

    input: NDArray[np.float32]
    labels: NDArray[np.int64]

    def save(self, path: Path) -> None:
        """Write both arrays to `path`, uncompressed: zlib's output differs between its versions."""
        np.savez(path, input=self.input, labels=self.labels)


@dataclass(frozen=True, slots=True)
class Split:
    """`evaluation` and `training` share no image; `calibration` is a part of `training`."""

    training: Digits
    calibration: Digits
    evaluation: Digits


def load_split() -> Split:
    """Split scikit-learn's 1797 digits into 1297 to train with (200 of which calibrate) and 500 to evaluate.

    Of each class, in a seeded order, the first 50 evaluate, the next 20 calibrate and train, the rest train.
    Calibration and evaluation go round the classes (0, 1, ... 9, 0, 1, ...), so that any first 10 k samples
    are balanced.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images / PIXEL_MAX).astype(np.float32).reshape(-1, 1, 8, 8)
    labels = bunch.target.astype(np.int64)
    # RandomState, not Generator: NumPy promises its stream never changes (NEP 19).
    random = np.random.RandomState(SEED)
    order = [random.permutation(np.flatnonzero(labels == digit)) for digit in range(CLASSES)]

    def take(index: NDArray[np.intp]) -> Digits:
        return Digits(images[index], labels[index])

    def rounds(start: int, count: int) -> NDArray[np.intp]:
        return np.stack([one[start : start + count] for one in order], axis=1).reshape(-1)

    return Split(
        training=take(np.sort(np.concatenate([one[EVAL_PER_CLASS:] for one in order]))),
        calibration=take(rounds(EVAL_PER_CLASS, CALIB_PER_CLASS)),
        evaluation=take(rounds(0, EVAL_PER_CLASS)),
    )


def write_split(out: Path) -> Split:
    """Write the two files into the folder `out`; the training part is only returned."""
    split = load_split()
    for name, part in (("digits_calib.npz", split.calibration), ("digits_eval.npz", split.evaluation)):
        part.save(out / name)
        print(f"{out / name}: {len(part.labels)} images")
    return split


def main() -> None:
    """Write the two files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    write_split(parser.parse_args().out)


if __name__ == "__main__":
    main()
