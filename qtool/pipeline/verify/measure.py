"""Runs the float and the quantised graph on the examples, one batch in memory at a time, and adds up differences."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from qtool.core.concurrency import both
from qtool.core.errors import LayerError, VerificationError
from qtool.core.numerics.affine import QParams, dequantize
from qtool.core.numerics.padding import Padding
from qtool.core.numerics.sqnr import SignalToNoise, measured_outputs, unlike, worst
from qtool.core.records.plan import Plan
from qtool.core.records.verification import TensorCheck
from qtool.core.text import amount
from qtool.graph import compose, edit, external
from qtool.graph.edit import Model
from qtool.graph.parts import saturating_ends
from qtool.graph.positions import padding_of
from qtool.graph.serialized import Serialized, deserialize
from qtool.pipeline.verify.half_precision import check_rounding, rounding_db
from qtool.pipeline.verify.judged import Judged, OutputJudge
from qtool.pipeline.verify.original import Original
from qtool.pipeline.verify.undo import in_real_numbers
from qtool.runtime.session import Session, kept

# Below this the prepared graph is another function than the model; float32 reordering stays far above.
_PREPARATION_DB = 50.0
# What another order of sums may cost more than another rounding of the inputs, in an ill-conditioned function.
_MARGIN_DB = 10.0
# An integer kernel may round a value to the neighbouring step (all those that lie on a tie, where a channel is
# constant), rarely to the one after that.
_STEPS = 2
_MEAN_STEPS = 0.5
_FAR_SHARE = 1e-3
# Float outputs behind the last 8-bit tensor: an integer classifier and its unoptimised form.
_TAIL_DB = 40.0
# MatMulNBits rounds the blocks of its input to 8 bits (level 4), which says more of the input than of the layer; so a
# layer by itself computes in float32.
EXACT_INPUTS = {"session.qdq_matmulnbits_accuracy_level": "1"}
# What rounding may leave of a sum that is 0.
_ZERO = 1e-3
# 8-bit numbers, after which no further example is run unoptimised and layer by layer: that is twice a float run.
ENOUGH = 2**24

Arrays = Mapping[str, np.ndarray]


@dataclass(slots=True)
class LayerSteps:
    """The distances between two runs of a layer in quantisation steps."""

    largest: int = 0
    total: int = 0
    far: int = 0
    count: int = 0

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """Add those of two runs on the same inputs."""
        if a.shape != b.shape:
            # a step decided how many elements there are
            return
        distance = np.abs(a.astype(np.int16) - b.astype(np.int16))
        self.largest = max(self.largest, int(distance.max(initial=0)))
        self.total += int(distance.sum(dtype=np.int64))
        self.far += int(np.count_nonzero(distance > _STEPS))
        self.count += distance.size

    @property
    def wrong(self) -> bool:
        """Whether they are more than roundings."""
        return self.total > _MEAN_STEPS * self.count or self.far > _FAR_SHARE * self.count


@dataclass(slots=True)
class Measured:
    """The differences that were found between the graphs that are compared.

    tensors: activation -> SQNR of the whole network up to there, and steps of its layer alone.
    preparation, whole, tail: float output -> the model as it came against the prepared graph; the quantised model
    unoptimised against as shipped; the layers behind the last 8-bit tensors, unoptimised against optimised.
    shipped: the outputs of the prepared graph against those of the quantised model as shipped; None without examples.
    dynamic: 8-bit tensor whose grid is found anew in each run -> the layers that read it.
    widening: float output -> a float16 model as it came against itself in float32, which then is what `preparation`
    compares with; rounding_db: what float16 explains.
    """

    sqnr: dict[str, SignalToNoise] = field(default_factory=dict)
    steps: dict[str, LayerSteps] = field(default_factory=dict)
    preparation: dict[str, SignalToNoise] = field(default_factory=dict)
    shipped: Judged | None = None
    whole: dict[str, SignalToNoise] = field(default_factory=dict)
    tail: dict[str, SignalToNoise] = field(default_factory=dict)
    widening: dict[str, SignalToNoise] = field(default_factory=dict)
    rounding_db: float = math.inf
    dynamic: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def tensors(self, makers: Mapping[str | None, str]) -> tuple[TensorCheck, ...]:
        """Return the SQNR of each activation, and the steps of its layer by itself, in the order of the plan.

        makers: tensor -> the node of the prepared graph that makes it.
        """
        return tuple(
            TensorCheck(name, noise.db, self.steps[name].largest, makers.get(name, ""))
            for name, noise in self.sqnr.items()
        )

    def check_preparation(self, rounding: Callable[[], Mapping[str, float]]) -> None:
        """Refuse a prepared graph that is another function than the model as it came.

        `rounding`: gives the SQNR in dB that rounding leaves of each output, see `Original.rounding_db`; it takes time.
        Raises `VerificationError`.
        """
        for name, prepared in self.preparation.items():
            if prepared.db is None or prepared.db >= _PREPARATION_DB or _both_zero(prepared):
                continue
            if not prepared.db >= rounding().get(name, math.inf) - _MARGIN_DB:
                raise VerificationError(
                    f"preparation changed output {name!r} ({prepared.db:.1f} dB); please report this model"
                )

    def check(self, prepared: Model, plan: Plan, rounding: Callable[[], Mapping[str, float]]) -> None:
        """Refuse a model that computes something that neither the float model, `prepared`, nor the plan says.

        `rounding`: as in `check_preparation`; outputs may differ by that.

        Raises:
            LayerError: a difference is too large that comes of some layers.
            VerificationError: a difference is too large; the message says which.
        """
        check_rounding({n: db for n, db in by_name(self.widening).items() if db is not None}, self.rounding_db)
        for name, steps in self.steps.items():
            if steps.wrong:
                raise LayerError(
                    f"tensor {name!r}: onnxruntime's integer kernel computes something else than the model says (up to "
                    f"{amount(steps.largest, 'step')}, {steps.total / steps.count:.2f} on average); please report this "
                    "model",
                    self._blamed(prepared, plan, name),
                )
        for name, tail in self.tail.items():
            if tail.db is None or tail.db >= _TAIL_DB or _both_zero(tail):
                continue
            if not tail.db >= rounding().get(name, math.inf) - _MARGIN_DB:
                raise LayerError(
                    f"output {name!r}: onnxruntime's optimised layers compute something else than the model says "
                    f"({tail.db:.1f} dB between them); please report this model",
                    self._blamed(prepared, plan, name),
                )

    def _blamed(self, prepared: Model, plan: Plan, tensor: str) -> dict[str, str]:
        """The layers to be left in float for a tensor that differs, and why."""
        if tensor in self.dynamic:
            # what it is made from is float, such as a sum of next to nothing but roundings
            return dict.fromkeys(self.dynamic[tensor], "what it reads depends on how onnxruntime rounds")
        return dict.fromkeys(makers(prepared, plan, tensor), "onnxruntime computes something else with it in integers")


def makers(prepared: Model, plan: Plan, tensor: str) -> tuple[str, ...]:
    """Return the names of the planned nodes that make a tensor of the prepared graph from the 8-bit ones before it.

    Those with weights where there are any, in graph order.
    """
    stops = {row.tensor for row in plan.activations}
    quantized = set(plan.quantized)
    nodes = list(prepared.graph.all_nodes())
    value = next((output for node in nodes for output in node.outputs if output.name == tensor), None)
    waiting, seen = [value] if value is not None else [], set()
    while waiting:
        node = waiting.pop().producer()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [v for v in compose.reads(node) if v.name not in stops and not v.is_initializer()]
    made = [str(node.name) for node in nodes if node in seen]
    return tuple(n for n in made if n in quantized) or tuple(n for n in made if n in plan.integer)


def _both_zero(noise: SignalToNoise) -> bool:
    """Whether what is 0 throughout in one is next to 0 in the other; it has no scale of its own to be measured by."""
    return noise.signal.total == 0.0 and not noise.unlike and noise.noise.scale <= _ZERO


def by_name(figures: Mapping[str, SignalToNoise]) -> dict[str, float | None]:
    """Return the SQNR of each tensor in dB, as `SignalToNoise.db` has it."""
    return {name: noise.db for name, noise in figures.items()}


def worst_of(figures: Mapping[str, SignalToNoise]) -> float:
    """Return the least SQNR in dB of tensors that should be the same; inf where there is none to measure."""
    found = worst(noise.db for noise in figures.values())
    return math.inf if found is None else found


class _Whole:
    """The graphs that are compared from end to end.

    stored: activation -> its 8-bit form. reads: what the ends of outputs read in the prepared graph -> in the quantised
    one, an activation where it is that. judged: the tensors of the prepared graph that models are judged by.
    """

    def __init__(self, prepared: Model, model: Model, plan: Plan, config: Mapping[str, str]) -> None:
        outputs = [str(v.name) for v in model.graph.outputs]
        self.stored = _stored_names(prepared, model, plan)
        fed = {v.name for v in prepared.graph.inputs}
        ends = {end.node: end.reads for end in saturating_ends(prepared)}
        wanted = list(dict.fromkeys([*(t for t in self.stored if t not in fed), *outputs, *ends.values()]))
        self.judged = {*outputs, *ends.values()}
        self.reads = self._reads(model, ends)
        floats = [name for name in self.reads.values() if name not in self.stored]
        observed = compose.with_outputs(model, list(dict.fromkeys([*self.stored.values(), *outputs, *floats])))
        self.exact, self.optimized = both(
            lambda: Session(compose.with_outputs(prepared, wanted), name="the prepared model"),
            lambda: Session(observed, config=config, name="the quantised model"),
        )

    def _reads(self, model: Model, ends: Mapping[str, str]) -> dict[str, str]:
        found: dict[str, str] = {}
        tensors = {stored: tensor for tensor, stored in self.stored.items()}
        for node in model.graph:
            value = node.inputs[0] if node.name in ends else None
            if value is None:
                continue
            maker = value.producer()
            source = maker.inputs[0] if maker is not None and maker.op_type == "DequantizeLinear" else None
            tensor = str(value.name) if source is None else tensors.get(str(source.name))
            if tensor is not None and not value.is_graph_input():
                found[ends[str(node.name)]] = tensor
        return found

    def read(self, ran: Arrays, grids: Mapping[str, QParams]) -> dict[str, np.ndarray]:
        """What the ends of outputs read in a run of the quantised graph, by its name in the prepared one."""
        return {
            name: dequantize(ran[self.stored[t]], grids[t]) if t in self.stored else ran[t]
            for name, t in self.reads.items()
        }

    def run(self, example: Arrays) -> tuple[Arrays, Arrays]:
        """What the prepared and the quantised graph compute."""
        return both(lambda: {**example, **self.exact.run(example)}, lambda: self.optimized.run(example))

    def judge(self, examples: Sequence[Arrays], grids: Mapping[str, QParams]) -> Iterator[tuple[Arrays, Arrays]]:
        """What the prepared graph computes, and what the ends of outputs read in the quantised one: see `read`."""
        names = [name for name in self.exact.outputs if name in self.judged]

        for example in examples:
            # two of these at once would need twice the memory
            exact, read = both(partial(self._exact_of, example, names), partial(self._read_of, example, grids))
            yield {**example, **exact}, read

    def _exact_of(self, example: Arrays, names: Sequence[str]) -> Arrays:
        return kept(dict(zip(names, self.exact.run_list(example, names), strict=True)))

    def _read_of(self, example: Arrays, grids: Mapping[str, QParams]) -> Arrays:
        return kept(self.read(self.optimized.run(example), grids)) if self.reads else {}


class _Layers:
    """The quantised graph unoptimised, and its layers by themselves, each on what it reads there.

    integers: activation -> its 8-bit form, and the dynamic 8-bit tensors under their own names. dynamic: these -> the
    layers that read them.
    """

    def __init__(self, prepared: Model, model: Model, plan: Plan, config: Mapping[str, str]) -> None:
        stored = _stored_names(prepared, model, plan)
        plain = model
        if plan.blocks:
            # they round what they read, so that small differences grow from layer to layer: see `check_blocks`
            plain = edit.clone(model)
            in_real_numbers(prepared, plain, plan.blocks)
        pieces, self._cuts = compose.cut(plain)
        self.dynamic = compose.dynamic_tensors(model)
        self.integers = stored | {name: name for name in self.dynamic}
        outputs = [str(v.name) for v in model.graph.outputs]
        observed = compose.with_outputs(plain, list(dict.fromkeys([*stored.values(), *self._cuts, *outputs])))
        self._unoptimized, self._alone = both(
            lambda: Session(observed, optimize=False, name="the quantised model"),
            lambda: Session(pieces, config={**config, **EXACT_INPUTS}, name="the quantised model's layers"),
        )

    def run(self, example: Arrays) -> tuple[Arrays, Arrays]:
        """What they compute."""
        plain = self._unoptimized.run(example)
        return plain, self._alone.run({**example, **{fed: plain[q] for q, fed in self._cuts.items()}})


def _stored_names(prepared: Model, quantized: Model, plan: Plan) -> dict[str, str]:
    """The name of the 8-bit form of each activation of the plan, of those outside of bodies, in the quantised graph."""
    names = compose.stored_names(prepared, quantized)
    return {a.tensor: names[a.tensor] for a in plan.activations if a.tensor in names}


def measure(
    original: Original,
    prepared: Model,
    quantized: Serialized,
    plan: Plan,
    shipped: Sequence[Arrays],
    config: Mapping[str, str],
) -> Measured:
    """Compare the graphs on the original's examples, and return the differences.

    Tensors are compared on the checked ones, and layers by themselves on as many of those as are enough. `shipped` is
    what the quantised model gives in a default session, for all.

    Models of which only the outputs are wanted are in memory one after another, others two at a time.
    """
    halves, singles, widened = original.halves, original.outputs, original.widened
    external.let_go()
    result = Measured(rounding_db=math.inf if widened is None else rounding_db(widened))
    for half, single in zip(halves, singles, strict=False):
        _add_widening(result, half, single)
    compared = _measure_whole(result, original, prepared, deserialize(quantized), plan, shipped, config)
    external.let_go()
    _measure_layers(result, original, _Layers(prepared, deserialize(quantized), plan, config), shipped, compared)
    external.let_go()
    return result


def _measure_whole(
    result: Measured, original: Original, prepared: Model, model: Model, plan: Plan, shipped: Sequence[Arrays],
    config: Mapping[str, str],
) -> list[list[str]]:  # fmt: skip
    """Add the differences of the whole graphs; return which outputs were compared, for each checked example."""
    sessions, singles = _Whole(prepared, model, plan, config), original.outputs
    grids = {row.tensor: row.params for row in plan.activations}
    compared = []
    padding = padding_of(prepared, [row.tensor for row in plan.activations]) or Padding("")
    for example, single, final in zip(original.checked, singles, shipped, strict=False):
        exact, ran = sessions.run(example)
        for tensor, stored in sessions.stored.items():
            noise = result.sqnr.setdefault(tensor, SignalToNoise())
            pair = (exact[tensor], dequantize(ran[stored], grids[tensor]))
            noise.add(*(padding.blanked(tensor, array, padding.kept(example)) for array in pair))
        _check_shapes(single, exact)
        if result.shipped is None:
            result.shipped = OutputJudge(prepared, example, exact).start()
        result.shipped.add(exact, {**final, **sessions.read(ran, grids)})
        compared.append(list(measured_outputs({name: exact[name] for name in final})))
        for name in compared[-1]:
            _check_finite(name, single[name], exact[name])
            result.preparation.setdefault(name, SignalToNoise()).add(single[name], exact[name])
        # all tensors of the next example come
        del exact, ran
    others = original.examples[len(singles) :]
    for (exact, read), final in zip(sessions.judge(others, grids), shipped[len(singles) :], strict=True):
        assert result.shipped is not None
        result.shipped.add(exact, {**final, **read})
    return compared


def _measure_layers(
    result: Measured, original: Original, layers: _Layers, shipped: Sequence[Arrays], compared: Sequence[Sequence[str]]
) -> None:
    """Add the differences of layers by themselves. compared: the outputs to be compared, for each checked example."""
    count = 0
    result.dynamic |= layers.dynamic
    for example, final, names in zip(original.checked, shipped, compared, strict=False):
        if count >= ENOUGH:
            return
        plain, alone = layers.run(example)
        for tensor, stored in layers.integers.items():
            result.steps.setdefault(tensor, LayerSteps()).add(plain[stored], alone[stored])
            count += plain[stored].size
        for name in names:
            result.whole.setdefault(name, SignalToNoise()).add(plain[name], final[name])
            result.tail.setdefault(name, SignalToNoise()).add(plain[name], alone[name])
        del plain, alone


def _check_shapes(single: Arrays, exact: Arrays) -> None:
    """Refuse a prepared graph that gives an output another shape than the original does.

    The quantised model may: where values decide the shape, a step decides it too.

    Raises:
        VerificationError: it does.
    """
    for name, array in single.items():
        wanted, found = array.shape, exact[name].shape
        if found != wanted:
            raise VerificationError(
                f"preparation changed the shape of output {name!r} ({list(wanted)} became {list(found)}); please "
                "report this model"
            )


def _check_finite(name: str, single: np.ndarray, exact: np.ndarray) -> None:
    """Refuse a float model whose own output is not finite in places that depend on onnxruntime's optimisations.

    These fold factors without a look at the result.

    Raises:
        VerificationError: it is such a one.
    """
    if not unlike(exact, single).any() or np.isfinite(single).all():
        return
    found = f"output {name!r} of the float model is NaN or Inf, "
    if np.isfinite(exact).all():
        raise VerificationError(
            f"{found}but only as onnxruntime optimises it: constants that it multiplies are too large for float32; "
            "scale them in the model"
        )
    raise VerificationError(
        f"{found}and where depends on how onnxruntime optimises it: a constant before it makes it so, such as a "
        "variance that is not positive, or a divisor of 0; correct the constant, or export the model again"
    )


def _add_widening(result: Measured, half: Arrays, single: Arrays) -> None:
    """Where float16 overflows, float32 does not: that is no noise; nor is a shape that values decide."""
    for name, array in half.items():
        if array.dtype.kind == "f" and array.shape == single[name].shape:
            sound = np.isfinite(array) & np.isfinite(single[name])
            result.widening.setdefault(name, SignalToNoise()).add(array[sound], single[name][sound])
