"""place: which tensors get Q/DQ, which share a range, which layers stay float and why. Policy only; no numbers."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from qtool.core.errors import NothingToQuantizeError, arg
from qtool.core.records.options import FORMS, Scheme
from qtool.core.records.placement import NOTHING_AMENDED, Amendment, Placement
from qtool.graph.edit import Model, Node
from qtool.graph.heads import decoding_layers
from qtool.graph.origins import Origin
from qtool.pipeline.planning.exclusion import excluded_nodes
from qtool.pipeline.planning.selection import NO_KERNEL, select
from qtool.pipeline.planning.sites import build
from qtool.targets.rules import Target

_DECODES = "it decodes what the last layers give, and 8 bits of a coordinate are few"


def place(
    model: Model,
    target: Target,
    scheme: Scheme,
    *,
    name: str = "the model",
    floating: Collection[str] = (),
    amendment: Amendment = NOTHING_AMENDED,
    folded: Mapping[Origin, tuple[str, ...]] | None = None,
) -> Placement:
    """Decide where Q/DQ go in a prepared graph.

    Args:
        name: what to call the model in messages.
        floating: names of nodes that stay float besides what the scheme excludes.
        amendment: what is placed otherwise than the target's table says.
        folded: what preparation has folded into which nodes, so that the scheme may name it.

    Raises:
        NothingToQuantizeError: no layer with weights becomes integer; the message says why not.
        UsageError: an exclusion matches no node, or an operator that the target does not know is asked for.
    """
    scheme = replace(scheme, dynamic=tuple(dict.fromkeys([*scheme.dynamic, *sorted(amendment.dynamic)])))
    why_float = {**dict.fromkeys(floating, "left in float"), **amendment.floating}
    decoding = set(decoding_layers(model))
    kept = {node: _DECODES for node in model.graph if node.name in decoding}
    kept |= excluded_nodes(model, target, scheme, name, folded or {})
    kept |= {node: why_float[str(node.name)] for node in model.graph if node.name in why_float}
    selection = select(model, target, scheme, kept)
    # a table in 8 bits by itself is what only those get who ask for it
    tables = selection.stored and (scheme.form != "static" or scheme.selects)
    if not (selection.weighted or selection.dynamic or tables):
        stored = {(node.op_type, NO_KERNEL) for node, rule in selection.stored.items() if rule.folded}
        reasons = sorted({f"{op}: {why}" for op, why in (*selection.reasons(), *stored)})
        known = ", ".join(sorted(op for op, rule in target.rules.items() if rule.kind == "weighted"))
        why = "; ".join(reasons[:3]) if reasons else f"it holds no {known} with constant float32 weights"
        remedy = _remedy(model, target, scheme, kept)
        raise NothingToQuantizeError(f"{name}: nothing to quantise for target {target.name} ({why}); {remedy}")
    return build(model, target, scheme, selection, amendment.closed)


def _remedy(model: Model, target: Target, scheme: Scheme, kept: Mapping[Node, str]) -> str:
    """What else can be done with the model: another form, fewer exclusions, or nothing."""
    for form in (form for form in FORMS if form != scheme.form):
        other = select(model, target, replace(scheme, form=form), kept)
        if other.weighted:
            return f"leave {arg('form', scheme.form)} out and give {arg('data')}, or use it as it is"
        if other.dynamic or (other.stored and form == "weight-only"):
            return f"quantise it with {arg('form', form)}, which needs no data, or use it as it is"
    chosen = bool(scheme.exclude or scheme.exclude_ops or scheme.include_ops)
    return "exclude less, or use it as it is" if chosen else "use it as it is"
