"""onnxruntime's own quantize_static on the same samples, as the bar to reach."""

import logging
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from bench.zoo_models import ZooModel
from qtool.feeds import open_feeds
from qtool.runtime.session import Session


class _Reader(CalibrationDataReader):
    def __init__(self, model: ZooModel, samples: int) -> None:
        inputs = Session(model.model).inputs
        feeds = open_feeds(model.calibration, inputs, preprocess=model.preprocess, samples=samples)
        self.batches = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else batch.inputs


@dataclass(frozen=True, slots=True)
class Settings:
    """What `quantize_static` is asked for; without arguments, what it does when it is not asked.

    percentile: None takes the smallest and largest value. operators: None is every operator that it can quantise.
    """

    activations: QuantType = QuantType.QInt8
    per_channel: bool = False
    percentile: float | None = None
    operators: tuple[str, ...] | None = None


U8S8 = Settings(QuantType.QUInt8, per_channel=True)
"""The form that onnxruntime computes fastest on x86, with a scale a channel: what qtool is held against elsewhere."""


def quantize_incumbent(model: ZooModel, output: Path, settings: Settings = U8S8, *, samples: int = 64) -> Path:
    """Quantise with int8 weights and Q/DQ pairs, behind onnxruntime's own preparation; return `output`."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        proto = onnx.load(str(model.model))
        if next(o.version for o in proto.opset_import if o.domain == "") < 13:
            raised = Path(folder) / "raised.onnx"
            onnx.save(onnx.version_converter.convert_version(proto, 13), str(raised))
            model = replace(model, model=raised)
        onnxruntime.set_default_logger_severity(4)
        logging.getLogger().setLevel(logging.ERROR)
        quant_pre_process(str(model.model), str(prepared), skip_symbolic_shape=True)
        percentile = settings.percentile
        extra = {} if percentile is None else {"CalibPercentile": percentile}
        quantize_static(
            str(prepared),
            str(output),
            _Reader(model, samples),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=settings.operators,
            per_channel=settings.per_channel,
            activation_type=settings.activations,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax if percentile is None else CalibrationMethod.Percentile,
            extra_options=extra,
        )
    return output
