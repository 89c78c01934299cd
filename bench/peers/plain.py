"""A plain float pass: the unit of work. `python -m bench.peers.plain MODEL SAMPLES`."""

import sys
from pathlib import Path

import onnxruntime

from bench.peers.samples import Samples


def main(model: str, folder: str) -> None:
    """Run every sample once with onnxruntime's defaults (all cores)."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for sample in Samples(Path(folder)):
        session.run(None, sample)


if __name__ == "__main__":
    main(*sys.argv[1:])
