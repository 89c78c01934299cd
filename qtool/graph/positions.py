"""The axes of tensors along which the positions of a mask lie, found by shape inference."""

from collections.abc import Iterable, Mapping

from qtool.core.numerics.padding import Padding
from qtool.graph import shapes
from qtool.graph.edit import Model

MASK = "qtool.mask"
"""What the metadata of a model call the input whose zeros its ranges leave out."""
_BATCHES, _LENGTHS = (3, 5), (13, 17)
_OTHERS = ((19, 23), (29, 31), (37, 41), (43, 47))
"""Sizes that free dimensions are given, in two turns; a tensor's axis is a free one where it has both."""


def note_mask(model: Model, mask: str) -> None:
    """Let the metadata of a graph name the mask that was used for its statistics; "" for none. In place."""
    if mask:
        model.metadata_props[MASK] = mask


def padding_of(model: Model, tensors: Iterable[str]) -> Padding | None:
    """Return the padding of a graph whose metadata names a mask, for some of its tensors; None where they name none."""
    mask = model.metadata_props.get(MASK)
    known = any(value.name == mask for value in model.graph.inputs)
    return find_padding(model, mask, tensors) if mask is not None and known else None


def find_padding(model: Model, mask: str, tensors: Iterable[str]) -> Padding:
    """Return where the positions of a mask lie in tensors of a graph.

    With free dimensions the sizes of all inputs are given to ONNX's shape inference twice: an axis that is the mask's
    length, and the batch, both times, is that; a tensor of which inference does not tell it is left out. Where the
    mask's length is fixed, a tensor [batch, length, ...] is taken whose other axes have other lengths.
    """
    own = next(value for value in model.graph.inputs if value.name == mask)
    said = own.shape
    if said is None or said.rank() != 2:
        return Padding(mask)
    if isinstance(said[1], int):
        return Padding(mask, _fixed(model, said[0], said[1], tensors))
    first, second = (shapes.known_shapes(model, _sizes(model, mask, turn)) for turn in (0, 1))
    batch = (said[0], said[0]) if isinstance(said[0], int) else _BATCHES
    axes = {}
    for tensor in tensors:
        pairs = list(zip(first.get(tensor, ()), second.get(tensor, ()), strict=False))
        if pairs.count(_LENGTHS) in (1, 2) and pairs.count(batch) == 1:
            axes[tensor] = (pairs.index(batch), pairs.index(_LENGTHS))
    return Padding(mask, axes)


def _fixed(model: Model, batch: object, length: int, tensors: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Of a model whose length is fixed."""
    size = batch if isinstance(batch, int) else _BATCHES[0]
    known = shapes.known_shapes(
        model,
        {
            str(value.name): [d if isinstance(d, int) else size for d in value.shape]
            for value in model.graph.inputs
            if value.shape is not None
        },
    )
    found = {tensor: known.get(tensor, ()) for tensor in tensors}
    return {
        tensor: (0, 1) for tensor, shape in found.items() if shape[:2] == (size, length) and shape.count(length) == 1
    }


def _sizes(model: Model, mask: str, turn: int) -> Mapping[str, list[int]]:
    """A size for each dimension of each input, the same for the same name."""
    by_name: dict[object, int] = {}
    own = next(value for value in model.graph.inputs if value.name == mask)
    assert own.shape is not None
    for dim, sizes in zip(own.shape, (_BATCHES, _LENGTHS), strict=True):
        by_name[_key(dim)] = sizes[turn]
    result = {}
    for value in model.graph.inputs:
        if value.shape is None:
            continue
        lengths = []
        for dim in value.shape:
            if isinstance(dim, int):
                lengths.append(dim)
                continue
            fresh = _OTHERS[len(by_name) % len(_OTHERS)][turn]
            lengths.append(by_name.setdefault(_key(dim), fresh))
        result[str(value.name)] = lengths
    return result


def _key(dim: object) -> object:
    """The name of a free dimension; unnamed ones differ from each other."""
    return getattr(dim, "value", None) or id(dim)
