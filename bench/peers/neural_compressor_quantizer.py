"""Intel's Neural Compressor for ONNX: `quantize` with its `StaticQuantConfig` (QDQ, U8S8, per channel)."""

import argparse
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

warnings.filterwarnings("ignore")

from onnx_neural_compressor import data_reader  # noqa: E402
from onnx_neural_compressor.quantization import QuantFormat, QuantType, config, quantize  # noqa: E402

from bench.peers.samples import Samples, raised  # noqa: E402


class _Reader(data_reader.CalibrationDataReader):
    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.rewind()

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        return next(self.remaining, None)

    def rewind(self) -> None:
        self.remaining = iter(self.samples)


def main() -> None:
    """One call."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("samples", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    samples = Samples(options.samples)
    settings = config.StaticQuantConfig(
        _Reader(samples),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        calibration_sampling_size=len(samples),
    )
    with tempfile.TemporaryDirectory() as folder:
        quantize(str(raised(options.model, Path(folder))), str(options.output), settings)


if __name__ == "__main__":
    main()
