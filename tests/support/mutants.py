"""A campaign by hand: models mutated at random must be refused in one line or work, and never crash.

    python -m tests.support.mutants [COUNT] [SEED]

Each mutant is loaded, prepared and quantised, `weight-only` and static on a few samples, in processes that may die.
Printed are the mutants that end otherwise than with success or a `QtoolError` of one line: a traceback, a warning, a
signal. Their files are kept, to be made small for a test.
"""

import json
import multiprocessing
import random
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import qtool
from tests.support.fuzz import confine
from tests.support.patterns import Net

_TIMEOUT_S = 60
_AT_ONCE = 20
_FED = 64


def seeds() -> list[tuple[str, onnx.ModelProto]]:
    """Return small valid models that hold what preparation rewrites."""

    def convolutions(net: Net) -> str:
        spread = net.const(net.rng.uniform(0.5, 2.0, 8))
        h = net("BatchNormalization", net.conv("x", 3, 8), net.bias(8), net.bias(8), net.bias(8), spread)
        padded = net("Pad", net("Relu", h), net.const([0, 0, 1, 1, 0, 0, 1, 1], dtype=np.int64), net.const(0.0))
        h = net("Conv", padded, net.weight(8, 1, 3, 3, inputs=9), group=8)
        gate = net("Clip", net("Add", h, net.const(3.0)), net.const(0.0), net.const(6.0))
        h = net("Div", net("Mul", h, gate), net.const(6.0))
        h = net("Concat", h, net("Slice", h, *(net.const([n], dtype=np.int64) for n in (0, 4, 1))), axis=1)
        pooled = net("ReduceMean", net("Dropout", net("MaxPool", h, kernel_shape=[2, 2])), axes=[2, 3])
        return net("Flatten", net.conv(pooled, 12, 5, kernel=(1, 1)))

    def tokens(net: Net) -> str:
        h = net("Add", net("MatMul", "x", net.weight(1, 16, 16, inputs=16)), net.bias(16))
        shape = net("Concat", net("Gather", net("Shape", h), net.const([0], dtype=np.int64)),
                    net.const([4, 2, 8], dtype=np.int64), axis=0)  # fmt: skip
        heads = net("Transpose", net("Reshape", h, shape), perm=[0, 2, 1, 3])
        scores = net("MatMul", heads, net("Transpose", heads, perm=[0, 1, 3, 2]))
        mixed = net("Transpose", net("MatMul", net("Softmax", scores), heads), perm=[0, 2, 1, 3])
        h = net("Add", h, net("Reshape", mixed, net.const([0, 0, -1], dtype=np.int64)))
        h = net("LayerNormalization", h, net.bias(16), net.bias(16))
        h = net(
            "Mul", net("Cast", h, to=TensorProto.FLOAT), net("Expand", net.const(1.0), net.const([1], dtype=np.int64))
        )
        first = net("Squeeze", net("Split", h, outputs=4, axis=1)[0], net.const([1], dtype=np.int64))
        return net("Gemm", net("Tanh", first), net.weight(6, 16, inputs=16), net.bias(6), transB=1, alpha=0.5, beta=2.0)

    def branches(net: Net) -> str:
        inner = [
            helper.make_node("MatMul", ["x", "wi"], ["mi"], name="inside"),
            helper.make_node("Relu", ["mi"], ["yi"], name="relu_inside"),
        ]
        net.const(net.rng.normal(size=(12, 12)), "wi")
        shape = [helper.make_tensor_value_info("yi", TensorProto.FLOAT, None)]
        then = helper.make_graph(inner, "then", [], shape)
        other = helper.make_graph([helper.make_node("Identity", ["x"], ["zi"], name="id")], "else", [],
                                  [helper.make_tensor_value_info("zi", TensorProto.FLOAT, None)])  # fmt: skip
        chosen = net("If", net.const(True, dtype=bool), then_branch=then, else_branch=other)
        steps = net("Unsqueeze", chosen, net.const([0], dtype=np.int64))
        weights = net.weight(1, 32, 12, inputs=12), net.weight(1, 32, 8, inputs=8)
        made, *_ = net("LSTM", steps, *weights, outputs=3, hidden_size=8)
        return net("MatMul", made, net.weight(8, 4, inputs=8))

    def old(net: Net) -> str:
        h = net("Upsample", net("Clip", net.conv("x", 3, 8), min=0.0, max=6.0), net.const([1, 1, 2, 2]))
        h = net("Hardmax", net("Pad", h, pads=[0, 0, 1, 1, 0, 0, 1, 1]), axis=1)
        return net("Softmax", net("Squeeze", net("GlobalAveragePool", net.conv(h, 8, 4)), axes=[2, 3]))

    made = []
    for name, build, net in (
        ("convolutions", convolutions, Net()),
        ("tokens", tokens, Net(4, 16)),
        ("branches", branches, Net(12)),
        ("old", old, Net(opset=9, ir_version=4)),
    ):
        made.append((name, net.model(build(net))))
    return made


