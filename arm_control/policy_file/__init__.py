"""The policy file: an ONNX graph with a contract in its metadata, read and checked without PyTorch.

`contract` is the metadata: joints, limits, inputs and outputs with units. `onnx_file` checks a file before onnxruntime
loads it: its bytes with `protobuf`, its operators with `onnx_graph`, the sizes of its tensors with `onnx_shapes`.
"""
