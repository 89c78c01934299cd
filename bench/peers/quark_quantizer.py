"""AMD Quark's ONNX side: int8 weights and activations, with AdaRound or AdaQuant where asked for."""

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnxruntime.quantization.calibrate import CalibrationDataReader
from quark.onnx import (
    AdaQuantConfig,
    AdaRoundConfig,
    Int8Spec,
    ModelQuantizer,
    QConfig,
    QLayerConfig,
    UInt8Spec,
)
from quark.onnx.quantization.config import Config, get_default_config
from quark.onnx.quantization.config.spec import QuantGranularity

from bench.peers.samples import Samples, raised


class Reader(CalibrationDataReader):
    """The samples as Quark reads them."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.left: Iterator[dict[str, np.ndarray]] = iter(samples)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next sample, None behind the last."""
        return next(self.left, None)

    def reset_iter(self) -> None:
        """Begin again."""
        self.left = iter(self.samples)

    def __len__(self) -> int:
        return len(self.samples)


def main() -> None:
    """One call, which saves the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("samples", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--learn", choices=["adaround", "adaquant"])
    parser.add_argument("--iterations", type=int, default=1000, help="a layer; 1000 is Quark's default")
    parser.add_argument("--config", help="one of Quark's own in the place of U8S8 per channel: XINT8, S8S8_AAWS")
    options = parser.parse_args()
    samples = Samples(options.samples.resolve())
    kinds = {"adaround": (AdaRoundConfig, 0.1), "adaquant": (AdaQuantConfig, 1e-5)}
    algorithms = []
    if options.learn is not None:
        kind, rate = kinds[options.learn]
        algorithms = [kind(num_iterations=options.iterations, learning_rate=rate, data_size=len(samples), batch_size=1)]
    config = QConfig(
        global_config=QLayerConfig(
            activation=UInt8Spec(symmetric=False),
            weight=Int8Spec(symmetric=True, quant_granularity=QuantGranularity.Channel),
        ),
        algo_config=algorithms,
    )
    if options.config is not None:
        config = Config(global_quant_config=get_default_config(options.config))
    output = options.output.resolve()
    with tempfile.TemporaryDirectory() as name:
        file = raised(options.model, Path(name)).resolve()
        with contextlib.chdir(name):  # where it leaves quantized_info.csv
            ModelQuantizer(config).quantize_model(str(file), str(output), Reader(samples))


if __name__ == "__main__":
    main()