def _graphs(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    inside = [a.g for node in model.graph.node for a in node.attribute if a.HasField("g")]
    return [model.graph, model.graph, model.graph, *inside]


def mutated(model: onnx.ModelProto, rng: random.Random) -> bytes:
    """Return a model's bytes with one to three changes: to a byte, a node, a tensor, an attribute, a shape."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    changes = rng.choices(_CHANGES, k=rng.choice((1, 1, 1, 2, 3)))
    for change in changes:
        try:
            change(copy, rng)
        except (IndexError, ValueError, TypeError):
            continue
    data = bytearray(copy.SerializeToString())
    if rng.random() < 0.25:
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def _node(model: onnx.ModelProto, rng: random.Random) -> tuple[onnx.GraphProto, onnx.NodeProto]:
    graph = rng.choice(_graphs(model))
    return graph, rng.choice(graph.node)


def _drop_node(model: onnx.ModelProto, rng: random.Random) -> None:
    graph, node = _node(model, rng)
    graph.node.remove(node)


def _double_node(model: onnx.ModelProto, rng: random.Random) -> None:
    graph, node = _node(model, rng)
    graph.node.add().CopyFrom(node)


def _shuffle(model: onnx.ModelProto, rng: random.Random) -> None:
    graph = rng.choice(_graphs(model))
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    rng.shuffle(nodes)
    del graph.node[:]
    graph.node.extend(nodes)


def _names(model: onnx.ModelProto) -> list[str]:
    graphs = _graphs(model)[2:]
    made = [name for graph in graphs for node in graph.node for name in node.output]
    return [*made, *(i.name for graph in graphs for i in graph.initializer), "x", "", "nobody"]


def _rewire(model: onnx.ModelProto, rng: random.Random) -> None:
    _, node = _node(model, rng)
    node.input[rng.randrange(len(node.input))] = rng.choice(_names(model))


def _fewer_inputs(model: onnx.ModelProto, rng: random.Random) -> None:
    _, node = _node(model, rng)
    del node.input[rng.randrange(len(node.input))]


def _more_inputs(model: onnx.ModelProto, rng: random.Random) -> None:
    _, node = _node(model, rng)
    node.input.append(rng.choice(_names(model)))


def _outputs(model: onnx.ModelProto, rng: random.Random) -> None:
    _, node = _node(model, rng)
    if rng.random() < 0.5:
        node.output.append(rng.choice(("", "spare", node.output[0])))
    else:
        node.output[rng.randrange(len(node.output))] = rng.choice(("", "x", "spare"))


def _operator(model: onnx.ModelProto, rng: random.Random) -> None:
    _, node = _node(model, rng)
    node.op_type = rng.choice(
        _node(model, rng)[1].op_type if rng.random() < 0.7 else ("Relu", "Foo", "QLinearConv", "")
    )


def _domain(model: onnx.ModelProto, rng: random.Random) -> None:
    _, node = _node(model, rng)
    node.domain = rng.choice(("ai.onnx", "com.microsoft", "own", "ai.onnx.ml"))


def _attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    nodes = [node for graph in _graphs(model)[2:] for node in graph.node if node.attribute]
    node = rng.choice(nodes)
    found = rng.choice(node.attribute)
    odd = rng.choice((0, 1, -1, 2, 7, 2**31, -(2**63), 2**63 - 1))
    kind = rng.randrange(4)
    if kind == 0:
        node.attribute.remove(found)
    elif found.ints and kind == 1:
        found.ints[rng.randrange(len(found.ints))] = odd
    elif found.ints and kind == 2:
        del found.ints[rng.randrange(len(found.ints)) :]
    elif found.HasField("i"):
        found.i = odd
    elif found.HasField("f"):
        found.f = rng.choice((0.0, -1.0, float("nan"), float("inf"), 1e38))
    else:
        found.type = rng.choice((1, 2, 3, 4, 6, 7))


def _new_attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    _, node = _node(model, rng)
    name = rng.choice(("axis", "axes", "pads", "group", "perm", "alpha", "kernel_shape", "auto_pad", "to"))
    node.attribute.append(helper.make_attribute(name, rng.choice((1, -1, [1, 1], [0, 2], 0.5, "SAME_UPPER"))))


def _dims(model: onnx.ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    array = numpy_helper.to_array(tensor)
    kind = rng.randrange(7)
    if kind == 0:
        array = array.reshape(-1)
    elif kind == 1:
        array = array[None]
    elif kind == 2:
        array = array[:0] if array.ndim else array
    elif kind == 3:
        array = array[:1] if array.ndim else array
    elif kind == 4:
        array = array.astype(rng.choice((np.float64, np.float16, np.int64, np.int32, np.bool_)))
    elif kind == 5:
        array = np.full_like(array, rng.choice((0, 1, -1, 3)))
    else:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice((0, -1, 1, 2**40))
        return
    name = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))


def _odd_numbers(model: onnx.ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    array = numpy_helper.to_array(tensor).copy()
    odd = (
        rng.choice((np.nan, np.inf, 1e38, 1e-40, 0))
        if array.dtype.kind == "f"
        else rng.choice((-1, 2**31 - 1, -(2**62)))
    )
    array.reshape(-1)[rng.randrange(array.size)] = odd
    name = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def _drop_tensor(model: onnx.ModelProto, rng: random.Random) -> None:
    model.graph.initializer.remove(rng.choice(model.graph.initializer))


def _rename(model: onnx.ModelProto, rng: random.Random) -> None:
    _, node = _node(model, rng)
    node.name = rng.choice(("", "n" * 3000, "a\nb", "\x1b[31m", "ö", "((a+)+)+", "x", _node(model, rng)[1].name))


def _signature(model: onnx.ModelProto, rng: random.Random) -> None:
    value = rng.choice([*model.graph.input, *model.graph.output])
    kind = rng.randrange(6)
    shape = value.type.tensor_type.shape
    if kind == 0:
        value.type.tensor_type.ClearField("shape")
    elif kind == 1:
        shape.dim[rng.randrange(len(shape.dim))].dim_value = rng.choice((0, 1, 5, -1, 2**40))
    elif kind == 2:
        shape.dim[rng.randrange(len(shape.dim))].dim_param = rng.choice(("N", "", "k"))
    elif kind == 3:
        del shape.dim[-1]
    elif kind == 4:
        value.type.tensor_type.elem_type = rng.choice((0, 1, 2, 7, 8, 10, 16, 99))
    else:
        value.name = rng.choice(_names(model))


def _stale(model: onnx.ModelProto, rng: random.Random) -> None:
    name = rng.choice(_names(model))
    shapes: list[list[int | str | None] | None] = [[1], [1, 1], ["n", 8, 1, 1], [3, 3, 3], None]
    model.graph.value_info.append(helper.make_tensor_value_info(name, rng.choice((1, 1, 7)), rng.choice(shapes)))


def _versions(model: onnx.ModelProto, rng: random.Random) -> None:
    if rng.random() < 0.7:
        model.opset_import[0].version = rng.choice((0, 1, 6, 7, 9, 11, 12, 13, 15, 18, 21, 99, -1))
    else:
        model.ir_version = rng.choice((0, 1, 3, 4, 10, 99))


_CHANGES: list[Callable[[onnx.ModelProto, random.Random], None]] = [
    _drop_node, _double_node, _shuffle, _rewire, _rewire, _fewer_inputs, _more_inputs, _outputs, _operator, _domain,
    _attribute, _attribute, _new_attribute, _dims, _dims, _odd_numbers, _drop_tensor, _rename, _signature, _stale,
    _versions,
]  # fmt: skip


def attempt(source: Path, form: str, samples: dict[str, np.ndarray]) -> str:
    """Quantise a model; return "" where it works or is refused in one line, else what happened."""
    warnings.simplefilter("error")
    output = source.with_suffix(".out")
    try:
        if form == "static":
            qtool.quantize(source, output, data=samples, calibrator="max", form="static", target="x86", partial=False)
        else:
            qtool.quantize(source, output, form="weight-only", target="x86")
    except qtool.QtoolError as error:
        text = str(error)
        return (
            "" if text.count("\n") == 0 and len(text) < 4000 and not output.exists() else f"odd message {text[:200]!r}"
        )
    except BaseException:
        return traceback.format_exc()
    finally:
        output.unlink(missing_ok=True)
    return ""


Work = tuple[Path, str, dict[str, np.ndarray]]


def _run(works: list[Work], report: Path) -> None:
    """Write what happened to each, one JSON text a line, begun with a line that is only filled when it ends."""
    with report.open("a", encoding="utf-8") as stream:
        for source, form, samples in works:
            stream.write(json.dumps(attempt(source, form, samples)) + "\n")
            stream.flush()


def outcomes(works: list[Work], report: Path) -> list[str]:
    """Do what `attempt` does in processes of their own, so that a signal is seen; return what it returns for each."""
    context = multiprocessing.get_context("fork")
    found: list[str] = []
    while len(found) < len(works):
        report.write_text("", encoding="utf-8")
        process = context.Process(target=_run, args=(works[len(found) :], report))
        process.start()
        process.join(_TIMEOUT_S)
        hangs = process.is_alive()
        process.kill()
        process.join()
        found += [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
        if len(found) < len(works):
            found.append("hangs" if hangs else f"ends with {process.exitcode}")
    return found


def main() -> None:
    """Run the campaign, and print what is wrong; exit with 1 where something is."""
    confine()
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    folder = Path(tempfile.mkdtemp(prefix="mutants-"))
    models = seeds()
    kinds: Counter[str] = Counter()
    for first in range(seed, seed + count, _AT_ONCE):
        works: list[Work] = []
        for number in range(first, min(first + _AT_ONCE, seed + count)):
            rng = random.Random(number)
            name, model = rng.choice(models)
            source = folder / f"{name}-{number}.onnx"
            source.write_bytes(mutated(model, rng))
            shape = [
                d.dim_value if 0 < d.dim_value < _FED else 4 for d in model.graph.input[0].type.tensor_type.shape.dim
            ]
            samples = {"x": np.random.default_rng(0).normal(size=shape).astype(np.float32)}
            works += [(source, form, samples) for form in ("static", "weight-only")]
        for (source, form, _), wrong in zip(works, outcomes(works, folder / "report"), strict=True):
            if wrong:
                last = wrong.strip().splitlines()[-1][:150]
                if kinds[last] == 0:
                    print(f"{source} {form}:\n{wrong}", flush=True)
                kinds[last] += 1
    print(f"{count} mutants; {kinds.total()} wrong")
    for last, times in kinds.most_common():
        print(f"{times:5d}  {last}")
    sys.exit(bool(kinds))


if __name__ == "__main__":
    main()
