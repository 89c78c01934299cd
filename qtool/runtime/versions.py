"""The versions of onnxruntime that qtool knows."""

import re

import onnxruntime

NEWEST_TESTED = (1, 32)
"""The newest that the tests of patterns have run on: which kernels it makes of Q/DQ, and what these compute."""


def version_doubts() -> tuple[str, ...]:
    """Return a line where the installed onnxruntime is newer than those that the tables were tested with; else none."""
    found = re.match(r"(\d+)\.(\d+)", onnxruntime.__version__)
    if found is None or (int(found[1]), int(found[2])) <= NEWEST_TESTED:
        return ()
    known = ".".join(map(str, NEWEST_TESTED))
    return (
        f"onnxruntime {onnxruntime.__version__} is newer than {known}, the newest that this qtool was tested with; "
        "what it runs is verified all the same, and more layers may stay float",
    )
