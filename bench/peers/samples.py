"""What all peers share: the samples, read one by one, and the opset that quantizers need."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_PER_CHANNEL_OPSET = 13


@dataclass(frozen=True, slots=True)
class Samples:
    """A folder of `.npz` files, one sample each: input name -> array with its batch axis. Can be read again."""

    folder: Path

    def __len__(self) -> int:
        return sum(1 for _ in self.folder.glob("*.npz"))

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for file in sorted(self.folder.glob("*.npz")):
            with np.load(file) as arrays:
                yield {name: arrays[name] for name in arrays.files}


def raised(model: Path, folder: Path) -> Path:
    """The model, or a copy in `folder` at the first opset whose DequantizeLinear has an axis."""
    import onnx
    import onnx.version_converter

    proto = onnx.load(str(model))
    if next(o.version for o in proto.opset_import if o.domain == "") >= _PER_CHANNEL_OPSET:
        return model
    file = folder / "raised.onnx"
    onnx.save(onnx.version_converter.convert_version(proto, _PER_CHANNEL_OPSET), str(file))
    return file
