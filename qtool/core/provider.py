"""Where onnxruntime runs models: the choices of `--provider`; `qtool.runtime.providers` says what each asks for."""

PROVIDERS = ("cpu", "cuda", "tensorrt")
