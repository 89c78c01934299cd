"""The checks that an untrusted model file needs, in the order in which they protect each other."""

import math
from pathlib import Path

import google.protobuf.message
import onnx
import onnx_ir as ir

from qtool.core.errors import ModelError
from qtool.core.reading import open_file
from qtool.core.recognition import no_model, not_onnx
from qtool.core.text import amount
from qtool.graph import external
from qtool.graph.arrangement import arrange, check_nodes, described, tolerated, unnamed_output
from qtool.graph.external import DataFile, StoredTensor

_FILE_LIMIT = 2**31 - 1


def read_proto(file: Path) -> onnx.ModelProto:
    """Read the model in a file; its large initializers stay there, external to it.

    Raises:
        ModelError: the file is missing, cannot be read, is no ONNX model, or is larger than protobuf allows.
    """
    why = no_model(file)
    if why is not None:
        raise ModelError(f"{file}: {why}")
    try:
        if file.stat().st_size > _FILE_LIMIT:
            raise ModelError(f"{file}: is larger than protobuf's 2 GB; save its weights as external data")
        return onnx.load_from_string(external.outline(file))
    except google.protobuf.message.DecodeError as error:
        raise ModelError(f"{file}: {not_onnx(file)}") from error
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror}); check the path and its permissions") from error


def check_proto(proto: onnx.ModelProto, file: Path) -> None:
    """Refuse a model that is invalid, or that holds what cannot be carried over or read; sort its nodes, in place.

    Raises:
        ModelError: the model in `file` is such a one.
    """
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelError(f"{file}: {not_onnx(file)}")
    if not proto.graph.node:
        raise ModelError(f"{file}: the graph holds no nodes; nothing to quantise, so use it as it is")
    if proto.training_info:
        raise ModelError(f"{file}: holds training info, which would be lost; export the model for inference")
    if proto.graph.sparse_initializer:
        name = proto.graph.sparse_initializer[0].values.name
        raise ModelError(f"{file}: sparse initializer {name!r} is not supported; export it dense")
    arrange(proto, str(file))
    _check_external(proto, file)
    try:
        _check_schemas(_light(proto))
    except Exception as error:
        raise ModelError(f"{file}: not a valid ONNX model ({one_line(error)}); export it again") from error
    _check_named(proto, file)
    _check_sizes(proto, file)


def check_loadable(file: Path) -> None:
    """Refuse a model that would end the process when onnxruntime loads it, or whose data lie where they must not.

    What is no ONNX model is left to onnxruntime.

    Raises:
        ModelError: it is one.
    """
    try:
        proto = read_proto(file)
    except ModelError:
        return
    _check_external(proto, file)
    _check_named(proto, file)


def _check_named(proto: onnx.ModelProto, file: Path) -> None:
    unnamed = unnamed_output(proto)
    if unnamed is not None:
        raise ModelError(f"{file}: {unnamed} has an output without a name, which onnxruntime does not survive; name it")


