"""AIMET's ONNX side: `QuantizationSimModel`, with AdaRound where asked for, written as Q/DQ pairs."""

import argparse
import tempfile
from pathlib import Path

import aimet_onnx
import onnx
from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight

from bench.peers.samples import Samples, raised


def main() -> None:
    """Fold batch normalisations, calibrate, learn the rounding of weights, and onnx's own save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("samples", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--adaround", type=int, metavar="N", help="iterations a layer; 10000 is what AIMET recommends")
    options = parser.parse_args()
    samples = list(Samples(options.samples))
    with tempfile.TemporaryDirectory() as name:
        model = onnx.load(str(raised(options.model, Path(name))))
    fold_all_batch_norms_to_weight(model)
    sim = aimet_onnx.QuantizationSimModel(model, dummy_input=samples[0])
    if options.adaround is not None:
        aimet_onnx.apply_adaround(sim, samples, num_iterations=options.adaround)
    sim.compute_encodings(samples)
    onnx.save(sim.to_onnx_qdq(export_int32_bias=True, prequantize_constants=True), str(options.output))


if __name__ == "__main__":
    main()
