"""What the models that the tools made are worth: all of them run in this process, with one onnxruntime."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import qtool
from bench.contenders import PLAIN
from bench.kernels import integer_layers
from bench.process import shortened
from bench.standing import Line, Quality
from bench.zoo_models import ZooModel
from qtool.core.records.evaluation import ModelResult
from qtool.feeds import open_feeds
from qtool.runtime.session import Session


def judged(model: ZooModel, lines: Sequence[Line], files: Mapping[str, Path]) -> list[Line]:
    """The lines with the quality of their models, or with the reason why one does not run."""
    failures = {line.name: line.failure or _trial(model, files[line.name]) for line in lines if line.name != PLAIN}
    runnable = [name for name, failure in failures.items() if failure is None]
    evaluation = qtool.evaluate(
        model.model,
        [files[name] for name in runnable],
        str(model.evaluation),
        metrics=[model.metric],
        samples=model.evaluate_with,
        preprocess=model.preprocess,
        trim=model.trim,
        latency=True,
    )
    results = dict(zip([PLAIN, *runnable], (evaluation.float_model, *evaluation.candidates), strict=True))
    return [
        replace(line, quality=_quality(model, results[line.name]))
        if line.name in results
        else replace(line, failure=failures[line.name])
        for line in lines
    ]


def _quality(model: ZooModel, result: ModelResult) -> Quality:
    speedup = 1.0 if result.latency is None else result.latency.speedup
    layers = integer_layers(Path(result.path))
    metric = None if model.metric == "sqnr" else result.scores[0].value
    return Quality(result.size_bytes / 1e6, *layers, speedup, result.sqnr_db, metric)


def _trial(model: ZooModel, file: Path) -> str | None:
    """Why the model does not run on a sample."""
    try:
        session = Session(file)
        feeds = open_feeds(model.evaluation, session.inputs, preprocess=model.preprocess, trim=model.trim, samples=1)
        for batch in feeds:
            session.run_list(batch.inputs, session.outputs)
    except Exception as error:  # whatever is wrong with a tool's model is its result
        return f"its model does not run: {shortened(str(error))}"
    return None
