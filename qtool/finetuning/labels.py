"""The loss on labels beside that of the float model: cross-entropy, or a function of the user's.

Such a function `(outputs, labels) -> loss` gets two dictionaries of tensors of torch, one batch, with gradients to the
outputs, and returns one number, or one a sample, of which less is better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from qtool.core.errors import DataError, UsageError, arg
from qtool.core.text import amount
from qtool.evaluation.metrics.heads import LABELS, find_heads, one_hot_classes
from qtool.feeds import load_function, raised, refuse_to_stop
from qtool.finetuning.loss_names import CROSS_ENTROPY, Loss, LossSpec
from qtool.graph.edit import Model
from qtool.graph.parts import saturating_ends

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class LabelsLoss:
    """A loss of outputs and labels. reads: the tensors that it reads, by their names in the float graph."""

    name: str
    reads: tuple[str, ...]
    function: Loss

    def __call__(self, made: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of a batch, the mean over its samples. Raises `DataError`: there is none, or no gradient."""
        try:
            found = self.function({name: made[name] for name in self.reads}, dict(labels))
        except DataError:
            raise
        except BaseException as error:
            refuse_to_stop(error)
            raise DataError(f"{self._called}: {raised(error)}; correct the function or the labels") from error
        if not isinstance(found, Tensor):
            raise DataError(f"{self._called}: gave a {type(found).__name__}; return a tensor of torch, one number")
        if not found.requires_grad:
            raise DataError(f"{self._called}: has no gradient to the outputs; compute it from them, by torch alone")
        return found.mean()

    @property
    def _called(self) -> str:
        return arg("labels_loss", self.name)


def find_labels_loss(spec: LossSpec, model: Model, outputs: Arrays, labels: Arrays) -> LabelsLoss:
    """Return the loss that a name or a function stands for.

    Args:
        spec: `cross_entropy`, `MODULE:NAME`, `file.py:NAME`, or a function.
        model: the prepared graph.
        outputs, labels: of its first sample.

    Raises:
        UsageError: there is no such function, or no output that says classes of such labels.
    """
    if spec == CROSS_ENTROPY:
        return _cross_entropy(model, outputs, labels)
    names = tuple(str(value.name) for value in model.graph.outputs)
    if isinstance(spec, str):
        if ":" not in spec:
            raise UsageError(
                f"{arg('labels_loss', spec)}: is unknown; give {CROSS_ENTROPY}, or a function of your own as "
                "MODULE:FUNCTION or file.py:FUNCTION"
            )
        try:
            return LabelsLoss(spec, names, load_function(spec))
        except DataError as error:
            raise UsageError(f"{arg('labels_loss')} {error.marked}") from error
    return LabelsLoss(getattr(spec, "__name__", type(spec).__name__), names, spec)


def _cross_entropy(model: Model, outputs: Arrays, labels: Arrays) -> LabelsLoss:
    """The cross-entropy of the classes of samples or tokens, in front of the Softmax or Sigmoid where one ends them."""
    array = labels.get(LABELS)
    size = 0 if array is None or not array.ndim else len(array)
    heads = find_heads(outputs, labels, size)
    output = heads.tokens if heads.token_labels else heads.classes
    if array is None or output is None or output.holds_class or not _of_classes(array, output.columns):
        raise UsageError(
            f"{arg('labels_loss', CROSS_ENTROPY)}: no output has scores of classes that the labels name; give a "
            "function of your own, file.py:FUNCTION"
        )
    end = next((one for one in saturating_ends(model) if one.output == output.name and not one.chooses), None)
    columns = output.columns
    if columns == 1 and (end is None or end.axis is not None):
        raise UsageError(
            f"{arg('labels_loss', CROSS_ENTROPY)}: output {output.name!r} has one column, and no Sigmoid in front of "
            "it; give a function of your own, file.py:FUNCTION"
        )
    name = output.name if end is None else end.reads

    def loss(made: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Tensor:
        scores, wanted = made[name].reshape(-1, columns), given[LABELS]
        if columns == 1:
            return functional.binary_cross_entropy_with_logits(scores[:, 0], wanted.reshape(-1).to(scores.dtype))
        if wanted.numel() == scores.numel():
            wanted = wanted.reshape(-1, columns).argmax(1)
        classes = wanted.reshape(-1).long()
        # a token without a label has a negative one
        counted = classes >= 0
        if bool((classes >= columns).any()):
            raise DataError(
                f"{arg('labels_loss', CROSS_ENTROPY)}: a label is {int(classes.max())}, and output {output.name!r} has "
                f"{amount(columns, 'column')}; correct the labels"
            )
        return functional.cross_entropy(scores, classes.clamp_min(0), reduction="none")[counted].sum() / max(
            int(counted.sum()), 1
        )

    return LabelsLoss(CROSS_ENTROPY, (name,), loss)


def _of_classes(labels: np.ndarray, columns: int) -> bool:
    if labels.dtype.kind in "iub":
        return True
    whole = labels.dtype.kind == "f" and bool(np.all(np.isfinite(labels) & (labels == np.floor(labels))))
    return whole or one_hot_classes(labels, columns) is not None


def balance(learned: Sequence[Tensor], loss: Tensor, other: Tensor) -> float:
    """Return the factor with which the gradient of `other` is as long as that of `loss`; 0 where it has none."""
    lengths = []
    for one in (loss, other):
        found = torch.autograd.grad(one, learned, retain_graph=True, allow_unused=True)
        lengths.append(float(sum(grad.double().square().sum() for grad in found if grad is not None)) ** 0.5)
    return lengths[0] / lengths[1] if lengths[1] > 0.0 else 0.0
