"""The outputs of the model as it came, which everything that is made of it is held against."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from qtool.core.concurrency import side_by_side
from qtool.graph import model_io
from qtool.graph.edit import Model
from qtool.runtime.session import Session

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Original:
    """A model as it came, and what it computes on the examples (batches of inputs): run once, when first asked for.

    source: its path. widened: of a float16 model, the same in float32 as it was before all passes. absent: why there
    are no examples, where there are none.
    """

    source: Path
    widened: Model | None
    examples: Sequence[Arrays]
    absent: str = "there are no examples"

    @cached_property
    def halves(self) -> Sequence[Arrays]:
        """The outputs of a float16 model in its own arithmetic, for each example; empty for another model."""
        return _outputs(Session(self.source), self.examples) if self.widened is not None else ()

    @cached_property
    def outputs(self) -> Sequence[Arrays]:
        """The outputs of the model in float32, for each example."""
        if self.widened is None:
            return _outputs(Session(self.source), self.examples)
        return _outputs(Session(model_io.serialize(self.widened), name="the model in float32"), self.examples)


def _outputs(session: Session, examples: Sequence[Arrays]) -> list[dict[str, np.ndarray]]:
    names = [spec.name for spec in session.inputs]
    return list(side_by_side(lambda example: session.run({n: example[n] for n in names if n in example}), examples))
