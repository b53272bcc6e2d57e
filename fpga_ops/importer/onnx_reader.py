"""Read an ONNX file that nobody vouches for: every size is checked against the file before it is believed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from fpga_ops import model_file
from fpga_ops.errors import ModelError

MAX_NODES = 100_000
DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
"""Operator sets that onnxruntime has built in."""
MIN_OPSET = 13

_TYPED_FIELD: dict[int, tuple[str, int]] = {
    onnx.TensorProto.FLOAT: ("float_data", 4),
    onnx.TensorProto.DOUBLE: ("double_data", 8),
    onnx.TensorProto.INT64: ("int64_data", 8),
    onnx.TensorProto.INT32: ("int32_data", 4),
    onnx.TensorProto.INT16: ("int32_data", 2),
    onnx.TensorProto.UINT16: ("int32_data", 2),
    onnx.TensorProto.INT8: ("int32_data", 1),
    onnx.TensorProto.UINT8: ("int32_data", 1),
    onnx.TensorProto.BOOL: ("int32_data", 1),
    onnx.TensorProto.FLOAT16: ("int32_data", 2),
    onnx.TensorProto.BFLOAT16: ("int32_data", 2),
    onnx.TensorProto.UINT32: ("uint64_data", 4),
    onnx.TensorProto.UINT64: ("uint64_data", 8),
}


@dataclass(frozen=True)
class Origin:
    """Which bytes a model was read from.

    Attributes:
        sha256: Of its file.
        external: What was read of other files.
    """

    sha256: str
    external: tuple[model_file.Piece, ...]


def read_model(path: str | Path) -> onnx.ModelProto:
    """The model of an ONNX file, all weights inside, structure checked; arguments and errors as of `read_original`."""
    return read_original(path)[0]


def read_original(path: str | Path) -> tuple[onnx.ModelProto, Origin]:
    """The model of an ONNX file, and the bytes it was read from.

    Args:
        path: The `.onnx` file. External data is read from its folder and nowhere else.

    Raises:
        ModelError: The file is missing, unreadable, truncated, too large, or not a valid graph.
    """
    file = Path(path)
    content = model_file.read_model_file(file)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ModelError(f"{file} is not an ONNX file, or is truncated ({error})") from None
    digest = model_file.sha256(content)
    del content
    _check_header(model, file)
    external = tuple(
        _load_external(tensor, file)
        for tensor in model.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    )
    for tensor in _tensors(model.graph):
        _check_tensor(tensor)
    return model, Origin(digest, external)


def _check_header(model: onnx.ModelProto, file: Path) -> None:
    graph = model.graph
    if not graph.node or not graph.output:
        raise ModelError(f"{file} holds no graph: it is not an ONNX model, or is truncated")
    if len(graph.node) > MAX_NODES:
        raise ModelError(f"{file} has {len(graph.node)} nodes; at most {MAX_NODES} are read")
    if model.functions:
        raise ModelError(
            f"{file} has local functions (such as '{model.functions[0].name}'); inline them first, for example "
            "with onnx.inliner.inline_local_functions"
        )
    if graph.sparse_initializer:
        raise ModelError(f"{file} has sparse weights, which are not supported; store them dense")
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if "ai.onnx" not in opsets:
        raise ModelError(f"{file} does not say which opset it uses")
    if opsets["ai.onnx"] < MIN_OPSET:
        raise ModelError(
            f"{file} uses opset {opsets['ai.onnx']}; {MIN_OPSET} or later is needed (QuantizeLinear with an axis): "
            "export again, or use onnx.version_converter"
        )


def _load_external(tensor: onnx.TensorProto, file: Path) -> model_file.Piece:
    """Take in a tensor's external data."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    try:
        offset, length = int(entries.get("offset", "0")), int(entries.get("length", "-1"))
        target = model_file.find_external(file, location)
        size = target.stat().st_size if target is not None and target.is_file() else -1
    except (OSError, ValueError) as error:
        raise ModelError(f"weights '{tensor.name}' have a bad reference to external data: {error}") from error
    if target is None:
        raise ModelError(f"weights '{tensor.name}' are said to be in '{location}', outside the model's folder")
    if size < 0:
        raise ModelError(f"weights '{tensor.name}' are in '{location}', which is not there")
    expected = _expected_bytes(tensor)
    if length < 0:
        length = expected
    if offset < 0 or length != expected or offset + length > size:
        raise ModelError(
            f"weights '{tensor.name}' need {expected} bytes; bytes {offset} to {offset + length} of '{location}', "
            f"which has {size}, were given"
        )
    content = model_file.read_piece(target, offset, length)
    tensor.raw_data = content
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]
    return model_file.Piece(location, offset, length, model_file.sha256(content))


def _expected_bytes(tensor: onnx.TensorProto) -> int:
    if any(size < 0 for size in tensor.dims):
        raise ModelError(f"weights '{tensor.name}' have a negative dimension: {list(tensor.dims)}")
    if tensor.data_type not in _TYPED_FIELD:
        kind = tensor.data_type
        name = onnx.TensorProto.DataType.Name(kind) if kind in onnx.TensorProto.DataType.values() else str(kind)
        raise ModelError(f"weights '{tensor.name}' are of type {name}, which is not supported; quantise to 8 bits")
    total: int = math.prod(tensor.dims) * _TYPED_FIELD[tensor.data_type][1]
    if total > model_file.MAX_FILE_BYTES:
        raise ModelError(f"weights '{tensor.name}' of shape {list(tensor.dims)} need {total} bytes")
    return total


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of the graph, its attributes and its subgraphs."""
    yield from graph.initializer
    for node in graph.node:
        if node.domain not in DOMAINS:
            raise ModelError(
                f"its operator set '{node.domain}' is not known here", node=node.name, operator=node.op_type
            )
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)
            for inner in attribute.graphs:
                yield from _tensors(inner)


def _check_tensor(tensor: onnx.TensorProto) -> None:
    """The stored values must be as many as the shape says: nothing is allocated from a shape alone."""
    if tensor.data_type == onnx.TensorProto.STRING:
        count = math.prod(tensor.dims)
        if any(size < 0 for size in tensor.dims) or count != len(tensor.string_data):
            raise ModelError(f"weights '{tensor.name}' do not fill their shape {list(tensor.dims)}")
        return
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ModelError(f"tensor '{tensor.name}' inside a node is stored outside the file, which is not supported")
    expected = _expected_bytes(tensor)
    field, width = _TYPED_FIELD[tensor.data_type]
    present = len(tensor.raw_data) if tensor.HasField("raw_data") else len(getattr(tensor, field)) * width
    if present != expected:
        raise ModelError(
            f"weights '{tensor.name}' of shape {list(tensor.dims)} need {expected} bytes, the file has {present}"
        )
