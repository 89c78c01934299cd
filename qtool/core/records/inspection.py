"""The records of an inspection: what a model is, what onnxruntime runs of it, what that costs, and what to do."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from qtool.core.records.codec import Real
from qtool.core.records.header import document
from qtool.core.records.summary import shortened, summary
from qtool.core.text import amount

Kind = Literal["float", "int8"]
TIME_IT = "time it beside the float model"
REQUANTISE = "quantise the float model with qtool"
"""How a next step or a remedy says it; a report that knows the paths shows the command beside it."""
FOR_LATENCY = f"{REQUANTISE} for latency"
"""The same, with the option that lets the clock choose."""
BESIDE_FLOAT, OUTPUT_SQNR = "the speed of float", "output SQNR"
"""What the parts of a verdict on speed and accuracy say, between which there are semicolons."""
BAD = ("DOES NOT RUN", "WRONG", "SLOWER", "COSTS ACCURACY")
"""What the parts of a verdict say that are bad."""

ANY_PRESET, ANY_VALUE = "PRESET", "VALUE"
"""In the place of a suggested value of which a file says nothing."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of the model.

    name: its own. dtype: of its elements. shape: as the file gives it, with names for free dimensions; None where it
    does not.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None


@dataclass(frozen=True, slots=True)
class Grid:
    """The grid of one tensor: its 8-bit type, and the scale and zero point of each channel, or one of each.

    dtype: its 8-bit type. scale, zero_point: of each channel, or one of each. axis: of the channels; None where there
    is one scale. block: elements of a channel that share one, None where all do.
    """

    dtype: str
    scale: tuple[Real, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None
    block: int | None = None


@dataclass(frozen=True, slots=True)
class InspectedLayer:
    """One node that multiplies and accumulates: as its Q/DQ plan it, and as onnxruntime executes it.

    name: of the node in the file; op: its operator; output: the tensor that it makes, as a viewer of networks shows it.
    inside: the node whose body holds it, or "". macs, share: multiply-accumulates of one batch, and of all, 0 to 1;
    None where unknown. planned: whether the file's Q/DQ ask for integers; of a float model, whether `quantize` would
    make it integer on this machine's target. kernel: the operator that onnxruntime runs; "" where the node is gone.
    integer: whether that computes in integers. input, weight, result: the grids of its input, weight and output; None
    where these are float. ms: of one run; float_ms: of the same layer of the float model; None where not measured.
    sqnr_db: of its output against the float model's; alone_db: of the same with the layer's input taken from the float
    model; None where not measured. cause, remedy: why it is float though planned, or not planned, and what to do; ""
    where there is nothing to say.
    """

    name: str
    op: str
    output: str
    inside: str
    macs: int | None
    share: float | None
    planned: bool
    kernel: str
    integer: bool
    input: Grid | None
    weight: Grid | None
    result: Grid | None
    ms: float | None
    float_ms: float | None
    sqnr_db: Real | None
    alone_db: Real | None
    cause: str
    remedy: str


@dataclass(frozen=True, slots=True)
class InspectedNode:
    """One node of the graph that onnxruntime runs, in its order, for a map of the network.

    name, op: of the optimised graph; domain: of the operator. integer: whether it computes on 8-bit data. seam: whether
    it is a QuantizeLinear, DequantizeLinear or a Cast of 8-bit data, where the price of changing is paid. origin: a
    node of the file that it comes from, "" where unknown. inputs, outputs: tensors. ms: of one run; None where not
    measured.
    """

    name: str
    op: str
    domain: str
    integer: bool
    seam: bool
    origin: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ms: float | None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that costs speed, accuracy or trust: what it is, where, why, what it costs, and what to do.

    rule: a short stable name ("island", "seam", "requantised", "wrong-kernel", "float-tail", "unequal-ranges", ...), as
    docs/inspect.md lists them. where: names of nodes or tensors. ms, ms_share: the time spent in it, and of the whole,
    0 to 1; None where not measured. what, cause, remedy: a sentence each; the remedy may be "".
    """

    rule: str
    where: tuple[str, ...]
    what: str
    cause: str
    remedy: str
    ms: float | None = None
    ms_share: float | None = None


@dataclass(frozen=True, slots=True)
class Speed:
    """The latency of the model beside the float one: in one thread, rounds interleaved in shuffled order.

    ms, float_ms: median, 10th and 90th percentile of one run, of the processor's time; float_ms None without a float
    model. speedup: float's median over the model's; None without a float model. noisy: whether the rounds differ so
    much that the ratio says nothing; rough: whether so much that it may be 15 % off. threads: of the session; rounds:
    how many.
    """

    ms: tuple[float, float, float]
    float_ms: tuple[float, float, float] | None
    speedup: float | None
    noisy: bool
    threads: int
    rounds: int
    rough: bool = False


@dataclass(frozen=True, slots=True)
class TensorError:
    """The SQNR in dB of one tensor of the int8 model against the float model's of the same name, in the model's order.

    tensor: its name. op: the operator that makes it. sqnr_db: None where it is not measured. nodes: names of those that
    make it, in the int8 model and in the float one.
    """

    tensor: str
    op: str
    sqnr_db: Real | None
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prospect:
    """The layers of a float model that `quantize` makes integer on a target, their share, and why others stay float.

    target: its name. layers, integer_layers: counts. macs_share: of the multiply-accumulates in integers, 0 to 1; None
    where unknown.
    floats: node -> why it stays float. layers_speedup: by the target's table of times, how many times as fast the nodes
    that become integer are as in float, borders included: an estimate; None where there is no table. speedup: how many
    times as fast as float a draft of the int8 model ran here; None where none was timed.
    """

    target: str
    layers: int
    integer_layers: int
    macs_share: float | None
    floats: dict[str, str]
    layers_speedup: float | None = None
    speedup: float | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """The result of an inspection: what a model is and what onnxruntime runs of it.

    model: its path; sha256, bytes: of the file with its external data. kind: "int8" where it holds quantised weights or
    Q/DQ. maker: who seems to have written it, in words; "" where unknown. form: of an int8 model, in words ("QDQ",
    "QOperator", "dynamic", ...). verdict: one line; next: the command or the step that comes next, "" where nothing is
    to be done. inputs, outputs: of the model. opset: domain -> version. parameters: of all constants, by element type.
    macs: None where unknown.
    suggestions: options that the model's inputs ask for, with the reason. unusual: what is worth knowing, a sentence
    each. layers, nodes, findings, speed, errors: None or empty where it does not apply or was not asked for; findings
    begin with the dearest. targets: of a float model. float_model: path of the one that it is compared with.
    inputs_from: what the figures were measured on, in words.
    not_measured: what of it could not be, and why.
    """

    SCHEMA: ClassVar[tuple[str, int]] = ("inspect", 1)

    model: str
    sha256: str
    bytes: int
    kind: Kind
    maker: str
    form: str
    verdict: str
    next: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opset: dict[str, int]
    parameters: dict[str, int]
    macs: int | None
    suggestions: tuple[str, ...]
    unusual: tuple[str, ...]
    layers: tuple[InspectedLayer, ...]
    nodes: tuple[InspectedNode, ...]
    findings: tuple[Finding, ...]
    speed: Speed | None
    errors: tuple[TensorError, ...]
    targets: tuple[Prospect, ...]
    float_model: str | None
    inputs_from: str
    not_measured: tuple[str, ...]

    def __repr__(self) -> str:
        return summary("Inspection", shortened(self.model), self.kind, amount(len(self.layers), "layer"), self.verdict)

    def to_dict(self) -> dict[str, Any]:
        """Return the inspection as strict JSON; docs/json.md has its keys."""
        return document(self)
