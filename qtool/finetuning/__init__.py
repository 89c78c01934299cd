"""finetuning: a prepared graph computed by torch, with gradients, and what is learned with them.

The only importer of torch (extra `finetune`), which is imported where it is used.

`operators.py` is one table: an operator -> the function of torch that computes it; the functions stand in `functions/`,
by kind. `interpreter.py` runs a graph with them, whole or in part; what has no row is a border that onnxruntime runs,
without gradient. `borders.py` says which layers are out of reach for this reason. `blocks.py` divides a graph into what
is learned at a time. How to add a row: docs/adding/operator.md.
"""
