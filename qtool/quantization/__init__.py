"""Chooses the plan that `quantize` writes: candidates, measured as onnxruntime runs them."""
