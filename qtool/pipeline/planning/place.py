"""place: which tensors get Q/DQ, which share a range, which layers stay float and why. Policy only; no numbers."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from qtool.core.errors import NothingToQuantizeError, arg
from qtool.core.records.options import FORMS, Scheme
from qtool.core.records.placement import NOTHING_AMENDED, Amendment, Placement, joined
from qtool.graph.bodies import levels
from qtool.graph.edit import Model, Node
from qtool.graph.heads import decoding_layers
from qtool.graph.origins import Origin
from qtool.pipeline.planning.exclusion import excluded_nodes
from qtool.pipeline.planning.selection import NO_KERNEL, is_layer, select
from qtool.pipeline.planning.sites import build
from qtool.targets.rules import Target

_UNKNOWN = "inside a subgraph that reads what is no tensor"
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
    kept = dict.fromkeys(decoding_layers(model), _DECODES)
    kept |= {str(n.name): why for n, why in excluded_nodes(model, target, scheme, name, folded or {}).items()}
    kept |= why_float
    parts = levels(model)
    held = {str(node.name) for part in parts for node in part.graph}
    chosen = [select(part, target, scheme, _named(part, kept)) for part in parts]
    # a table in 8 bits by itself is what only those get who ask for it
    tables = any(found.stored for found in chosen) and (scheme.form != "static" or scheme.selects)
    if not (tables or any(found.weighted or found.dynamic for found in chosen)):
        given = {f"{op}: {why}" for found in chosen for op, why in found.reasons()}
        given |= {
            f"{node.op_type}: {NO_KERNEL}" for found in chosen for node, rule in found.stored.items() if rule.folded
        }
        reasons = sorted(given | _closed(model, target, held))
        known = ", ".join(sorted(op for op, rule in target.rules.items() if rule.kind == "weighted"))
        why = "; ".join(reasons[:3]) if reasons else f"it holds no {known} with constant float32 weights"
        remedy = _remedy(parts, target, scheme, kept)
        raise NothingToQuantizeError(f"{name}: nothing to quantise for target {target.name} ({why}); {remedy}")
    built = [build(part, target, scheme, of, amendment.closed) for part, of in zip(parts, chosen, strict=True)]
    unknown = {layer: _UNKNOWN for layer in built[0].layers if layer not in held}
    return joined(built, unknown) if len(built) > 1 or unknown else built[0]


def _closed(model: Model, target: Target, held: Collection[str]) -> set[str]:
    """Why layers are float that stand in none of the parts."""
    return {f"{n.op_type}: {_UNKNOWN}" for n in model.graph.all_nodes() if n.name not in held and is_layer(n, target)}


def _named(model: Model, kept: Mapping[str, str]) -> dict[Node, str]:
    return {node: kept[str(node.name)] for node in model.graph if node.name in kept}


def _remedy(parts: Sequence[Model], target: Target, scheme: Scheme, kept: Mapping[str, str]) -> str:
    """What else can be done with the model: another form, fewer exclusions, or nothing."""
    for form in (form for form in FORMS if form != scheme.form):
        others = [select(part, target, replace(scheme, form=form), _named(part, kept)) for part in parts]
        if any(other.weighted for other in others):
            return f"leave {arg('form', scheme.form)} out and give {arg('data')}, or use it as it is"
        if any(other.dynamic or (other.stored and form == "weight-only") for other in others):
            return f"quantise it with {arg('form', form)}, which needs no data, or use it as it is"
    chosen = bool(scheme.exclude or scheme.exclude_ops or scheme.include_ops)
    return "exclude less, or use it as it is" if chosen else "use it as it is"
