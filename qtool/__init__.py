"""qtool: from a float ONNX model to an int8 model that onnxruntime's integer kernels really run, with the proof."""

__version__ = "0.1.0"
