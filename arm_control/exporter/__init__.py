"""Export of a run's policy to one ONNX file.

`exporter` writes the file and its contract, `graph` traces the policy with its observation and scaling, `fusion` is an
optional pass that reduces its operations, `agreement` compares the file with PyTorch on the states of `states`.
"""
