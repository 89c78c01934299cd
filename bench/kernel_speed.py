"""`python -m bench.kernel_speed` measures onnxruntime's kernels, in integers and in float: qtool/targets/times.py.

Random chains of layers are quantised, and both forms are run with onnxruntime's profiler: each kernel stands between
its like, integers channels last, float in blocks of channels. The times of each kind are fitted, by least squares of
relative errors with factors that are not negative, to the units of `qtool.targets.costs`. Run it on an idle machine
whose processor is the target's; the rows of other targets stay as they are.

    python -m bench.kernel_speed [--chains N] [--seed N] [--attention | --uneven]
"""

import argparse
import itertools
import json
import math
import pprint
import random
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import qtool
from bench.attention_speed import measured_attention
from bench.process import REPOSITORY
from qtool.core.records.options import Scheme
from qtool.graph import model_io
from qtool.graph.shapes import known_shapes
from qtool.pipeline.prepare import prepare
from qtool.targets.costs import COPIED, SLICED, Units, terms_of
from qtool.targets.tables import find_target
from qtool.targets.times import TIMES

FILE = REPOSITORY / "qtool" / "targets" / "times.py"
RUNS = 50
MOVES = ("QuantizeLinear", "DequantizeLinear", "Transpose", "ReorderInput", "ReorderOutput")
UNEVEN = (f"integer {COPIED}", f"integer {SLICED}")
LONGEST, LITTLE = 20000.0, 1000.0
Row = tuple[Mapping[str, float], float]


