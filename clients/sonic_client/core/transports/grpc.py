"""gRPC, with tritonclient's protocol and control calls: many requests in flight over one connection, or several.

Inference requests are put together here. tritonclient copies a tensor into an object of its own, that into a message,
that into bytes; of an image the new memory alone costs milliseconds. Here it is copied once.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import grpc
import numpy as np
import tritonclient.grpc.aio as triton
from tritonclient.grpc import InferResult, service_pb2
from tritonclient.utils import InferenceServerException

from sonic_client.core.faults import Fault, Kind, from_status, is_cancelled
from sonic_client.core.proxy import Proxy, find_proxy, name_proxy
from sonic_client.core.transports.base import NAMES, Call, ModelInfo, RawReply, TensorInfo
from sonic_client.core.url import ServerUrl
from sonic_client.errors import ConfigurationError
from sonic_client.options import Tls

T = TypeVar("T")

_CHANNEL = [
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
    ("grpc.enable_retries", 0),  # retries are ours: they must know which failures are worth one
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
]
_KEEPALIVE_S = (10.0, 60.0)
"""Seconds without a byte from the server, least and most, before it is asked whether it is there (see `GrpcTransport`).
Servers take more than a few such questions within 5 minutes of one long request for an attack."""


_CROWDED = 2 << 20
"""Bytes under way on a connection: half of what `net.ipv4.tcp_wmem` lets the kernel take at most, on Linux."""

Arguments = list[tuple[str, Any]]

_INFER = "/inference.GRPCInferenceService/ModelInfer"
_COMPRESSION = {None: None, "gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}


class GrpcTransport:
    """HTTP/2 connections to one server: those of the event loop, and those of threads that wait for their answers.

    Each of the two has one, and up to `connections` when much is under way (see `Lines`).

    A server that takes connections and does nothing (stopped, or cut off) is known by its silence: after a third of the
    deadline it is asked on the connection, and 10 s later that is lost. So a request has time to go elsewhere.
    """

    def __init__(self, url: ServerUrl, tls: Tls, connections: int, deadline: float) -> None:
        self.url = url
        self._credentials = None
        if url.tls:
            self._credentials = grpc.ssl_channel_credentials(*tls.contents())
        self._proxy = find_proxy(url)
        way = ("grpc.enable_http_proxy", 0) if self._proxy is None else ("grpc.http_proxy", self._proxy.url)
        least, most = _KEEPALIVE_S
        silence = ("grpc.keepalive_time_ms", int(1000 * min(most, max(least, deadline / 3))))
        arguments = _alone([*_CHANNEL, silence, way])
        self._client = triton.InferenceServerClient(url.address, creds=self._credentials, channel_args=arguments)
        self._lines = Lines(lambda arguments: self._connect(grpc.aio, arguments), connections, arguments)
        self._lines_here = Lines(lambda arguments: self._connect(grpc, arguments), connections, arguments)

    async def infer(self, call: Call, timeout: float) -> RawReply:
        """Send one request once; cancelling the awaiting task cancels it on the server."""
        size = call.byte_size
        line = self._lines.take(size)
        try:
            return _reply(await self._judged(line.infer(_message(call), **_settings(call, timeout))))
        except Fault:
            if line.channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                self._lines.forget(line)
            raise
        finally:
            self._lines.give(line, size)

    def infer_here(self, call: Call, timeout: float) -> RawReply:
        """The same in this thread, with nothing between it and the connection."""
        size = call.byte_size
        line = self._lines_here.take(size)
        try:
            return _reply(line.infer(_message(call), **_settings(call, timeout)))
        except grpc.RpcError as error:
            fault = name_proxy(from_status(str(error.code()), str(error.details() or "")), self._proxy)
            if fault.kind is Kind.CONNECTION:
                self._lines_here.forget(line)
            raise fault from error
        except ValueError as error:
            raise Fault(Kind.CONNECTION, f"the connection was closed ({error})") from error
        finally:
            self._lines_here.give(line, size)

    async def _judged(self, awaitable: Awaitable[T]) -> T:
        return await _judged(awaitable, self._proxy)

    def _connect(self, module: Any, arguments: Arguments) -> Any:
        """A channel of `grpc` or `grpc.aio`."""
        if self._credentials is None:
            return module.insecure_channel(self.url.address, options=arguments)
        return module.secure_channel(self.url.address, self._credentials, options=arguments)

    async def model_ready(self, model: str, version: str, headers: Mapping[str, str], timeout: float) -> bool:
        """Whether the model answers requests."""
        return bool(await self._judged(self._client.is_model_ready(model, version, dict(headers), timeout)))

    async def model_info(self, model: str, version: str, headers: Mapping[str, str], timeout: float) -> ModelInfo:
        """The model's inputs and outputs."""
        said = await self._judged(
            self._client.get_model_metadata(model, version, dict(headers), client_timeout=timeout)
        )
        inputs, outputs = (
            tuple(TensorInfo(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in tensors)
            for tensors in (said.inputs, said.outputs)
        )
        return ModelInfo(said.name, tuple(said.versions), said.platform, inputs, outputs)

    async def model_config(
        self, model: str, version: str, headers: Mapping[str, str], timeout: float
    ) -> dict[str, Any]:
        """The model's configuration."""
        said: dict[str, Any] = await self._judged(
            self._client.get_model_config(model, version, dict(headers), as_json=True, client_timeout=timeout)
        )
        return dict(said["config"])

    async def index(self, headers: Mapping[str, str], timeout: float) -> list[dict[str, str]]:
        """The repository index: rows with name, version, state, reason."""
        said = await self._judged(self._client.get_model_repository_index(dict(headers), client_timeout=timeout))
        return [
            {"name": row.name, "version": row.version, "state": row.state, "reason": row.reason} for row in said.models
        ]

    async def statistics(self, model: str, version: str, headers: Mapping[str, str], timeout: float) -> dict[str, Any]:
        """The server's statistics of the model, in Triton's own form."""
        said: dict[str, Any] = await self._judged(
            self._client.get_inference_statistics(model, version, dict(headers), as_json=True, client_timeout=timeout)
        )
        return said

    async def register(self, name: str, key: str, byte_size: int, headers: Mapping[str, str], timeout: float) -> None:
        """Make a shared memory region known to the server."""
        await self._judged(
            self._client.register_system_shared_memory(
                name, key, byte_size, headers=dict(headers), client_timeout=timeout
            )
        )

    async def unregister(self, name: str, headers: Mapping[str, str], timeout: float) -> None:
        """Make the server forget it."""
        await self._judged(self._client.unregister_system_shared_memory(name, dict(headers), timeout))

    async def close(self) -> None:
        """Close the connections."""
        for line in self._lines_here.close():
            line.channel.close()
        for line in self._lines.close():
            await line.channel.close()
        await self._client.close()


def _alone(arguments: Arguments) -> Arguments:
    """The same arguments, for a connection of its own: channels with equal arguments share one, and only those."""
    others = [(name, value) for name, value in arguments if name != _CONNECTION]
    return [*others, (_CONNECTION, uuid.uuid4().hex)]


_CONNECTION = "sonic_client.connection"


class Line:
    """One connection, and the bytes under way on it."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.infer = channel.unary_unary(_INFER, response_deserializer=service_pb2.ModelInferResponse.FromString)
        self.under_way = 0


class Lines:
    """Connections to one server, opened as they are needed. Any thread may take one.

    A connection over a long distance carries in one round trip what the kernel's send buffer holds, 4 MB on Linux: of
    many images in flight, most would wait for it. So a request goes where the fewest bytes are under way, and where
    that is more than half such a buffer, over a new connection.

    Args:
        connect: Opens a channel with some arguments.
        most: Connections at most.
        first: The arguments of the first one, to share it with others.
    """

    def __init__(self, connect: Callable[[Arguments], Any], most: int, first: Arguments) -> None:
        self._connect = connect
        self._most = most
        self._first = first
        self._open: list[Line] = []
        self._lock = threading.Lock()
        self._closed = False

    def take(self, size: int) -> Line:
        """The connection for a request of so many bytes."""
        with self._lock:
            if self._closed:
                raise Fault(Kind.CONNECTION, "the connection was closed")
            line = min(self._open, key=lambda line: line.under_way, default=None)
            if line is None or (line.under_way > _CROWDED and len(self._open) < self._most):
                line = Line(self._connect(_alone(self._first) if self._open else self._first))
                self._open.append(line)
            line.under_way += size
            return line

    def give(self, line: Line, size: int) -> None:
        """The request has ended."""
        with self._lock:
            line.under_way -= size

    def forget(self, line: Line) -> None:
        """Never use a lost connection again, nor one that shares its back-off, which may outlast the server's absence.

        Channels with equal arguments share both, and a failed request's exception keeps its channel for a while.
        """
        with self._lock:
            self._first = _alone(self._first)
            if line in self._open:
                self._open.remove(line)

    def close(self) -> list[Line]:
        """Open and give no more; returns what there is to close."""
        with self._lock:
            self._closed = True
            return self._open


def _settings(call: Call, timeout: float) -> dict[str, Any]:
    return {
        "timeout": timeout,
        "metadata": tuple((name.lower(), value) for name, value in call.headers.items()),
        "compression": _COMPRESSION[call.compression],
    }


def _message(call: Call) -> bytes:
    """The request as it is sent: protobuf's encoding of all but the tensors, then each tensor as one more field."""
    request = service_pb2.ModelInferRequest(model_name=call.model, model_version=call.version, id=call.request_id)
    for key, value in call.parameters.items():
        kind = next((kind for types, kind in _PARAMETERS if isinstance(value, types)), None)
        if kind is None:
            raise ConfigurationError(f"parameter '{key}': expected a bool, int, float or str, got {value!r}")
        setattr(request.parameters[key], kind, value)
    if call.priority:
        request.parameters["priority"].uint64_param = call.priority
    parts: list[Any] = [b""]
    for name, array in call.inputs.items():
        tensor = request.inputs.add(name=name, datatype=NAMES[array.dtype], shape=array.shape)
        region = call.regions.get(name)
        if region is None:
            parts += (_RAW_FIELD, _varint(array.nbytes), np.ascontiguousarray(array))
        else:
            tensor.parameters["shared_memory_region"].string_param = region.name
            tensor.parameters["shared_memory_byte_size"].int64_param = region.byte_size
    parts[0] = request.SerializeToString()
    return b"".join(parts)


_PARAMETERS: tuple[tuple[type, str], ...] = (
    (bool, "bool_param"),
    (int, "int64_param"),
    (float, "double_param"),
    (str, "string_param"),
)


def _varint(number: int) -> bytes:
    """Protobuf's base 128 (protobuf.dev/programming-guides/encoding)."""
    digits = bytearray()
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    digits.append(number)
    return bytes(digits)


_LENGTH_DELIMITED = 2
_RAW_FIELD = _varint(service_pb2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | _LENGTH_DELIMITED)


def _reply(response: Any) -> RawReply:
    result = InferResult(response)
    try:
        outputs = {output.name: result.as_numpy(output.name) for output in response.outputs}
    except (ValueError, TypeError) as error:
        raise Fault(Kind.REPLY, f"the answer cannot be decoded: {error}") from error
    parameters = {
        key: getattr(value, value.WhichOneof("parameter_choice") or "string_param")
        for key, value in response.parameters.items()
    }
    return RawReply(outputs, response.model_version, parameters)


async def _judged(awaitable: Awaitable[T], proxy: Proxy | None) -> T:
    """The awaited value; tritonclient's and gRPC's exceptions become `Fault`."""
    try:
        return await awaitable
    except InferenceServerException as error:
        raise name_proxy(from_status(error.status(), str(error.message() or "")), proxy) from error
    except grpc.RpcError as error:
        raise name_proxy(from_status(str(error.code()), str(error.details() or "")), proxy) from error
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        raise Fault(Kind.CONNECTION, "the connection was closed") from error
    except grpc.aio.UsageError as error:
        raise Fault(Kind.CONNECTION, f"the connection was closed ({error})") from error
    except asyncio.InvalidStateError as error:
        raise Fault(Kind.CONNECTION, f"the connection broke ({error})") from error
