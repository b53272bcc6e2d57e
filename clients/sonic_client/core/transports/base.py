"""What every transport does, and the data it moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sonic_client.core.url import ServerUrl
from sonic_client.errors import JetError

Tensor = NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorInfo:
    """Name, Triton dtype and shape of an input or output; -1 where any size is taken."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def fits(self, array: Tensor) -> bool:
        """Whether an array has this dtype and shape."""
        return NAMES.get(array.dtype) == self.dtype and self._has_shape(array)

    def gives(self, array: Tensor, rows: int) -> bool:
        """Whether an answer is this output: so many rows, unless the model's shapes leave no size open for a batch.

        Words come as objects, and bfloat16 as what tritonclient makes of it; neither can be sent.
        """
        names = {"BYTES": ("object",), "BF16": ("bfloat16", "float32")}
        kind = array.dtype.name in names[self.dtype] if self.dtype in names else NAMES.get(array.dtype) == self.dtype
        return kind and self._has_shape(array) and (not self.shape or self.shape[0] != -1 or array.shape[0] == rows)

    def _has_shape(self, array: Tensor) -> bool:
        return array.ndim == len(self.shape) and all(
            want in (-1, have) for want, have in zip(self.shape, array.shape, strict=True)
        )

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class ModelInfo:
    """What a server says of a model."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    def __str__(self) -> str:
        taken, given = (
            ", ".join(f"{tensor.name} {tensor}" for tensor in tensors) for tensors in (self.inputs, self.outputs)
        )
        return f"takes {taken} and gives {given}"


@dataclass(frozen=True)
class Region:
    """Where in shared memory an input lies."""

    name: str
    byte_size: int


@dataclass(frozen=True)
class Call:
    """One request, as it is sent (and sent again)."""

    model: str
    version: str
    inputs: Mapping[str, Tensor]
    request_id: str
    headers: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str | int | bool | float] = field(default_factory=dict)
    compression: str | None = None
    priority: int = 0
    regions: Mapping[str, Region] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, array in self.inputs.items():
            if NAMES.get(array.dtype) is None:
                raise JetError(
                    f"input '{name}': dtype {array.dtype} cannot be sent; expected one of {', '.join(DTYPES)}"
                )

    @property
    def byte_size(self) -> int:
        """Bytes of tensor data sent inline."""
        return sum(array.nbytes for name, array in self.inputs.items() if name not in self.regions)


@dataclass(frozen=True)
class RawReply:
    """A server's answer: tensors by name, the version that answered, response parameters."""

    outputs: dict[str, Tensor]
    model_version: str
    parameters: dict[str, Any]


class Transport(Protocol):
    """A connection to one server. Methods raise `faults.Fault`; a cancelled `infer` cancels the request."""

    @property
    def url(self) -> ServerUrl:
        """The server."""

    async def infer(self, call: Call, timeout: float) -> RawReply:
        """Send one request once."""

    async def model_ready(self, model: str, version: str, headers: Mapping[str, str], timeout: float) -> bool:
        """Whether the model answers requests."""

    async def model_info(self, model: str, version: str, headers: Mapping[str, str], timeout: float) -> ModelInfo:
        """The model's inputs and outputs."""

    async def model_config(
        self, model: str, version: str, headers: Mapping[str, str], timeout: float
    ) -> dict[str, Any]:
        """The model's configuration."""

    async def index(self, headers: Mapping[str, str], timeout: float) -> list[dict[str, str]]:
        """The repository index: rows with name, version, state, reason."""

    async def statistics(self, model: str, version: str, headers: Mapping[str, str], timeout: float) -> dict[str, Any]:
        """The server's statistics of the model, in Triton's own form."""

    async def register(self, name: str, key: str, byte_size: int, headers: Mapping[str, str], timeout: float) -> None:
        """Make a shared memory region known to the server."""

    async def unregister(self, name: str, headers: Mapping[str, str], timeout: float) -> None:
        """Make the server forget it."""

    async def close(self) -> None:
        """Close the connection."""


@runtime_checkable
class Blocking(Protocol):
    """What a transport has besides, if it can send without an event loop, in the thread that waits for the answer."""

    def infer_here(self, call: Call, timeout: float) -> RawReply:
        """Send one request once, and wait."""
