"""The only importer of onnx and onnx_ir: load, save, ask, edit."""

from qtool.graph.deferred import import_ir

import_ir()
