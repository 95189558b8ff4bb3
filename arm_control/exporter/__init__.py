"""Export of a run's policy to one ONNX file, checked against PyTorch. Graph fusion is an optional pass."""
