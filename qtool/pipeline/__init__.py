"""A float model goes through these rooms in order, and comes out as an int8 model with its proof.

    prepare      a model as it came -> the same function, in the form that quantisation starts from
    recovery     the prepared graph, and what a recipe says -> one that loses less: equalised, absorbed, smoothed
    planning     place: which tensors get Q/DQ, what shares a range, what stays float and why
                 ranges: calibrator and statistics -> (low, high) a tensor
                 plan: every scale, zero point, weight and bias decision, as data in JSON
    calibration  one streaming pass over the data -> statistics: a histogram a tensor, and a few samples
    rewrite      the prepared graph and a plan -> the int8 model; no policy
    verify       what onnxruntime will run of it, and whether it computes the same

A later room may import an earlier one: prepare < recovery < planning < calibration. `rewrite` and `verify` import no
sibling: they know only the graph and the plan.
"""
