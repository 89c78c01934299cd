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
    from qtool.calibration.calibrate import calibrate, merge
    from qtool.core.errors import QtoolError
    from qtool.core.plan import Plan
    from qtool.core.ranges import Calibrator
    from qtool.core.results import Calibrated, Quantized
    from qtool.core.scheme import Scheme
    from qtool.core.sensitivity import Sensitivity
    from qtool.core.statistics import Statistics, load_statistics
    from qtool.core.tuning import Tuned
    from qtool.evaluation import evaluate
    from qtool.pipeline import quantize
    from qtool.tuning.sensitivity import sensitivity
    from qtool.tuning.workflow import tune

__version__ = "0.1.0"
__all__ = [
    "Calibrated",
    "Calibrator",
    "Plan",
    "QtoolError",
    "Quantized",
    "Scheme",
    "Sensitivity",
    "Statistics",
    "Tuned",
    "__version__",
    "calibrate",
    "evaluate",
    "load_statistics",
    "merge",
    "quantize",
    "sensitivity",
    "tune",
]

_HOME = {
    "Calibrated": "qtool.core.results",
    "Calibrator": "qtool.core.ranges",
    "Plan": "qtool.core.plan",
    "QtoolError": "qtool.core.errors",
    "Quantized": "qtool.core.results",
    "Scheme": "qtool.core.scheme",
    "Sensitivity": "qtool.core.sensitivity",
    "Statistics": "qtool.core.statistics",
    "Tuned": "qtool.core.tuning",
    "calibrate": "qtool.calibration.calibrate",
    "evaluate": "qtool.evaluation",
    "load_statistics": "qtool.core.statistics",
    "merge": "qtool.calibration.calibrate",
    "quantize": "qtool.pipeline",
    "sensitivity": "qtool.tuning.sensitivity",
    "tune": "qtool.tuning.workflow",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'qtool' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
