"""The comparison of a census with a plan: layers in float where integers were planned, and the other way round."""

from qtool.core.records.header import installed_versions
from qtool.core.records.plan import Plan
from qtool.graph.optimized import ExecutedNode
from qtool.runtime.census import Census
from qtool.targets.kernels import rounds_blocks
from qtool.targets.rules import Target


def run_otherwise(plan: Plan, census: Census, target: Target) -> dict[str, str]:
    """Return the layers that do not run as planned, in graph order, and what becomes of each."""
    if not target.on_cpu:
        return {}
    runtime = f"onnxruntime {installed_versions().get('onnxruntime', '')}".strip()
    found = {}
    for layer in plan.layers:
        kernels = plan.integer.get(layer)
        if kernels is not None and not census.runs_as(layer, kernels):
            found[layer] = f"{runtime} runs it in float here"
        if kernels is None and census.runs_as(layer, target.rules_kernels):
            found[layer] = f"{runtime} quantises it again here"
    return found


def in_blocks(census: Census, target: Target) -> tuple[ExecutedNode, ...]:
    """Return the nodes that multiply weights in blocks with their input rounded to 8 bits, planned or not."""
    if not target.on_cpu:
        return ()
    return tuple(node for node in census.nodes if rounds_blocks(node.op_type, node.attributes))