def _check_schemas(proto: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        if not tolerated(error):
            raise
        # it ends at the first operator that it does not know
        check_nodes(proto)


def _light(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with empty tensors for those whose bytes lie elsewhere, and with a type and a shape for every value.

    `onnx.checker` would read the files, and looks at nothing of the tensors that `_check_sizes` does not. It also
    refuses values without a shape, which onnxruntime runs.
    """
    if not external.external_tensors(proto) and all(map(_is_described, described(proto.graph))):
        return proto
    light = onnx.ModelProto()
    light.CopyFrom(proto)
    for tensor in external.external_tensors(light):
        tensor.dims[:] = [0]
        tensor.ClearField("data_location")
        tensor.ClearField("external_data")
    for value in described(light.graph):
        if not _is_described(value):
            value.type.tensor_type.elem_type = value.type.tensor_type.elem_type or onnx.TensorProto.FLOAT
            value.type.tensor_type.shape.SetInParent()
    return light


def _is_described(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.WhichOneof("value")
    tensor = value.type.tensor_type
    return bool(kind and (kind != "tensor_type" or (tensor.elem_type and tensor.HasField("shape"))))


def _check_external(proto: onnx.ModelProto, file: Path) -> None:
    # where the model is a link, as in a store of models, what lies beside the file itself is as good; so onnxruntime
    folders = (file.parent.resolve(), file.resolve().parent)
    for tensor in external.external_tensors(proto):
        span = external.span(tensor, file)
        data = span.file
        if data != file:
            _check_inside(data, folders, f"{file}: tensor {tensor.name!r}")
        if span.offset < 0 or (span.length or 0) < 0:
            raise ModelError(f"{file}: tensor {tensor.name!r} says nonsense of its external data; export it again")
        if not data.is_file():
            raise ModelError(f"{file}: external data file {data} of tensor {tensor.name!r} is missing; put it there")
        if data.stat().st_size < span.offset + (span.length or 0):
            raise ModelError(f"{file}: external data file {data} is truncated; copy or download it again")


def _check_inside(data: Path, folders: tuple[Path, ...], place: str) -> None:
    try:
        found, holder = data.resolve(), data.parent.resolve()
    except RuntimeError:
        # a link to itself: there is no file
        return
    if any(map(found.is_relative_to, folders)):
        return
    if any(map(holder.is_relative_to, folders)):
        raise ModelError(
            f"{place}: its data file {data} is a link to {found}, outside the model's folder; refused: put a copy of "
            "the file in the link's place"
        )
    raise ModelError(
        f"{place} points outside the model's folder ({data}); refused: export the model again with its data beside it"
    )


def _check_sizes(proto: onnx.ModelProto, file: Path) -> None:
    """As many bytes as shape and type need, no more: `onnx.checker` looks at neither surplus nor external data."""
    for tensor in external.tensors_of(proto):
        is_external = tensor.data_location == onnx.TensorProto.EXTERNAL
        if not is_external and not tensor.HasField("raw_data"):
            continue
        try:
            bits = ir.DataType(tensor.data_type).bitwidth
        except (ValueError, TypeError) as error:
            raise ModelError(
                f"{file}: tensor {tensor.name!r} has the unknown type {tensor.data_type}; export it again"
            ) from error
        have = external.span(tensor, file).size if is_external else len(tensor.raw_data)
        need = math.ceil(math.prod(tensor.dims) * bits / 8)
        if have != need:
            raise ModelError(
                f"{file}: tensor {tensor.name!r} holds {amount(have, 'byte')}, its shape needs {need}; export it again"
            )


def take_in(proto: onnx.ModelProto, file: Path) -> dict[str, StoredTensor]:
    """Read the external tensors into the model, and return the large initializers, which stay in their files, by name.

    Raises:
        ModelError: a file cannot be read.
    """
    sources: dict[Path, DataFile] = {}
    stored: dict[str, StoredTensor] = {}
    large = [tensor for tensor in proto.graph.initializer if _stays(tensor, file)]
    staying = set(map(id, large))
    try:
        for tensor in external.external_tensors(proto):
            span = external.span(tensor, file)
            if id(tensor) in staying:
                source = sources.get(span.file) or sources.setdefault(span.file, DataFile(span.file))
                dtype = ir.DataType(tensor.data_type)
                stored[tensor.name] = StoredTensor(source, span.offset, dtype, tuple(tensor.dims), tensor.name)
            else:
                with open_file(span.file) as stream:
                    stream.seek(span.offset)
                    external.set_raw(tensor, stream.read(span.size))
    except OSError as error:
        raise ModelError(
            f"{file}: external data of tensor {tensor.name!r} cannot be read ({one_line(error)}); export it again"
        ) from error
    return stored


def _stays(tensor: onnx.TensorProto, file: Path) -> bool:
    if tensor.data_location != onnx.TensorProto.EXTERNAL or external.span(tensor, file).size < external.LARGE:
        return False
    return ir.DataType(tensor.data_type).bitwidth >= 8


def one_line(error: BaseException) -> str:
    """Return the message of an error without its line breaks, cut to 200 characters."""
    return " ".join(str(error).split())[:200]
