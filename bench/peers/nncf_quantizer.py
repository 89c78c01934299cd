"""NNCF's post-training quantisation, ONNX backend: `nncf.quantize` over all samples."""

import argparse
import logging
import tempfile
from pathlib import Path

import nncf
import onnx
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters
from onnxruntime.quantization.shape_inference import quant_pre_process

from bench.peers.samples import Samples, raised


def main() -> None:
    """One call, and onnx's own save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("samples", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--preset", choices=["performance", "mixed"], help="NNCF's own default otherwise")
    parser.add_argument("--transformer", action="store_true")
    parser.add_argument("--full-bias-correction", action="store_true")
    parser.add_argument(
        "--for-onnxruntime",
        action="store_true",
        help="pre-process as onnxruntime's quantizer does, and one range a tensor: its kernels take no more",
    )
    options = parser.parse_args()
    nncf.set_log_level(logging.ERROR)
    samples = Samples(options.samples)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, parameters = raised(options.model, folder), None
        if options.for_onnxruntime:
            prepared = folder / "prepared.onnx"
            quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
            file = prepared
            one_range = QuantizationParameters(per_channel=False)
            parameters = AdvancedQuantizationParameters(activations_quantization_params=one_range)
        model = onnx.load(str(file))
    quantized = nncf.quantize(
        model,
        nncf.Dataset(samples),
        preset=None if options.preset is None else nncf.QuantizationPreset(options.preset),
        subset_size=len(samples),
        fast_bias_correction=not options.full_bias_correction,
        model_type=nncf.ModelType.TRANSFORMER if options.transformer else None,
        advanced_parameters=parameters,
    )
    onnx.save(quantized, str(options.output))


if __name__ == "__main__":
    main()
