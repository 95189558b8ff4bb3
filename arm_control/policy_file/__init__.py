"""The policy file: an ONNX graph with a contract in its metadata, read and checked without PyTorch."""
