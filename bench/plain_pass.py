"""A plain float pass over data, as a whole process: the limit that calibration is measured against.

python -m bench.plain_pass MODEL DATA PREPROCESS THREADS
"""

import sys

import onnxruntime as ort

from qtool.core.tensorspec import InputSpec
from qtool.feeds import open_feeds


def main(model: str, data: str, preprocess: str, threads: str) -> None:
    """Run every sample once, batch 1, with onnxruntime's defaults and `threads` intra-op threads."""
    import numpy as np

    options = ort.SessionOptions()
    options.intra_op_num_threads = int(threads)
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
    inputs = [InputSpec(i.name, np.dtype(kinds[i.type]), tuple(i.shape)) for i in session.get_inputs()]
    for batch in open_feeds(data, inputs, preprocess=preprocess if preprocess != "-" else None):
        session.run(None, batch.inputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