class Chain:
    """A random network: what is appended reads what was appended last."""

    def __init__(self, seed: int) -> None:
        self.choose, self.numbers = random.Random(seed), np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.last, self.channels = "x", 0
        self.size = (0, 0)

    def node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        """Append a node, and return its output."""
        number = len(self.nodes)
        self.nodes.append(helper.make_node(op, inputs, [f"t{number}"], f"n{number}", **attributes))
        return f"t{number}"

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        values = self.numbers.normal(0, 1 / math.sqrt(math.prod(shape[1:]) or 1), shape).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(self, channels: int, kernel: tuple[int, int], stride: int = 1, group: int = 1, act: str = "Relu") -> None:
        pads = [k // 2 for k in kernel] * 2
        w, b = self.weight(channels, self.channels // group, *kernel), self.weight(channels)
        self.last = self.node("Conv", [self.last, w, b], strides=[stride] * 2, pads=pads, group=group)
        self.channels = channels
        self.size = tuple((n + 2 * (k // 2) - k) // stride + 1 for n, k in zip(self.size, kernel, strict=True))  # type: ignore[assignment]
        if act:
            self.last = self.node(act, [self.last])

    def step(self) -> None:
        """Append one of the things that networks are made of."""
        choose, small = self.choose, min(self.size) >= 4
        wide = (8, 12, 16, 24, 32, 40, 64, 88, 96, 128, 192, 256)
        what = choose.choice(
            ["depthwise", "depthwise", "pointwise", "pointwise", "full", "grouped", "add", "gate", "pool", "mean"]
        )
        stride = choose.choice((1, 1, 2)) if small else 1
        if what == "depthwise":
            self.conv(self.channels, choose.choice(((3, 3), (3, 3), (5, 5))), stride, self.channels)
        elif what == "pointwise":
            self.conv(choose.choice(wide), (1, 1))
        elif what == "grouped" and self.channels % 8 == 0 and self.channels >= 16:
            self.conv(self.channels, (3, 3), 1, choose.choice((2, 4)))
        elif what == "add":
            before = self.last
            self.conv(self.channels, (1, 1), act="")
            self.last = self.node("Relu", [self.node("Add", [before, self.last])])
        elif what == "gate":
            before, size = self.last, self.size
            self.last, self.size = self.node("GlobalAveragePool", [before]), (1, 1)
            channels = self.channels
            self.conv(max(channels // 4, 8), (1, 1))
            self.conv(channels, (1, 1), act="Sigmoid")
            self.last, self.size = self.node("Mul", [before, self.last]), size
        elif what == "pool" and small:
            op = choose.choice(("MaxPool", "AveragePool"))
            self.last = self.node(op, [self.last], kernel_shape=[2, 2], strides=[2, 2])
            self.size = (self.size[0] // 2, self.size[1] // 2)
        elif what == "mean":
            before = self.last
            self.conv(self.channels, (1, 1), act=choose.choice(("Sigmoid", "LeakyRelu")))
            self.last = self.node("Concat", [before, self.last], axis=1)
            self.channels *= 2
            self.conv(choose.choice(wide), (1, 1))
        else:
            kernel = choose.choice(((3, 3), (3, 3), (5, 5), (3, 1), (7, 3)))
            self.conv(choose.choice((8, 12, 16, 24, 32, 48, 64)), kernel, stride)

    def uneven(self) -> None:
        """Append a convolution of few channels, or of a number that no vector takes, and what drops some of many."""
        choose = self.choose
        kernel = choose.choice(((1, 1), (3, 3), (3, 3), (5, 5), (1, 9), (7, 7)))
        self.conv(choose.choice((1, 2, 3, 4, 6, 8, 10, 12, 14, 17, 18, 21, 30, 33, 50, 58, 85)), kernel)
        many = choose.choice((16, 16, 20, 32, 64))
        self.conv(many, choose.choice(((1, 1), (3, 3))))
        if choose.random() < 0.5:
            kept = choose.randint(1, many - 1)
            bounds = [self.constant(n) for n in (0, kept, 1)]
            self.last, self.channels = self.node("Slice", [self.last, *bounds]), kept

    def constant(self, number: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array([number], np.int64), name))
        return name

    def model(self, shape: list[int]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "chain",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(self.last, TensorProto.FLOAT, None)],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def chains(count: int, seed: int) -> Iterator[tuple[onnx.ModelProto, list[int]]]:
    """Images that a first convolution reads, the middles of networks, and vectors."""
    for number in range(count):
        chain = Chain(1000 * seed + number)
        choose = chain.choose
        if number % 5 == 4:
            rows, width = choose.choice((1, 1, 4, 32, 128)), choose.choice((16, 64, 100, 256, 512))
            shape = [rows, width]
            for _ in range(6):
                out = choose.choice((10, 16, 64, 100, 128, 256, 512))
                product = chain.node("Gemm", [chain.last, chain.weight(width, out), chain.weight(out)])
                chain.last, width = chain.node("Relu", [product]), out
        else:
            first = number % 5 in (0, 2)
            chain.channels = choose.choice((1, 1, 2, 3, 3, 4) if first else (8, 16, 24, 32, 48, 64))
            lengths = (28, 48, 64, 96, 128, 224, 224, 320, 400, 640) if first else (7, 12, 14, 24, 28, 48, 56)
            height = choose.choice(lengths)
            chain.size = (height, choose.choice((10, 40, 96, 120)) if choose.random() < 0.3 or height > 224 else height)
            shape = [1, chain.channels, *chain.size]
            if first:
                kernel = choose.choice(((3, 3), (3, 3), (5, 5), (7, 7), (1, 3), (9, 4)))
                chain.conv(choose.choice((8, 12, 16, 24, 32, 64)), kernel, choose.choice((1, 2)))
            for _ in range(choose.randint(4, 8)):
                if min(chain.size) >= 2:
                    chain.step()
            chain.last = chain.node("Flatten", [chain.node("GlobalAveragePool", [chain.last])])
        yield chain.model(shape), shape


def uneven_chains(count: int, seed: int) -> Iterator[tuple[onnx.ModelProto, list[int]]]:
    """Networks of convolutions whose channels are few, or of a number that no vector takes."""
    for number in range(count):
        chain = Chain(1000 * seed + number)
        choose = chain.choose
        chain.channels = choose.choice((1, 3, 8, 16, 18, 30, 32, 58, 64, 128))
        chain.size = (height := choose.choice((7, 14, 28, 28, 56, 56, 100)), choose.choice((height, height, 40)))
        shape = [1, chain.channels, *chain.size]
        for _ in range(choose.randint(2, 3)):
            chain.uneven()
        chain.last = chain.node("Flatten", [chain.node("GlobalAveragePool", [chain.last])])
        yield chain.model(shape), shape


def profiled(model: Path, inputs: Mapping[str, np.ndarray], folder: Path) -> list[tuple[str, str, list[int], float]]:
    """(name, operator, shape of the output, microseconds) of each kernel: the mean of its faster half of runs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level, options.enable_profiling = 1, 4, True
    options.profile_file_prefix = str(folder / "profile")
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    for _ in range(RUNS):
        session.run(None, dict(inputs))
    events = json.loads(Path(session.end_profiling()).read_text())
    times, about = defaultdict(list), {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            times[name].append(event["dur"])
            about[name] = event["args"]
    result = []
    for name, taken in times.items():
        half = sorted(taken)[: max(len(taken) // 2, 1)]
        shapes = [next(iter(s.values())) for s in about[name]["output_type_shape"]]
        result.append((name, about[name]["op_name"], shapes[0] if shapes else [0], sum(half) / len(half)))
    return result


def measured(networks: Iterator[tuple[onnx.ModelProto, list[int]]]) -> dict[str, list[Row]]:
    """Row of the table -> (units, nanoseconds) of each kernel that was seen."""
    found: dict[str, list[Row]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, (model, shape) in enumerate(networks):
            print(f"\rchain {number + 1}", end="", file=sys.stderr, flush=True)
            source, quantized = folder / "float.onnx", folder / "int8.onnx"
            onnx.save(model, source)
            inputs = {"x": np.random.default_rng(number).random(shape, np.float32)}
            qtool.quantize(
                source, quantized, data=[inputs], calibrator="max", bias_correction="off", smoothing="off",
                form="static", optimize_for="size", scheme=Scheme(),
            )  # fmt: skip
            graph = prepare(model_io.load(source)).model
            units = _units(graph, {name: array.shape for name, array in inputs.items()})
            for form, file in (("float", source), ("integer", quantized)):
                _take(form, profiled(file, inputs, folder), units, found)
    print(file=sys.stderr)
    # what the profiler itself takes is in every time; the least kernel takes next to nothing
    own = min(time for rows in found.values() for _, time in rows) - 200.0
    return {row: [(units, time - own) for units, time in rows] for row, rows in found.items()}


def _units(graph: object, fed: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, Units]]:
    """Number in the names of a node -> its operator and units."""
    shapes = known_shapes(graph, fed)  # type: ignore[arg-type]
    result = {}
    for node in graph.graph:  # type: ignore[attr-defined]
        terms = terms_of(node, shapes)
        if terms is not None and (number := re.match(r"n(\d+)", str(node.name))):
            result[number.group(1)] = (node.op_type, terms)
    return result


def _take(
    form: str,
    kernels: list[tuple[str, str, list[int], float]],
    units: Mapping[str, tuple[str, Units]],
    found: dict[str, list[Row]],
) -> None:
    for name, op, made, us in kernels:
        time, elements = 1000.0 * us, math.prod(made)
        if op in MOVES and not (op == "Transpose" and form == "float"):
            found[f"move {op}"].append(({"call": 1, "element": elements}, time))
        number = re.search(r"\b[nt](\d+)", name)
        if number is None or time > 1000.0 * LONGEST:
            continue
        # a convolution with its activation is called as that
        key, plain = number.group(1), op.removeprefix("Fused").removeprefix("Nhwc").removeprefix("QLinear")
        if plain in ("Conv", "Gemm") and units.get(key, ("",))[0] != plain:
            key = str(int(key) - 1)
        known = units.get(key)
        integer = op.startswith(("QLinear", "QGemm", "NhwcMaxPool")) or (op == SLICED and form == "integer")
        if known is None or integer != (form == "integer") or known[0] not in op:
            continue
        if integer and known[1].copied is not None:
            found[f"integer {COPIED}"].append((known[1].copied, time))
            continue
        terms = known[1].integer if integer else known[1].floating
        if op == SLICED and integer and made[-1] * terms["pixel"] != elements:
            # channels first, which is a copy of one piece: behind a convolution they are last
            continue
        found[f"{form} {known[1].kind}"].append((terms, time))


def fitted(rows: list[Row]) -> dict[str, float]:
    """The factors, none negative, that leave the least squares of relative errors.

    Errors of times below a microsecond count as if they were that long.
    """
    names = list(rows[0][0])
    times = np.array([time for _, time in rows])
    counts = np.array([[units[name] for name in names] for units, _ in rows], float)
    sizes = np.maximum(counts.max(axis=0), 1e-30)
    weights = 1.0 / (times + LITTLE)
    for _ in range(6):
        factors = _nonnegative(counts / sizes * weights[:, None], times * weights)
        # too much and too little by the same factor count alike
        weights = 1.0 / np.sqrt((times + LITTLE) * (counts / sizes @ factors + LITTLE))
    return {name: float(f"{factor:.3g}") for name, factor in zip(names, factors / sizes, strict=True) if factor > 0}


def _nonnegative(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """By coordinates."""
    square, product = matrix.T @ matrix, matrix.T @ right
    factors = np.zeros(len(square))
    for _ in range(2000):
        for i in range(len(factors)):
            if square[i, i] > 0:
                factors[i] = max(0.0, factors[i] + (product[i] - square[i] @ factors) / square[i, i])
    return factors


def main() -> None:
    """Measure, fit and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--attention", action="store_true", help="measure attention alone; other rows stay")
    parser.add_argument("--uneven", action="store_true", help="measure uneven channels alone; other rows stay")
    options = parser.parse_args()
    target, count, seed = find_target("auto").name, options.chains, options.seed
    uneven = uneven_chains(count if options.uneven else count // 4, seed)
    if options.uneven:
        found = {row: rows for row, rows in measured(uneven).items() if row in UNEVEN}
    elif options.attention:
        found = {}
    else:
        found = measured(itertools.chain(chains(count, seed), uneven))
    if not options.uneven:
        with tempfile.TemporaryDirectory() as name:
            found |= measured_attention(count, seed, Path(name))
    table = {row: fitted(rows) for row, rows in sorted(found.items()) if len(rows) >= 4}
    for row, rows in sorted(found.items()):
        if row in table:
            guesses = [sum(table[row].get(unit, 0.0) * n for unit, n in units.items()) for units, _ in rows]
            errors = [abs(np.log(max(g, 1.0) / time)) for g, (_, time) in zip(guesses, rows, strict=True)]
            print(f"{row}: {len(rows)} kernels, median error {np.expm1(np.median(errors)):.0%}, {table[row]}")
    kept = TIMES.get(target, {}) if options.attention or options.uneven else {}
    body = pprint.pformat({**TIMES, target: {**kept, **table}}, width=118, sort_dicts=True)
    FILE.write_text(f"{HEAD}TIMES: dict[str, dict[str, dict[str, float]]] = {body}\n", encoding="utf-8")


HEAD = '''"""The times of kernels, by `python -m bench.kernel_speed`: target -> row -> unit -> ns; do not edit."""

# fmt: off
'''

if __name__ == "__main__":
    main()
