"""The asynchronous face of one model on several servers: requests, and what the servers say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

import numpy as np

from sonic_client.core.attempts import Attempts, Progress, Unanswered
from sonic_client.core.credentials import Credentials
from sonic_client.core.faults import Fault, is_cancelled
from sonic_client.core.in_flight import InFlight
from sonic_client.core.masked import refuse_mask
from sonic_client.core.reply import Reply
from sonic_client.core.request_checks import Parameter, check_text, plain_parameters
from sonic_client.core.server_pool import CLOSED, Server, State
from sonic_client.core.servers import CONTROL_TIMEOUT, Servers
from sonic_client.core.timing import Breakdown, Counters, ServerTimes, Totals
from sonic_client.core.tracing import Identity, child_span
from sonic_client.core.transports.base import Call, ModelInfo, Tensor, Transport
from sonic_client.core.url import ServerUrl
from sonic_client.errors import (
    BadReplyError,
    ConfigurationError,
    InvalidRequestError,
    JetError,
    ServerUnavailableError,
)
from sonic_client.options import Options, check_seconds

_BOOKS_TIMEOUT = 1.0
"""Seconds that a server gets to count a request which it has answered."""


class Session:
    """One model on several servers. Lives in one event loop; `AsyncClient` and `Client` wrap it.

    `infer_here` may be called from any other thread.
    """

    def __init__(self, servers: tuple[ServerUrl, ...], model: str, version: str, options: Options) -> None:
        self.model = model
        self.version = version
        self.options = options
        self.loop = asyncio.get_running_loop()
        self._counters = Counters()
        self._identity = Identity()
        self._credentials = Credentials(options, servers)
        self._servers = Servers(servers, model, version, options, self._credentials, self._counters)
        self._attempts = Attempts(self._servers, options, self._counters)
        self._in_flight = InFlight(options.max_in_flight)
        self._starting: asyncio.Task[None] | None = None
        self._info: ModelInfo | None = None
        self._before: dict[str, ServerTimes] = {}
        self._end_of_loop: AsyncGenerator[None] | None = None

    # ---- requests

    async def infer(self, inputs: Mapping[str, Tensor], **request: Any) -> Reply:
        """Send one request and wait for its answer. Keywords: those of `_prepare`.

        The deadline (default: the options') runs from the moment the request has its place among those in flight and
        the client has met a ready server; it covers every retry.

        Raises:
            RequestError: A subclass says why; it names the request. Nothing is ever answered by an empty result.
            JetError: The inputs are not what the model's metadata say.
        """
        info = await self.info()
        try:
            call, limit = self._prepare(inputs, info, **request)
        except JetError:
            if not await self._describes_anew(info):
                raise
            info = await self.info()
            call, limit = self._prepare(inputs, info, **request)
        async with self._in_flight:
            return await self._persist(Progress(call, info, limit))

    def infer_here(self, inputs: Mapping[str, Tensor], **request: Any) -> Reply | Unanswered | None:
        """The usual case of `infer`, in the caller's thread: the server is known to be ready, and answers.

        An event loop between the caller and the connection costs more than sending. Returns None, with nothing done,
        when there is something to wait for (a server, a place, shared memory) or to watch (hedging): that takes
        `infer`. Returns `Unanswered` when the server failed: `resume` goes on with that, under the same deadline.
        """
        info = self._info
        if info is None or self.options.hedge_after is not None:
            return None
        server = self._servers.pool.pick()
        if server is None or server.state is not State.READY or server.blocking is None:
            return None
        try:
            call, limit = self._prepare(inputs, info, **request)
        except JetError:
            return None  # unless the model was replaced by one that takes them
        progress = Progress(call, info, limit)
        if not self._in_flight.acquire_now():
            return None
        keep_place = False
        try:
            result = self._attempts.once_here(server, progress)
            keep_place = isinstance(result, Unanswered)
            return result
        finally:
            if not keep_place:
                self._in_flight.release()

    async def resume(self, unanswered: Unanswered) -> Reply:
        """Go on with what `infer_here` began; its place among those in flight is still taken."""
        try:
            return await self._persist(unanswered.progress, unanswered)
        finally:
            self._in_flight.release()

    async def _persist(self, progress: Progress, begun: Unanswered | None = None) -> Reply:
        """As `Attempts.persist`; an error that comes of another model under the same name says so."""
        try:
            return await self._attempts.persist(progress, begun)
        except (BadReplyError, InvalidRequestError) as error:
            if await self._describes_anew(progress.info):
                raise error.with_reason(
                    f"{error.reason}; the model was replaced, and now {await self.info()}"
                ) from error
            raise

    async def _describes_anew(self, known: ModelInfo) -> bool:
        """Ask again what the model is: whether its inputs or outputs are others than those known."""
        if self._info is known:
            server = self._servers.pool.pick() or self._servers.pool.servers[0]
            try:
                headers = self._credentials.headers()
                said = await server.transport.model_info(self.model, self.version, headers, CONTROL_TIMEOUT)
            except (Fault, ConfigurationError):
                return False
            if said.inputs and said.outputs:
                self._info = said
        now = await self.info()
        return (now.inputs, now.outputs) != (known.inputs, known.outputs)

    async def explain(self, inputs: Mapping[str, Tensor]) -> tuple[Reply, Breakdown]:
        """Send one request between two looks at the server's statistics, to see where its time goes."""
        await self.info()
        server = await self._servers.any()
        began = time.perf_counter()
        arrays = self._checked(inputs, await self.info())
        prepared = time.perf_counter()
        before = await self._server_times(server)
        reply = await self.infer(arrays)
        delta = await self._server_times(server) - before
        patience = time.monotonic() + _BOOKS_TIMEOUT
        while not delta.requests and time.monotonic() < patience:  # the server answers first and books it afterwards
            await asyncio.sleep(0.002)
            delta = await self._server_times(server) - before
        means = delta.mean_ms()
        client = (prepared - began) * 1e3
        return reply, Breakdown(
            client_ms=client + reply.timing.waiting_ms,
            network_ms=max(0.0, reply.timing.answer_ms - means["server_ms"]),
            queue_ms=means["queue_ms"],
            compute_input_ms=means["compute_input_ms"],
            compute_infer_ms=means["compute_infer_ms"],
            compute_output_ms=means["compute_output_ms"],
            total_ms=client + reply.timing.total_ms,
            exclusive=delta.requests == 1,
        )

    # ---- what the servers say

    async def info(self) -> ModelInfo:
        """Inputs and outputs of the model; waits for a server that is still starting."""
        if self._info is None:
            if self._starting is None or self._starting.done():
                self._starting = asyncio.create_task(self._start())
            try:
                await asyncio.shield(self._starting)
            except asyncio.CancelledError:
                if self._servers.pool.closed.is_set() and not is_cancelled():
                    raise ServerUnavailableError(CLOSED, model=self.model) from None
                raise
        if self._info is None:  # pragma: no cover - _start either sets it or raises
            raise ServerUnavailableError("no server described the model", model=self.model)
        return self._info

    async def config(self) -> dict[str, Any]:
        """The model's configuration, as a server tells it."""
        return await self._control(
            lambda transport: transport.model_config(
                self.model, self.version, self._credentials.headers(), CONTROL_TIMEOUT
            )
        )

    async def index(self) -> dict[str, list[dict[str, str]]]:
        """Who serves what: the repository index of every server that answers."""
        await self._follow_loop()
        found: dict[str, list[dict[str, str]]] = {}
        for server in self._servers.pool.servers:
            try:
                headers = self._credentials.owner_headers(server.transport.url)
                found[server.name] = await server.transport.index(headers, CONTROL_TIMEOUT)
            except Fault:
                found[server.name] = []
        return found

    async def server_statistics(self) -> dict[str, dict[str, float]]:
        """The servers' mean times (ms) of this model since this client began, and how many requests that were."""
        result = {}
        for server in self._servers.pool.servers:
            if server.name in self._before:
                delta = await self._server_times(server) - self._before[server.name]
                result[server.name] = delta.mean_ms() | {"requests": float(delta.requests)}
        return result

    def servers(self) -> dict[str, dict[str, Any]]:
        """What is believed of every server."""
        return {
            server.name: {
                "state": server.state.value,
                "reason": server.reason,
                "outstanding": server.outstanding,
                "answered": server.answered,
                "shared_memory": bool(server.arena and server.arena.decision),
            }
            for server in self._servers.all
        }

    def statistics(self) -> Totals:
        """Sums over the calls so far; a copy."""
        return self._counters.snapshot()

    async def close(self) -> None:
        """Close all connections; stop a server of our own."""
        if self._end_of_loop is not None:
            await self._end_of_loop.aclose()
        else:
            await self._close()

    def abandon(self) -> None:
        """Give back what can be given back without the event loop, which is gone."""
        self._servers.abandon()

    async def _close(self) -> None:
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
        await self._servers.close()

    async def _close_with_loop(self) -> AsyncGenerator[None]:
        """What `asyncio.run` closes at its end, as all asynchronous generators that have begun: and so the session."""
        try:
            yield
        finally:
            await self._close()

    # ---- starting

    async def _follow_loop(self) -> None:
        if self._end_of_loop is None:
            self._end_of_loop = self._close_with_loop()
            await anext(self._end_of_loop)

    async def _start(self) -> None:
        """Find a server that has the model ready, and ask it what the model is."""
        await self._follow_loop()
        server = await self._servers.first()
        try:
            headers = self._credentials.headers()
            info = await server.transport.model_info(self.model, self.version, headers, CONTROL_TIMEOUT)
        except Fault as fault:
            raise fault.error(request_id="", model=self.model, server=server.name, attempts=1) from fault
        if not info.inputs or not info.outputs:
            raise BadReplyError("the metadata name no inputs or no outputs", model=self.model, server=server.name)
        self._info = info
        for one in self._servers.pool.servers:
            if one.usable():
                try:
                    self._before[one.name] = await self._server_times(one)
                except Fault:  # statistics are a service, not a condition
                    continue

    # ---- helpers

    def _prepare(
        self,
        inputs: Mapping[str, Tensor],
        info: ModelInfo,
        *,
        request_id: str | None = None,
        traceparent: str | None = None,
        deadline: float | None = None,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> tuple[Call, float]:
        """The request, checked against the model's metadata, and the seconds that it may take."""
        call = Call(
            self.model,
            self.version,
            self._checked(inputs, info),
            check_text("request_id", request_id or self._identity.next_request()),
            self._credentials.headers(child_span(traceparent and check_text("traceparent", traceparent))),
            plain_parameters(parameters),
            self.options.compression,
            self.options.priority,
        )
        if deadline is None:
            return call, self.options.deadline
        check_seconds("deadline", deadline, above=True)
        return call, float(deadline)

    def _checked(self, inputs: Mapping[str, Tensor], info: ModelInfo) -> dict[str, Tensor]:
        expected = {tensor.name: tensor for tensor in info.inputs}
        if not isinstance(inputs, Mapping):
            raise JetError(f"inputs: expected a dictionary of tensors by name, got {type(inputs).__name__}")
        if set(inputs) != set(expected):
            raise JetError(
                f"model '{self.model}' takes the inputs {', '.join(f'{t.name} {t}' for t in info.inputs)}; "
                f"got {', '.join(sorted(inputs)) or 'none'}"
            )
        arrays = {name: refuse_mask(name, array) for name, array in inputs.items()}
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):
                raise JetError(f"input '{name}': expected a numpy array {expected[name]}, got {type(array).__name__}")
            if not expected[name].fits(array):
                raise JetError(
                    f"input '{name}': expected {expected[name]}, got {array.dtype}[{', '.join(map(str, array.shape))}]"
                )
            if array.size == 0:
                raise JetError(f"input '{name}': it is empty {list(array.shape)}; there is nothing to infer")
        return arrays

    async def _control(self, ask: Callable[[Transport], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        await self.info()
        server = await self._servers.any()
        try:
            return await ask(server.transport)
        except Fault as fault:
            raise fault.error(request_id="", model=self.model, server=server.name, attempts=1) from fault

    async def _server_times(self, server: Server) -> ServerTimes:
        said = await server.transport.statistics(self.model, self.version, self._credentials.headers(), CONTROL_TIMEOUT)
        return ServerTimes.read(said)
