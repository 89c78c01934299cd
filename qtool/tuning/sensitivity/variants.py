"""The plans of a sensitivity analysis: all layers, one layer alone, and all but some."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from qtool.core.errors import ModelError, NothingToQuantizeError
from qtool.core.numerics.calibrators import Calibrator
from qtool.core.records.options import Correction, Scheme
from qtool.core.records.placement import Placement, Reader
from qtool.core.records.plan import BiasShift, Plan, WeightPlan
from qtool.core.records.statistics import Statistics
from qtool.graph import edit
from qtool.graph.edit import Model, Value
from qtool.pipeline.planning.place import place
from qtool.pipeline.planning.plan import make_plan
from qtool.pipeline.planning.ranges import choose
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.recovery.bias_correction import correct_biases
from qtool.quantization.trials import first_plan
from qtool.targets.rules import Target

PlanOf = Callable[[tuple[str, ...]], Plan]
"""Layers (node names) that stay float -> the plan for all others."""


class Planner:
    """Plans by the same calibrator and statistics, whatever stays float. An instance is a `PlanOf`.

    Args:
        prepared: the prepared graph.
        statistics: of its tensors.
        calibrators: the best by SQNR of the outputs is kept, as `quantize` does it.
        correction: of biases.
    """

    def __init__(
        self,
        prepared: Prepared,
        statistics: Statistics,
        target: Target,
        scheme: Scheme,
        calibrators: Sequence[Calibrator],
        correction: Correction,
    ) -> None:
        self._prepared, self._statistics = prepared, statistics
        self._target, self._scheme = target, scheme
        self._calibrators, self._correction = tuple(calibrators), correction
        self._ranges: dict[str, dict[str, tuple[float, float]]] = {}
        self._full: Plan | None = None
        self._calibrator = self._calibrators[0]

    def __call__(self, excluded: tuple[str, ...]) -> Plan:
        """The plan for all layers but these.

        Raises:
            ModelError: one of them cannot be kept float.
        """
        full = self.full
        if not excluded:
            return full
        scheme = replace(self._scheme, exclude=(*self._scheme.exclude, *map(_literally, excluded)))
        try:
            placement = place(self._prepared.model, self._target, scheme, name=self._prepared.name)
        except NothingToQuantizeError:
            return emptied(full)
        lost = set(full.layers) & set(full.integer) - set(placement.integer) - set(excluded)
        if lost:
            raise ModelError(f"layer {min(lost)!r} has an output that is called {excluded[0]!r}; rename one of them")
        plan = self._made(placement, self._calibrator)
        return replace(plan, shifts=self._shifts(plan)) if full.shifts else plan

    @property
    def full(self) -> Plan:
        """The plan for everything."""
        if self._full is None:
            prepared, target = self._prepared, self._target
            placement = place(prepared.model, target, self._scheme, name=prepared.name)

            def plan_by(calibrator: Calibrator) -> Plan:
                return self._made(placement, calibrator)

            self._full, _ = first_plan(
                prepared.model, plan_by, self._calibrators, self._correction, self._statistics.examples,
                target.session, lambda *_: None,
            )  # fmt: skip
            self._calibrator = next(c for c in self._calibrators if str(c) == self._full.calibrator)
        return self._full

    def _made(self, placement: Placement, calibrator: Calibrator) -> Plan:
        ranges = self._ranges.setdefault(str(calibrator), {})
        missing = tuple(site for site in placement.sites if site.root not in ranges)
        ranges.update(choose(replace(placement, sites=missing), self._statistics, calibrator))
        plan = make_plan(
            self._prepared.model,
            placement,
            ranges,
            digest=self._prepared.digest,
            target=self._target,
            scheme=self._scheme,
            calibrator=calibrator,
        )
        return replace(plan, recipe=self._prepared.recipe)

    def _shifts(self, plan: Plan) -> tuple[BiasShift, ...]:
        """They depend on the weights' grids alone."""
        known = _grids(self.full.weights)
        if any(known.get(reader) != grid for reader, grid in _grids(plan.weights).items()):
            return correct_biases(self._prepared.model, plan, self._statistics.examples).shifts
        readers = {node for weight in plan.weights for node, _ in weight.readers}
        return tuple(shift for shift in self.full.shifts if shift.reader[0] in readers)


def _grids(weights: Sequence[WeightPlan]) -> dict[Reader, tuple[object, ...]]:
    return {reader: (weight.tensor, weight.params) for weight in weights for reader in weight.readers}


def _literally(name: str) -> str:
    """A glob that matches this name alone."""
    return re.sub(r"([*?[])", r"[\1]", name)


def emptied(plan: Plan) -> Plan:
    """The same with everything in float."""
    return replace(plan, activations=(), constants=(), weights=(), biases=(), integer={}, shifts=())


def alone(model: Model, plan: Plan, layer: str, *, needs_output: bool) -> Plan:
    """The part of the plan that quantises one layer: its weight and bias, what it reads, and what its kernel writes.

    Without `needs_output` its own output stays float: the next layer's grid is then that layer's business.
    """
    values: dict[str | None, Value] = {v.name: v for v in model.graph.inputs}
    values.update({o.name: o for n in model.graph for o in n.outputs})
    activations = []
    for row in plan.activations:
        readers = tuple(r for r in row.readers if r[0] == layer)
        if row.produced and _maker(values[row.tensor]) == layer:
            if needs_output or not _optional(values[row.tensor], layer):
                activations.append(row)
        elif readers:
            only = replace(row, readers=readers, float_readers=(), twin_axis=None, twin_size=None, produced=False)
            activations.append(only)
    return replace(
        plan,
        activations=tuple(activations),
        constants=(),
        weights=tuple(
            replace(w, readers=own) for w in plan.weights if (own := tuple(r for r in w.readers if r[0] == layer))
        ),
        biases=tuple(b for b in plan.biases if b.reader[0] == layer),
        integer={layer: plan.integer[layer]},
        shifts=tuple(s for s in plan.shifts if s.reader[0] == layer),
    )


def _optional(value: Value, layer: str) -> bool:
    """Whether the value is the layer's own output, without a Relu or Clip behind it, where the kernel needs a Q."""
    node, reader = value.producer(), edit.single_consumer(value)
    clipped = reader is not None and edit.is_main_op(reader, "Relu", "Clip")
    return node is not None and node.name == layer and not clipped


def _maker(value: Value) -> str | None:
    """The name of the node whose kernel writes a produced value, through the Relu or Clip that it absorbs."""
    node = value.producer()
    if node is not None and edit.is_main_op(node, "Relu", "Clip") and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return None if node is None else node.name
