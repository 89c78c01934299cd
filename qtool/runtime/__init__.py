"""The only importer of onnxruntime: sessions, providers, the census and the observer; without its telemetry."""

from qtool.core.process import without_telemetry

without_telemetry()
