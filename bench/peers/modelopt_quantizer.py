"""NVIDIA ModelOpt's ONNX side: int8 Q/DQ where TensorRT wants them."""

import argparse
import tempfile
from pathlib import Path

import modelopt.onnx.quantization as modelopt
import numpy as np

from bench.peers.samples import Samples, raised


def main() -> None:
    """One call, which saves the model; calibrated on the CPU, with the rest of it in float32."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("samples", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    samples = list(Samples(options.samples))
    with tempfile.TemporaryDirectory() as name:
        modelopt.quantize(
            onnx_path=str(raised(options.model, Path(name))),
            quantize_mode="int8",
            calibration_data={key: np.concatenate([sample[key] for sample in samples]) for key in samples[0]},
            calibration_method="max",
            calibration_eps=["cpu"],
            high_precision_dtype="fp32",
            output_path=str(options.output),
        )


if __name__ == "__main__":
    main()
