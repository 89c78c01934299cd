"""The operators of ONNX in torch, a file for each kind.

A function takes the `Call` and the inputs (None where one is absent), and returns a tensor, or several as a tuple.
"""
