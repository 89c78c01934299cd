"""A draft of the int8 model of a float one: quantised on one batch and timed, which tables of times only guess at."""

from pathlib import Path

from qtool.core.errors import QtoolError
from qtool.core.progress import Progress
from qtool.core.scratch import scratch_folder
from qtool.inspection.inputs import Example
from qtool.quantization.quantize import quantize


def draft_speedup(model: Path, example: Example, progress: Progress) -> tuple[float | None, str]:
    """Return how many times as fast as float a draft of the int8 model is on this machine; None, and why, without one.

    Its ranges are those of the one batch, its layers static or dynamic as that decides, and none is left in float for
    accuracy: the numbers that it computes are worth nothing, and the time that it takes is that of the real one.
    """
    try:
        with scratch_folder() as folder:
            found = quantize(
                model, folder / "draft.onnx", data=[dict(example)], calibrator="max", bias_correction="off",
                smoothing="off", refine="off", partial=False, progress=progress,
            )  # fmt: skip
    except QtoolError as error:
        return None, str(error).removeprefix(f"{model}: ")
    return found.timing.speedup, found.timing.absent
