"""verify: what onnxruntime will really run, and whether it computes the same. The promise that no peer makes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qtool.core.affine import dequantize
from qtool.core.errors import VerificationError
from qtool.core.plan import Plan
from qtool.core.verification import TensorCheck, Verification, signal_to_noise
from qtool.graph import compose, model_io
from qtool.graph.edit import Model
from qtool.runtime.census import Census, take_census
from qtool.runtime.session import Session
from qtool.stages.verify.macs import macs_of
from qtool.stages.verify.structure import check_structure
from qtool.targets.rules import Target

# Below this the prepared graph is another function than the model; float32 reordering stays far above.
_PREPARATION_DB = 50.0
# An integer kernel may round a value to the neighbouring step (all those that lie on a tie, where a channel is
# constant), rarely to the one after that.
_STEPS = 2
_MEAN_STEPS = 0.5
_FAR_SHARE = 1e-3
# Float outputs behind the last 8-bit tensor: an integer classifier and its unoptimised form.
_TAIL_DB = 40.0

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class _Runs:
    """Values by name, a dictionary for each example.

    exact: the prepared float graph. optimized, unoptimized: the quantised model. alone: each layer of the quantised
    model optimised, on what the unoptimised run fed it. 8-bit tensors stand under the names in `stored`.
    """

    stored: dict[str, str]
    exact: list[Arrays]
    optimized: list[Arrays]
    unoptimized: list[Arrays]
    alone: list[Arrays]


def verify(
    source: Path,
    prepared: Model,
    quantized: bytes,
    plan: Plan,
    target: Target,
    examples: Sequence[Mapping[str, np.ndarray]],
) -> Verification:
    """Check a quantised model against its plan and the float graph, on a few batches of inputs.

    Raises:
        VerificationError: the model would compute something else than planned; the message says where.
    """
    check_structure(prepared, model_io.from_bytes(quantized))
    session, census = take_census(quantized, target.session)
    _check_census(plan, census, target)
    runs = _run(prepared, quantized, plan, target, examples)
    outputs = session.outputs
    shipped = [session.run(example) for example in examples]
    tensors = tuple(_check_layers(plan, runs))
    _check_tail(outputs, runs)
    macs = _macs(prepared, plan, examples)
    integer = {n for n in plan.layers if n in plan.integer and (target.on_cpu or not plan.integer[n])}
    return Verification(
        kernels=census.kernels,
        layers=len(plan.layers),
        integer_layers=len(integer),
        macs=sum(macs.values()),
        integer_macs=sum(n for layer, n in macs.items() if layer in integer),
        fallbacks=_fallbacks(plan, census, prepared) if target.on_cpu else (),
        float_layers={n: plan.skipped.get(n, "not planned") for n in plan.layers if n not in integer},
        preparation_sqnr_db=_check_preparation(source, outputs, runs.exact, examples),
        steps=max((t.steps for t in tensors), default=0),
        optimized_sqnr_db=min(_worst(outputs, runs.unoptimized, shipped), default=float("inf")),
        output_sqnr_db=min(_worst(outputs, runs.exact, shipped), default=float("inf")),
        examples=sum(len(next(iter(e.values()))) if e else 1 for e in examples),
        census=target.on_cpu,
        tensors=tensors,
    )


def _check_census(plan: Plan, census: Census, target: Target) -> None:
    """Weighted layers run as planned, both ways: integer where planned, float where planned."""
    if not target.on_cpu:
        return
    for layer in plan.layers:
        kernels = plan.integer.get(layer)
        if kernels is not None and not census.runs_as(layer, kernels):
            raise VerificationError(
                f"layer {layer!r} was planned to run as {' or '.join(kernels)}, but this onnxruntime runs it in float; "
                f"leave it float with --exclude {layer!r}"
            )
        if kernels is None and census.runs_as(layer, target.rules_kernels):
            raise VerificationError(
                f"layer {layer!r} was planned to stay float, but this onnxruntime re-quantises it; please report this"
            )


def _fallbacks(plan: Plan, census: Census, prepared: Model) -> tuple[str, ...]:
    """Nodes without weights that were planned as integers and run in float.

    A pass-through keeps its operator, and may be merged away: it counts where it stands behind a DequantizeLinear.
    """
    makers = {output: n.op_type for n in census.nodes for output in n.outputs}
    result = []
    for node in prepared.graph:
        kernels = plan.integer.get(node.name or "")
        if kernels is None or node.name in plan.layers:
            continue
        if node.op_type not in kernels:
            if not census.runs_as(node.name or "", kernels):
                result.append(node.name or "")
        elif any(n.name == node.name and makers.get(n.inputs[0]) == "DequantizeLinear" for n in census.nodes):
            result.append(node.name or "")
    return tuple(result)


def _run(
    prepared: Model,
    quantized: bytes,
    plan: Plan,
    target: Target,
    examples: Sequence[Mapping[str, np.ndarray]],
) -> _Runs:
    model = model_io.from_bytes(quantized)
    outputs = [str(v.name) for v in model.graph.outputs]
    names = _stored_names(prepared, model)
    stored = {a.tensor: names[a.tensor] for a in plan.activations}
    fed = {v.name for v in prepared.graph.inputs}
    wanted = list(dict.fromkeys([*(t for t in stored if t not in fed), *outputs]))
    exact = Session(compose.with_outputs(prepared, wanted), name="the prepared model")
    observed = compose.with_outputs(model, list(dict.fromkeys([*stored.values(), *outputs])))
    optimized = Session(observed, config=target.session, name="the quantised model")
    unoptimized = Session(observed, optimize=False, name="the quantised model")
    pieces, inputs = compose.cut(model)
    alone = Session(pieces, config=target.session, name="the quantised model's layers")
    plain = [unoptimized.run(example) for example in examples]
    return _Runs(
        stored,
        [{**example, **exact.run(example)} for example in examples],
        [optimized.run(example) for example in examples],
        plain,
        [
            alone.run({**example, **{inputs[q]: run[q] for q in inputs}})
            for example, run in zip(examples, plain, strict=True)
        ],
    )


def _stored_names(prepared: Model, quantized: Model) -> dict[str, str]:
    """Activation -> the name of the 8-bit tensor that holds it."""
    tensors = {(node.name, o.index()): str(o.name) for node in prepared.graph for o in node.outputs}
    result = {}
    for node in quantized.graph:
        value = node.inputs[0]
        if node.op_type == "QuantizeLinear" and value is not None:
            maker = value.producer()
            tensor = str(value.name) if maker is None else tensors[maker.name, value.index()]
            result[tensor] = str(node.outputs[0].name)
    return result


def _check_layers(plan: Plan, runs: _Runs) -> list[TensorCheck]:
    """Every layer alone: what the integer kernel makes of the same inputs is what the unoptimised layer makes."""
    result = []
    for activation in plan.activations:
        key = runs.stored[activation.tensor]
        exact = np.concatenate([e[activation.tensor].reshape(-1) for e in runs.exact])
        ran = np.concatenate([o[key].reshape(-1) for o in runs.optimized])
        plain = np.concatenate([u[key].reshape(-1) for u in runs.unoptimized]).astype(np.int32)
        alone = np.concatenate([a[key].reshape(-1) for a in runs.alone]).astype(np.int32)
        steps = np.abs(plain - alone)
        if steps.size and (steps.mean() > _MEAN_STEPS or (steps > _STEPS).mean() > _FAR_SHARE):
            raise VerificationError(
                f"tensor {activation.tensor!r}: onnxruntime's integer kernel computes something else than the model "
                f"says (up to {steps.max()} steps, {steps.mean():.2f} on average); please report this model"
            )
        sqnr = signal_to_noise(exact, dequantize(ran, activation.params))
        result.append(TensorCheck(activation.tensor, sqnr, int(steps.max(initial=0))))
    return result


def _check_tail(outputs: list[str], runs: _Runs) -> None:
    """What lies between the last 8-bit tensors and the outputs, on the same inputs."""
    for name, db in zip(outputs, _worst(outputs, runs.unoptimized, runs.alone), strict=False):
        if db < _TAIL_DB:
            raise VerificationError(
                f"output {name!r}: onnxruntime's optimised layers compute something else than the model says "
                f"({db:.1f} dB between them); please report this model"
            )


def _worst(outputs: list[str], exact: list[Arrays], other: list[Arrays]) -> list[float]:
    """SQNR of each float output over all examples."""
    result = []
    for name in outputs:
        if exact[0][name].dtype.kind == "f":
            a = np.concatenate([e[name].reshape(-1) for e in exact])
            b = np.concatenate([o[name].reshape(-1) for o in other])
            result.append(signal_to_noise(a, b))
    return result


def _check_preparation(
    source: Path, outputs: list[str], exact: list[Arrays], examples: Sequence[Mapping[str, np.ndarray]]
) -> float:
    session = Session(source)
    original = [session.run({i.name: e[i.name] for i in session.inputs if i.name in e}) for e in examples]
    worst = min(_worst(outputs, original, exact), default=float("inf"))
    if worst < _PREPARATION_DB:
        raise VerificationError(
            f"{source}: preparation changed what it computes ({worst:.1f} dB); please report this model"
        )
    return worst


def _macs(prepared: Model, plan: Plan, examples: Sequence[Mapping[str, np.ndarray]]) -> dict[str, int]:
    names = []
    for node in prepared.graph:
        if node.name in plan.layers:
            names.append(str(node.outputs[0].name))
            if node.op_type == "ConvTranspose" or not (node.inputs[1] is not None and node.inputs[1].is_initializer()):
                names.append(str(node.inputs[0].name) if node.inputs[0] is not None else "")
    fed = {v.name for v in prepared.graph.inputs}
    wanted = [n for n in dict.fromkeys(names) if n and n not in fed and n not in prepared.graph.initializers]
    session = Session(compose.with_outputs(prepared, wanted), name="the prepared model")
    return macs_of(prepared, plan.layers, {**examples[0], **session.run(examples[0])})
