"""The only importer of onnx and onnx_ir: load, save, ask, edit."""

from qtool.core.process import import_lazily

import_lazily("onnx", {"google.protobuf.json_format", "google.protobuf.text_format", "onnx.compose", "onnx.gen_proto"})
import_lazily("onnx_ir", {"sympy", "onnx_ir._symbolic_shapes"})
