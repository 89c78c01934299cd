"""The nodes that a scheme leaves in float: by name, by operator, or since only other operators are included."""

import fnmatch
from collections.abc import Iterable, Mapping

from qtool.core.errors import UsageError, arg
from qtool.core.records.options import Scheme
from qtool.core.text import meant
from qtool.graph.bodies import bodies
from qtool.graph.edit import Model, Node
from qtool.graph.layers import OPERATORS
from qtool.graph.origins import Origin, origins_of
from qtool.targets.rules import Target

_NOT_INCLUDED = "not among the included operators"
Folded = Mapping[Origin, tuple[str, ...]]
"""Node of the model as it came -> the nodes that it has become a part of."""


def excluded_nodes(model: Model, target: Target, scheme: Scheme, name: str, folded: Folded) -> dict[Node, str]:
    """Find the nodes of the main graph and of those inside of it that the scheme leaves in float, and why.

    A name or glob that no node of the prepared graph answers to speaks of nodes that were folded into others: these
    stay float then. What is excluded takes what stands in its bodies with it. An operator speaks of the nodes that are
    left, and one with weights of what it was rewritten as too, such as a MatMul of the Gemm that it became. `name`:
    what to call the model in messages.

    Raises:
        UsageError: an exclusion matches nothing, or the target has no integer form of an included operator.
    """
    _check_operators(model, target, scheme, name, folded)
    result: dict[Node, str] = {}
    for node in model.graph.all_nodes():
        operators = _operators(node)
        if scheme.include_ops and operators.isdisjoint(scheme.include_ops):
            result[node] = _NOT_INCLUDED
        if excluded := operators.intersection(scheme.exclude_ops):
            result[node] = f"operator {min(excluded)} is excluded"
    for pattern in scheme.exclude:
        result |= _matching(model, pattern, name, folded)
    for body in bodies(model.graph):
        # outer ones come first, so that what holds an inner one is known by then
        why = result.get(body.holder)
        if why is not None and why != _NOT_INCLUDED:
            inside = f"in a body of {body.holder.op_type} {str(body.holder.name)!r}: {why}"
            result |= {node: inside for node in body.graph if node not in result}
    return result


def _operators(node: Node) -> set[str]:
    """What a node is, and what it was as a layer of the model as it came."""
    first = next(iter(origins_of(node)), None)
    return {node.op_type} | ({first.op_type} & OPERATORS.keys() if first is not None else set())


def _check_operators(model: Model, target: Target, scheme: Scheme, name: str, folded: Folded) -> None:
    present = {n.op_type for n in model.graph.all_nodes()}
    came = present | {origin.op_type for origin in folded}
    for op in (*scheme.include_ops, *scheme.exclude_ops):
        if op not in came:
            raise UsageError(
                f"{name}: holds no {op} (its operators are {', '.join(sorted(came))}){meant(op, came)}; check the "
                "spelling"
            )
    rewritten = {op for node in model.graph.all_nodes() for op in _operators(node)}
    for op in scheme.exclude_ops:
        parts = {
            next(filter(None, origin.names), ""): into[0]
            for origin, into in folded.items()
            if origin.op_type == op and into
        }
        if op not in rewritten and parts:
            part, whole = next(iter(parts.items()))
            raise UsageError(
                f"{name}: every {op} is folded into another node, as {part!r} into {whole!r}; leave these in float by "
                f"name, with {arg('exclude', part)}"
            )
    known = {op for op, rule in target.rules.items() if rule.kind != "bridge"}
    for op in scheme.include_ops:
        if op not in known:
            others = ", ".join(sorted(known & present))
            remedy = f"choose among {others}" if others else f"leave {arg('include_ops', op)} out"
            raise UsageError(f"target {target.name} has no integer {op}; {remedy}")


def _matching(model: Model, pattern: str, name: str, folded: Folded) -> dict[Node, str]:
    nodes = list(model.graph.all_nodes())
    found = [n for n in nodes if is_called(n, pattern)]
    if found:
        return dict.fromkeys(found, f"excluded by {pattern!r}")
    parts = {origin: into for origin, into in folded.items() if _matches(origin.names, pattern)}
    wholes = {whole for into in parts.values() for whole in into}
    if wholes:
        return {n: f"excluded by {pattern!r}, which is folded into it" for n in nodes if n.name in wholes}
    if parts:
        # it computed a constant, or nothing, and is gone: nothing of it becomes integer
        return {}
    near = meant(pattern, [*(n.name for n in nodes if n.name), *(name for origin in folded for name in origin.names)])
    raise UsageError(
        f"{name}: no node is called {pattern!r}{near}; the plan of a run without {arg('exclude')} lists the names"
    )


def is_called(node: Node, pattern: str) -> bool:
    """Return whether a node, or what it computes, has a name or answers to a glob."""
    return _matches((node.name or "", *(output.name or "" for output in node.outputs)), pattern)


def _matches(names: Iterable[str], pattern: str) -> bool:
    return any(name == pattern or fnmatch.fnmatchcase(name, pattern) for name in names)
