"""Compare models with the float one they were made from: accuracy, SQNR, agreement, size, latency, gates."""

from qtool.evaluation.comparison import DEFAULT_LATENCY_RUNS, evaluate

__all__ = ["DEFAULT_LATENCY_RUNS", "evaluate"]
