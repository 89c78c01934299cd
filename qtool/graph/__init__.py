"""The only importer of onnx and onnx_ir: load, save, ask, edit."""
