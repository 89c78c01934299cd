"""onnxruntime's own quantizer; unless asked otherwise as documented for x86 (QDQ, U8S8, per channel)."""

import argparse
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from bench.peers.samples import Samples, raised

_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
}


class _Reader(CalibrationDataReader):
    def __init__(self, samples: Samples) -> None:
        self.samples = iter(samples)

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        return next(self.samples, None)


def main() -> None:
    """Pre-process as its documentation says, then one call."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("samples", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--method", choices=[*_METHODS, "dynamic"], default="minmax")
    parser.add_argument("--operators", nargs="*", help="quantise these alone")
    parser.add_argument("--signed", action="store_true", help="int8 activations, symmetric")
    parser.add_argument("--form", choices=[form.name for form in QuantFormat], default="QDQ")
    options = parser.parse_args()
    onnxruntime.set_default_logger_severity(4)
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = folder / "prepared.onnx"
        quant_pre_process(str(raised(options.model, folder)), str(prepared), skip_symbolic_shape=True)
        if options.method == "dynamic":
            quantize_dynamic(prepared, options.output, weight_type=QuantType.QInt8, per_channel=True)
            return
        quantize_static(
            str(prepared),
            str(options.output),
            _Reader(Samples(options.samples)),
            quant_format=QuantFormat[options.form],
            per_channel=True,
            activation_type=QuantType.QInt8 if options.signed else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=_METHODS[options.method],
            op_types_to_quantize=options.operators,
            extra_options={"ActivationSymmetric": True} if options.signed else {},
        )


if __name__ == "__main__":
    main()
