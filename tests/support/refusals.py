"""A small model and its data, for the tests of bad input; the fixtures are in conftest.py."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from tests.support.patterns import Net

SAMPLES = np.random.default_rng(2).normal(size=(12, 3, 8, 8)).astype(np.float32)


def network(path: Path, tail: Callable[[Net, str], str] | None = None, *, weights: float = 1.0) -> Path:
    """Conv, Relu, Conv, then what `tail` adds; its input is called x."""
    net = Net(3, 8, 8)
    hidden = net("Relu", net.conv("x", 3, 8, name="first"))
    last = net.conv(hidden, 8, 4, name="last")
    net.constants = {name: array * weights for name, array in net.constants.items()}
    return net.save(path, last if tail is None else tail(net, last))


def classifier(path: Path) -> Path:
    """[N, 3, 8, 8] -> [N, 5]."""
    net = Net(3, 8, 8)
    flat = net("Flatten", net("GlobalAveragePool", net("Relu", net.conv("x", 3, 8))))
    proto = net.model(net.gemm(flat, 8, 5))
    proto.graph.node[-1].output[0] = proto.graph.output[0].name = "logits"
    onnx.save(proto, path)
    return path


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below `folder` with its bytes: what must not change. Python's own caches of modules may."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }
