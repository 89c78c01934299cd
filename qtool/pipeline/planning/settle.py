"""The search for a placement that onnxruntime runs as it says: what it does not is placed again, and the work goes on.

What runs is found out by a look at the model of a plan, which the caller lends: this room starts no session.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from qtool.core.errors import DataError, ModelError, NothingToQuantizeError
from qtool.core.records.placement import Amendment
from qtool.core.records.plan import Plan
from qtool.graph import edit
from qtool.graph.edit import Model, Node
from qtool.graph.layers import Layer

Look = Callable[[Plan], Mapping[str, str]]
"""Layers that onnxruntime would not run as a plan says -> why.

Raises `ModelError` or `DataError` where it does not take the model at all.
"""
_ROUNDS = 16
REFUSED = "onnxruntime does not run the model with it in integers"


@dataclass(frozen=True, slots=True)
class Settler:
    """Places layers again until onnxruntime runs them as planned.

    model: the prepared graph. make: the plan under an amendment. look: what runs otherwise. remedy: of a plan, the next
    form for a layer that is not run as planned (its name and why).
    """

    model: Model
    make: Callable[[Amendment], Plan]
    look: Look
    remedy: Callable[[Plan, Amendment, str, str], Amendment]

    def settle(self, start: Amendment) -> Amendment:
        """Return the amendment under which onnxruntime runs what the plan says, or as near to it as a few rounds get.

        Raises:
            NothingToQuantizeError: no layer is left that it runs in integers.
            ModelError, DataError: it does not take the model with every layer in float either.
        """
        amendment = start
        for _ in range(_ROUNDS):
            plan = self.make(amendment)
            try:
                odd = self.look(plan)
            except (ModelError, DataError):
                amendment = amendment.leaving({self._culprit(plan, amendment): REFUSED})
                continue
            if not odd:
                break
            for layer, why in odd.items():
                amendment = self._amended(plan, amendment, layer, why)
        return amendment

    def _amended(self, plan: Plan, amendment: Amendment, layer: str, why: str) -> Amendment:
        """Another form for the layer; where it is float already, for those that it reads."""
        if layer not in amendment.floating:
            return self.remedy(plan, amendment, layer, why)
        return amendment.leaving(dict.fromkeys(layers_before(self.model, [layer]), why))

    def _culprit(self, plan: Plan, amendment: Amendment) -> str:
        """The last of the fewest layers, from the first on, without which onnxruntime takes the model: by bisection."""
        # what is wrong with the model itself is said here
        self.look(plan.without_all())
        layers = plan.quantized
        few, many = 0, len(layers)
        while many - few > 1:
            middle = (few + many) // 2
            if self._is_taken(amendment, layers[:middle]):
                many = middle
            else:
                few = middle
        return layers[many - 1]

    def _is_taken(self, amendment: Amendment, floating: Iterable[str]) -> bool:
        try:
            self.look(self.make(amendment.leaving(dict.fromkeys(floating, REFUSED))))
        except NothingToQuantizeError:
            return True
        except (ModelError, DataError):
            return False
        return True


def layers_before(model: Model, names: Iterable[str]) -> set[str]:
    """Return the names of the nearest layers with weights in front of nodes, by name."""
    nodes = {str(node.name): node for node in model.graph}
    waiting = [node for name in names if (node := nodes.get(name)) is not None]
    found: set[str] = set()
    seen: set[Node] = set()
    while waiting:
        node = waiting.pop()
        for _, value in edit.activations(node):
            maker = value.producer()
            if maker is None or maker in seen:
                continue
            seen.add(maker)
            layer = Layer.of(maker)
            if layer is not None and edit.weight_like(layer.weight):
                found.add(str(maker.name))
            else:
                waiting.append(maker)
    return found
