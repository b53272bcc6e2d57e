"""A version folder of a model: what it serves, and whether its files are what its card says."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fpga_ops.errors import ModelError
from triton_server.repository.admission import card_hashes, sha256

MODEL_FILE = "model.onnx"

_TRITON_TYPES = {
    1: "TYPE_FP32", 2: "TYPE_UINT8", 3: "TYPE_INT8", 4: "TYPE_UINT16", 5: "TYPE_INT16", 6: "TYPE_INT32",
    7: "TYPE_INT64", 9: "TYPE_BOOL", 10: "TYPE_FP16", 11: "TYPE_FP64", 12: "TYPE_UINT32", 13: "TYPE_UINT64",
}  # fmt: skip
"""onnx.TensorProto.DataType to Triton's names."""


@dataclass(frozen=True)
class TensorDescription:
    """One input or output of a model, as Triton's configuration describes it."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    """Without the batch dimension when ``batched``; -1 for a size that may vary."""
    batched: bool
    """Whether the first dimension may vary."""

    def as_config(self, *, batched: bool) -> dict[str, Any]:
        """The entry of a model configuration, whose ``max_batch_size`` is above 0 if it is ``batched``."""
        dims = [-1, *self.dims] if self.batched and not batched else list(self.dims)
        return {"name": self.name, "data_type": self.data_type, "dims": dims}

    @property
    def rank(self) -> int:
        """Number of dimensions in the file."""
        return len(self.dims) + self.batched


def describe_onnx(path: Path) -> tuple[list[TensorDescription], list[TensorDescription]]:
    """Inputs and outputs of an ONNX file. Raises ModelError when it is missing or not an ONNX model."""
    import onnx

    if not path.is_file():
        raise ModelError(f"there is no {path.name} in {path.parent}")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf raises several kinds
        raise ModelError(f"{path.name} is not an ONNX file: {error}") from error
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [_describe(value) for value in model.graph.input if value.name not in weights]
    outputs = [_describe(value) for value in model.graph.output]
    if not inputs or not outputs:
        raise ModelError(f"{path.name}: expected at least one input and one output, found none")
    return inputs, outputs


def check_files(version: Path, *, required: bool) -> None:
    """Compare the files of a version with the SHA-256 in its model_card.json.

    Raises ModelError for a difference, and with ``required`` for a hash of model.onnx that is not there.
    """
    try:
        hashes = card_hashes(version)
    except (ValueError, OSError) as error:
        raise ModelError(f"model_card.json cannot be read: {error}") from error
    if required and MODEL_FILE not in hashes:
        raise ModelError(f"model_card.json holds no hash of {MODEL_FILE}, and the parameter require_hashes is true")
    for name, expected in sorted(hashes.items()):
        path = version / name
        if Path(name).name != name:
            raise ModelError(f"model_card.json: expected plain file names, came {name!r}")
        if not path.is_file():
            raise ModelError(f"model_card.json lists {name}, which is missing")
        came = sha256(path)
        if came != expected:
            raise ModelError(f"{name} is not the file that model_card.json describes: SHA-256 {expected} != {came}")


def _describe(value: Any) -> TensorDescription:
    tensor = value.type.tensor_type
    sizes = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
    if tensor.elem_type not in _TRITON_TYPES or not sizes:
        raise ModelError(f"tensor '{value.name}': its type or shape cannot be served")
    batched = sizes[0] == -1
    return TensorDescription(
        value.name, _TRITON_TYPES[tensor.elem_type], tuple(sizes[1:] if batched else sizes), batched
    )
