"""HTTP, through tritonclient's asyncio client: for sites whose proxies let nothing else through."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import aiohttp
import tritonclient.http.aio as triton
from tritonclient.utils import InferenceServerException

from sonic_client.core.faults import Fault, Kind, from_status
from sonic_client.core.proxy import Proxy, find_proxy, name_proxy
from sonic_client.core.transports.base import NAMES, Call, ModelInfo, RawReply, TensorInfo
from sonic_client.core.url import ServerUrl
from sonic_client.options import Tls

T = TypeVar("T")

_NEVER = 10.0 * 365 * 86400
"""tritonclient has one time-out for a whole client; ours are per request."""


class _TritonClient(triton.InferenceServerClient):  # type: ignore[misc]
    """Reads every answer to its end: tritonclient leaves some, such as a model's readiness, with their connections."""

    async def _get(self, *args: Any, **options: Any) -> aiohttp.ClientResponse:
        return await _read(await super()._get(*args, **options))

    async def _post(self, *args: Any, **options: Any) -> aiohttp.ClientResponse:
        return await _read(await super()._post(*args, **options))


async def _read(response: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
    await response.read()
    return response


class HttpTransport:
    """Up to `connections` kept-alive connections to one server. A cancelled request is not cancelled on the server."""

    def __init__(self, url: ServerUrl, tls: Tls, connections: int) -> None:
        self.url = url
        self._client = _TritonClient(
            url.address,
            conn_limit=connections,
            conn_timeout=_NEVER,
            ssl=url.tls,
            ssl_context=tls.context() if url.tls else True,
        )
        self._proxy = find_proxy(url)
        if self._proxy is not None:
            _go_through(self._client, self._proxy)

    async def _judged(self, awaitable: Awaitable[T], timeout: float) -> T:
        try:
            return await _judged(awaitable, timeout)
        except Fault as fault:
            raise name_proxy(fault, self._proxy) from fault.__cause__

    async def infer(self, call: Call, timeout: float) -> RawReply:
        """Send one request once."""
        result = await self._judged(
            self._client.infer(
                call.model,
                _inputs(call),
                model_version=call.version,
                request_id=call.request_id,
                priority=call.priority,
                headers=_text(call.headers),
                request_compression_algorithm=call.compression,
                parameters=dict(call.parameters) or None,
            ),
            timeout,
        )
        with _decoded():
            response = result.get_response()
            outputs = {output["name"]: result.as_numpy(output["name"]) for output in response["outputs"]}
            return RawReply(outputs, str(response.get("model_version", "")), dict(response.get("parameters", {})))

    async def model_ready(self, model: str, version: str, headers: Mapping[str, str], timeout: float) -> bool:
        """Whether the model answers requests."""
        return bool(await self._judged(self._client.is_model_ready(model, version, _text(headers)), timeout))

    async def model_info(self, model: str, version: str, headers: Mapping[str, str], timeout: float) -> ModelInfo:
        """The model's inputs and outputs."""
        said = await self._judged(self._client.get_model_metadata(model, version, _text(headers)), timeout)
        with _decoded():
            inputs, outputs = (
                tuple(TensorInfo(tensor["name"], tensor["datatype"], tuple(tensor["shape"])) for tensor in said[key])
                for key in ("inputs", "outputs")
            )
            return ModelInfo(said["name"], tuple(said.get("versions", ())), said.get("platform", ""), inputs, outputs)

    async def model_config(
        self, model: str, version: str, headers: Mapping[str, str], timeout: float
    ) -> dict[str, Any]:
        """The model's configuration."""
        said = await self._judged(self._client.get_model_config(model, version, _text(headers)), timeout)
        with _decoded():
            return dict(said)

    async def index(self, headers: Mapping[str, str], timeout: float) -> list[dict[str, str]]:
        """The repository index: rows with name, version, state, reason."""
        said = await self._judged(self._client.get_model_repository_index(_text(headers)), timeout)
        with _decoded():
            return [{key: str(row.get(key, "")) for key in ("name", "version", "state", "reason")} for row in said]

    async def statistics(self, model: str, version: str, headers: Mapping[str, str], timeout: float) -> dict[str, Any]:
        """The server's statistics of the model, in Triton's own form."""
        said = await self._judged(self._client.get_inference_statistics(model, version, _text(headers)), timeout)
        with _decoded():
            return dict(said)

    async def register(self, name: str, key: str, byte_size: int, headers: Mapping[str, str], timeout: float) -> None:
        """Make a shared memory region known to the server."""
        await self._judged(
            self._client.register_system_shared_memory(name, key, byte_size, headers=_text(headers)), timeout
        )

    async def unregister(self, name: str, headers: Mapping[str, str], timeout: float) -> None:
        """Make the server forget it."""
        await self._judged(self._client.unregister_system_shared_memory(name, _text(headers)), timeout)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def _go_through(client: triton.InferenceServerClient, proxy: Proxy) -> None:
    """Send a client's requests through a proxy, which tritonclient has no argument for: its session is replaced."""
    direct = client._stub
    client._stub = aiohttp.ClientSession(
        connector=direct.connector, timeout=direct.timeout, auto_decompress=False, proxy=proxy.url
    )
    direct.detach()


def _inputs(call: Call) -> list[triton.InferInput]:
    """The request's tensors, inline or in shared memory."""
    inputs = []
    for name, array in call.inputs.items():
        tensor = triton.InferInput(name, list(array.shape), NAMES[array.dtype])
        region = call.regions.get(name)
        if region is None:
            tensor.set_data_from_numpy(array)
        else:
            tensor.set_shared_memory(region.name, region.byte_size)
        inputs.append(tensor)
    return inputs


def _text(headers: Mapping[str, str]) -> dict[str, str]:
    return dict(headers)


async def _judged(awaitable: Awaitable[T], timeout: float) -> T:
    """The awaited value within `timeout` s; tritonclient's and aiohttp's exceptions become `Fault`."""
    try:
        with _decoded():
            async with asyncio.timeout(timeout):
                return await awaitable
    except TimeoutError as error:
        raise Fault(Kind.SLOW, f"no answer within {timeout:.3g} s") from error
    except InferenceServerException as error:
        raise from_status(error.status(), str(error.message() or "")) from error
    except (aiohttp.ClientError, OSError) as error:
        raise Fault(Kind.CONNECTION, f"the connection failed ({error})") from error
    except RuntimeError as error:  # aiohttp's session
        raise Fault(Kind.CONNECTION, f"the connection was closed ({error})") from error


@contextmanager
def _decoded() -> Iterator[None]:
    """What is no answer of Triton's, such as a proxy's page with status 200, becomes a `Fault`."""
    try:
        yield
    except aiohttp.ClientError:  # some are ValueErrors as well
        raise
    except (ValueError, TypeError, LookupError, AttributeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Fault(Kind.REPLY, f"the answer is not Triton's, it cannot be decoded: {error}") from error
