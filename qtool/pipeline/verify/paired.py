"""The bodies of If, Loop and Scan of the prepared and of the quantised model, side by side."""

from dataclasses import dataclass

from qtool.graph import compose
from qtool.graph.bodies import around_name, parts
from qtool.graph.edit import Model


@dataclass(frozen=True, slots=True, eq=False)
class BodyPair:
    """A body as a model of its own, in both; stored: tensor of the prepared one -> its 8-bit form."""

    name: str
    prepared: Model
    quantized: Model
    stored: dict[str, str]

    @property
    def quantizes(self) -> bool:
        """Whether there is an 8-bit tensor in it."""
        return bool(self.stored or compose.dynamic_tensors(self.quantized))


def paired_bodies(prepared: Model, quantized: Model) -> list[BodyPair]:
    """Return the bodies that both models hold, each before those inside of it."""
    called = _dequantized(quantized, compose.stored_names(prepared, quantized))
    before = {part.body.name: part for part in parts(prepared)}
    result = []
    for part in parts(quantized):
        if part.body.name not in before:
            continue
        name, old = part.body.name, before[part.body.name]
        # what is quantised around it is read through a DequantizeLinear there
        around = {fed: around_name(called.get(one, one), name) for fed, one in part.called.items()}
        found = compose.stored_names(old.model, part.model)
        stored = {around.get(tensor, tensor): form for tensor, form in found.items()}
        called |= _dequantized(part.model, stored)
        result.append(BodyPair(name, old.model, part.model, stored))
    return result


def _dequantized(model: Model, stored: dict[str, str]) -> dict[str, str]:
    """The output of each DequantizeLinear -> the tensor that it stands for."""
    tensors = {form: tensor for tensor, form in stored.items()}
    result = {}
    for node in model.graph:
        source = node.inputs[0] if node.op_type == "DequantizeLinear" else None
        if source is not None and source.name in tensors:
            result[str(node.outputs[0].name)] = tensors[str(source.name)]
    return result
