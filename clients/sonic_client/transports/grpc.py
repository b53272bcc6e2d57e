"""gRPC, through tritonclient's asyncio client: many requests in flight over one connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

import grpc
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from sonic_client.faults import Fault, Kind, from_status
from sonic_client.options import Tls
from sonic_client.transports.base import Call, ModelInfo, RawReply, TensorInfo, triton_inputs
from sonic_client.url import ServerUrl

T = TypeVar("T")

_CHANNEL = [
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
    ("grpc.enable_retries", 0),  # retries are ours: they must know which failures are worth one
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.use_local_subchannel_pool", 1),  # a client that is thrown away takes its connection with it
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]


class GrpcTransport:
    """One HTTP/2 connection to one server."""

    def __init__(self, url: ServerUrl, tls: Tls) -> None:
        self.url = url
        credentials = None
        if url.tls:
            credentials = grpc.ssl_channel_credentials(
                *(None if file is None else file.read_bytes() for file in (tls.ca, tls.key, tls.certificate))
            )
        self._client = triton.InferenceServerClient(url.address, creds=credentials, channel_args=_CHANNEL)

    async def infer(self, call: Call, timeout: float) -> RawReply:
        """Send one request once; cancelling the awaiting task cancels it on the server."""
        inputs = triton_inputs(call, triton.InferInput)
        result = await _judged(
            self._client.infer(
                call.model,
                inputs,
                model_version=call.version,
                request_id=call.request_id,
                priority=call.priority,
                client_timeout=timeout,
                headers=dict(call.headers),
                compression_algorithm=call.compression,
                parameters=dict(call.parameters) or None,
            )
        )
        response = result.get_response()
        try:
            outputs = {output.name: result.as_numpy(output.name) for output in response.outputs}
        except (ValueError, TypeError) as error:
            raise Fault(Kind.REPLY, f"the answer cannot be decoded: {error}") from error
        parameters = {
            key: getattr(value, value.WhichOneof("parameter_choice") or "string_param")
            for key, value in response.parameters.items()
        }
        return RawReply(outputs, response.model_version, parameters)

    async def model_ready(self, model: str, version: str, headers: Mapping[str, str], timeout: float) -> bool:
        """Whether the model answers requests."""
        return bool(await _judged(self._client.is_model_ready(model, version, dict(headers), timeout)))

    async def model_info(self, model: str, version: str, headers: Mapping[str, str], timeout: float) -> ModelInfo:
        """The model's inputs and outputs."""
        said = await _judged(self._client.get_model_metadata(model, version, dict(headers), client_timeout=timeout))
        inputs, outputs = (
            tuple(TensorInfo(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in tensors)
            for tensors in (said.inputs, said.outputs)
        )
        return ModelInfo(said.name, tuple(said.versions), said.platform, inputs, outputs)

    async def model_config(
        self, model: str, version: str, headers: Mapping[str, str], timeout: float
    ) -> dict[str, Any]:
        """The model's configuration."""
        said: dict[str, Any] = await _judged(
            self._client.get_model_config(model, version, dict(headers), as_json=True, client_timeout=timeout)
        )
        return dict(said["config"])

    async def index(self, headers: Mapping[str, str], timeout: float) -> list[dict[str, str]]:
        """The repository index: rows with name, version, state, reason."""
        said = await _judged(self._client.get_model_repository_index(dict(headers), client_timeout=timeout))
        return [
            {"name": row.name, "version": row.version, "state": row.state, "reason": row.reason} for row in said.models
        ]

    async def statistics(self, model: str, version: str, headers: Mapping[str, str], timeout: float) -> dict[str, Any]:
        """The server's statistics of the model, in Triton's own form."""
        said: dict[str, Any] = await _judged(
            self._client.get_inference_statistics(model, version, dict(headers), as_json=True, client_timeout=timeout)
        )
        return said

    async def register(self, name: str, key: str, byte_size: int, headers: Mapping[str, str], timeout: float) -> None:
        """Make a shared memory region known to the server."""
        await _judged(
            self._client.register_system_shared_memory(
                name, key, byte_size, headers=dict(headers), client_timeout=timeout
            )
        )

    async def unregister(self, name: str, headers: Mapping[str, str], timeout: float) -> None:
        """Make the server forget it."""
        await _judged(self._client.unregister_system_shared_memory(name, dict(headers), timeout))

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()


async def _judged(awaitable: Awaitable[T]) -> T:
    """The awaited value; tritonclient's and gRPC's exceptions become `Fault`."""
    try:
        return await awaitable
    except InferenceServerException as error:
        raise from_status(error.status(), str(error.message() or "")) from error
    except grpc.aio.UsageError as error:
        raise Fault(Kind.CONNECTION, f"the connection was closed ({error})") from error
    except asyncio.InvalidStateError as error:
        raise Fault(Kind.CONNECTION, f"the connection broke ({error})") from error
