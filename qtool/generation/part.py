"""A model of a pipeline that loops call."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from qtool.core.errors import DataError, ModelError
from qtool.core.recognition import no_model
from qtool.core.state import may_feed_back
from qtool.core.tensorspec import InputSpec, describe
from qtool.evaluation.interface import check_interface
from qtool.runtime.session import Session

Heard = Callable[[str, Mapping[str, np.ndarray]], None]


class PartModel:
    """A model in a session: called with arrays by input name, it returns arrays by output name.

    Attributes:
        name: of the part.
        inputs, outputs: what the model takes and gives.

    Raises:
        ModelError: onnxruntime cannot load the model.
        DataError: when called: an input is missing or unknown, or the model does not run on them.
    """

    def __init__(self, name: str, path: Path, heard: Heard | None = None, *, threads: int, provider: str) -> None:
        why = no_model(path)
        if why is not None:
            raise ModelError(f"{path}: {why} (part '{name}')")
        self.name = name
        self._session = Session(path, threads=threads, provider=provider)
        self.inputs: list[InputSpec] = self._session.inputs
        self.outputs: list[InputSpec] = self._session.output_specs
        self._heard = heard
        if not self.outputs:
            raise ModelError(f"{path}: has no outputs; name a model that has some")

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the model once; arrays are cast to the inputs' types. Raises `DataError`."""
        names = [spec.name for spec in self.inputs]
        wrong = [name for name in names if name not in feeds] or [name for name in feeds if name not in names]
        if wrong:
            what = "gives nothing to its input" if wrong[0] in names else "feeds what is no input of it:"
            raise DataError(f"part '{self.name}': the loop {what} '{wrong[0]}'; its inputs are {', '.join(names)}")
        fed = {spec.name: np.ascontiguousarray(feeds[spec.name], spec.dtype) for spec in self.inputs}
        try:
            found = self._session.run(fed)
        except DataError as error:
            raise DataError(f"part '{self.name}': {error.marked}") from error
        if self._heard is not None:
            self._heard(self.name, fed)
        return found

    def check_stands_for(self, reference: "PartModel") -> None:
        """Refuse a model that cannot take the place of another one of the same part.

        Raises:
            ModelError: inputs or outputs differ in name, type or shape.
        """
        check_interface(reference._session, self._session, 1)
        given = {spec.name: spec for spec in self.outputs}
        for wanted in reference.outputs:
            found = given[wanted.name]
            # onnxruntime does not tell no shape from that of a scalar
            known = wanted.shape and found.shape and wanted.dtype.kind != "O"
            if found.dtype != wanted.dtype or (known and not may_feed_back(found, wanted)):
                raise ModelError(
                    f"{self._session.name}: output '{wanted.name}' of part '{self.name}' is "
                    f"{describe(found.dtype, found.shape)}, float's is {describe(wanted.dtype, wanted.shape)}; name "
                    "the int8 model that is made of the part's float model"
                )

    def takes(self, name: str) -> bool:
        """Return whether the model has an input of that name."""
        return any(spec.name == name for spec in self.inputs)
