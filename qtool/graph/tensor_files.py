"""Reads one tensor of ONNX's own test data: a file that holds a serialised TensorProto."""

from pathlib import Path

import numpy as np
import onnx

from qtool.core.errors import DataError
from qtool.core.reading import read_bytes

_LIMIT = 2**31 - 1
"""protobuf's."""


def read_tensor_file(path: str | Path) -> np.ndarray:
    """Read the tensor of a `.pb` file, of any shape; strings come as an object array of `str`.

    Source: onnx.proto, message TensorProto.

    Raises:
        DataError: the file cannot be read, is not a TensorProto, or points to data outside itself.
    """
    try:
        data = read_bytes(path, _LIMIT)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(data)
    except Exception as error:
        raise DataError(f"{path}: is not an ONNX tensor (TensorProto); write it again") from error
    if tensor.data_type == onnx.TensorProto.UNDEFINED:
        raise DataError(f"{path}: is not an ONNX tensor (TensorProto): it states no element type; write it again")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise DataError(f"{path}: keeps its data in another file, which is not read; save the tensor in one file")
    try:
        array = np.asarray(onnx.numpy_helper.to_array(tensor))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: is a damaged ONNX tensor ({reason}); write it again") from error
    if array.dtype == np.object_:
        texts = [item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in array.ravel()]
        array = np.array(texts, dtype=np.object_).reshape(array.shape)
    return array
