"""Everything that the rules of an inspection look at, and what each finds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from qtool.anatomy.executed import Executed, is_integer
from qtool.anatomy.opened import Opened
from qtool.anatomy.planned import PlannedLayer
from qtool.inspection.errors import Errors
from qtool.inspection.islands import Island
from qtool.inspection.makers import Maker


@dataclass(frozen=True)
class Look:
    """Everything that the rules look at.

    kernels: layer -> number of the node that it became. islands: the float ones. differs: layer or tensor -> in words,
    by how much onnxruntime's optimised graph computes something else than the file says. vnni: whether this processor
    multiplies 8 bits without saturation. float_ms: number of a node -> what the same takes in the float model. fails:
    what onnxruntime says where it loads the model, and cannot run it. errors: of the tensors. outputs: the float
    model's. trained: layers whose weights are others than float's.
    """

    opened: Opened
    planned: Sequence[PlannedLayer]
    executed: Executed
    kernels: Mapping[str, int]
    islands: Sequence[Island]
    maker: Maker | None
    form: str
    vnni: bool
    float_ms: Mapping[int, float] = field(default_factory=dict)
    differs: Mapping[str, str] = field(default_factory=dict)
    fails: str = ""
    errors: Errors = field(default_factory=Errors)
    outputs: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()

    @property
    def output_db(self) -> float | None:
        """The SQNR of the worst output in dB; None where it was not measured."""
        found = [self.errors.by_tensor.get(name) for name in self.outputs]
        return min((db for db in found if db is not None), default=None)

    def kernel(self, layer: PlannedLayer) -> str:
        """Return the operator that a layer became; "" where it is gone."""
        number = self.kernels.get(layer.name)
        return "" if number is None else self.executed.nodes[number].op_type

    def runs_integer(self, layer: PlannedLayer) -> bool:
        """Return whether a layer runs in integers."""
        number = self.kernels.get(layer.name)
        return number is not None and is_integer(self.executed.nodes[number])

    def numbers(self, layers: Iterable[PlannedLayer]) -> list[int]:
        """Return the numbers of the nodes that layers became."""
        return [self.kernels[layer.name] for layer in layers if layer.name in self.kernels]


@dataclass(frozen=True, slots=True)
class Found:
    """A find of a rule: where, in two sentences what and why, and the numbers of the nodes that run because of it.

    ms: what it costs, where that is not all the time of these nodes.
    """

    where: tuple[str, ...]
    what: str
    cause: str
    numbers: tuple[int, ...] = ()
    ms: float | None = None
