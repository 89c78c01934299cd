"""What a layer is planned as, and what it becomes, of models that onnxruntime's own quantiser writes."""
