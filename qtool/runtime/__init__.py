"""The only importer of onnxruntime: sessions and the kernel census."""
