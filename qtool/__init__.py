"""qtool: from a float ONNX model to an int8 model that onnxruntime's integer kernels really run, with the proof.

    import qtool

    qtool.calibrate("model.onnx", "images.npz", "model.calib")
    qtool.quantize("model.onnx", "model.int8.onnx", calibration="model.calib")
    qtool.evaluate("model.onnx", ["model.int8.onnx"], "labelled.npz", metrics=["top1"], max_drop="1%")

Everything is imported when it is first used, so that `import qtool` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qtool.core.errors import QtoolError
    from qtool.core.numerics.calibrators import Calibrator
    from qtool.core.records.calibration_inspection import CalibrationInspection
    from qtool.core.records.difference import Difference
    from qtool.core.records.evaluation import Evaluation, MaxDrop
    from qtool.core.records.finetuning import Finetuned
    from qtool.core.records.inspection import Inspection
    from qtool.core.records.options import Scheme
    from qtool.core.records.plan import Plan, load_plan
    from qtool.core.records.results import Calibrated, Quantized
    from qtool.core.records.sensitivity import Sensitivity
    from qtool.core.records.statistics import Statistics, load_statistics
    from qtool.core.records.tuning import Tuned
    from qtool.evaluation.evaluate import evaluate
    from qtool.execution.cluster import Cluster
    from qtool.execution.workers import Workers
    from qtool.finetuning.finetune import finetune
    from qtool.generation.together import calibrate_pipeline, evaluate_pipeline
    from qtool.inspection.calibration_file import inspect_calibration
    from qtool.inspection.diff import diff
    from qtool.inspection.inspect import inspect_model
    from qtool.pipeline.calibration.calibrate import calibrate, merge
    from qtool.quantization.quantize import quantize
    from qtool.tuning.sensitivity.analyze import sensitivity
    from qtool.tuning.tune import tune

__version__ = "0.1.0"
__all__ = [
    "Calibrated",
    "CalibrationInspection",
    "Calibrator",
    "Cluster",
    "Difference",
    "Evaluation",
    "Finetuned",
    "Inspection",
    "MaxDrop",
    "Plan",
    "QtoolError",
    "Quantized",
    "Scheme",
    "Sensitivity",
    "Statistics",
    "Tuned",
    "Workers",
    "__version__",
    "calibrate",
    "calibrate_pipeline",
    "diff",
    "evaluate",
    "evaluate_pipeline",
    "finetune",
    "inspect_calibration",
    "inspect_model",
    "load_plan",
    "load_statistics",
    "merge",
    "quantize",
    "sensitivity",
    "tune",
]

_HOME = {
    "Calibrated": "qtool.core.records.results",
    "CalibrationInspection": "qtool.core.records.calibration_inspection",
    "Calibrator": "qtool.core.numerics.calibrators",
    "Cluster": "qtool.execution.cluster",
    "Difference": "qtool.core.records.difference",
    "Evaluation": "qtool.core.records.evaluation",
    "Inspection": "qtool.core.records.inspection",
    "MaxDrop": "qtool.core.records.evaluation",
    "Finetuned": "qtool.core.records.finetuning",
    "Plan": "qtool.core.records.plan",
    "QtoolError": "qtool.core.errors",
    "Quantized": "qtool.core.records.results",
    "Scheme": "qtool.core.records.options",
    "Sensitivity": "qtool.core.records.sensitivity",
    "Statistics": "qtool.core.records.statistics",
    "Tuned": "qtool.core.records.tuning",
    "Workers": "qtool.execution.workers",
    "calibrate": "qtool.pipeline.calibration.calibrate",
    "calibrate_pipeline": "qtool.generation.together",
    "diff": "qtool.inspection.diff",
    "evaluate": "qtool.evaluation.evaluate",
    "evaluate_pipeline": "qtool.generation.together",
    "finetune": "qtool.finetuning.finetune",
    "inspect_calibration": "qtool.inspection.calibration_file",
    "inspect_model": "qtool.inspection.inspect",
    "load_plan": "qtool.core.records.plan",
    "load_statistics": "qtool.core.records.statistics",
    "merge": "qtool.pipeline.calibration.calibrate",
    "quantize": "qtool.quantization.quantize",
    "sensitivity": "qtool.tuning.sensitivity.analyze",
    "tune": "qtool.tuning.tune",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'qtool' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
