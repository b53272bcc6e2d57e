"""The asynchronous core: one request with retries, hedging, several servers and a fallback, under one deadline."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sonic_client.core.fallback import LocalTransport, OwnServer
from sonic_client.core.faults import RETRIED, Fault, Kind
from sonic_client.core.in_flight import Places
from sonic_client.core.masked import refuse_mask
from sonic_client.core.server_pool import HOPELESS, Pool, Server, State
from sonic_client.core.shared_memory import Arena, Lease
from sonic_client.core.timing import Breakdown, CallTiming, ServerTimes, Totals
from sonic_client.core.tracing import Identity, child_span
from sonic_client.core.transports.base import Call, ModelInfo, RawReply, Tensor, Transport
from sonic_client.core.url import ServerUrl, with_own_key
from sonic_client.errors import (
    AuthenticationError,
    BadReplyError,
    ConfigurationError,
    DeadlineError,
    JetError,
    ModelNotFoundError,
    RequestError,
    ServerUnavailableError,
)
from sonic_client.options import LocalModel, Options, read_token

_CONTROL_TIMEOUT = 10.0
"""Seconds for one control call (ready, metadata, statistics, registration)."""
_BOOKS_TIMEOUT = 1.0
"""Seconds that a server gets to count a request which it has answered."""


@dataclass(frozen=True)
class Reply:
    """An answered request.

    Attributes:
        outputs: Tensors by name, batch first.
        request_id: The id it carried.
        server: Who answered: a server's URL, or `local:...` for the in-process fallback.
        model_version: The version that answered.
        attempts: How often it was sent.
        timing: Where the time went, as far as the client sees it.
        parameters: Response parameters, if the server sends any.
    """

    outputs: dict[str, Tensor]
    request_id: str
    server: str
    model_version: str
    attempts: int
    timing: CallTiming
    parameters: dict[str, Any]


@dataclass
class Progress:
    """One request, and how far it has come."""

    call: Call
    info: ModelInfo
    limit: float
    began: float = field(default_factory=time.monotonic)
    attempts: int = 0
    failed: list[Server] = field(default_factory=list)
    last: Fault | None = None
    inline: bool = False

    @property
    def end(self) -> float:
        """When its deadline is up."""
        return self.began + self.limit


@dataclass(frozen=True)
class Unanswered:
    """What is left of a request that its caller's thread could not get answered at once."""

    progress: Progress
    server: Server
    fault: Fault


def make_transport(url: ServerUrl, options: Options) -> Transport:
    """Open a connection (lazily) to a server."""
    if url.protocol == "http":
        from sonic_client.core.transports.http import HttpTransport

        return HttpTransport(url, options.tls, options.max_in_flight)
    from sonic_client.core.transports.grpc import GrpcTransport

    return GrpcTransport(url, options.tls, options.connections)


class Session:
    """One model on several servers. Lives in one event loop; `AsyncClient` and `Client` wrap it.

    `infer_here` may be called from any other thread.
    """

    def __init__(self, servers: tuple[ServerUrl, ...], model: str, version: str, options: Options) -> None:
        self.model = model
        self.version = version
        self.options = options
        self.totals = Totals()
        self._identity = Identity()
        self._check_token(servers)
        self._pool = Pool(
            [Server(make_transport(url, options), self._arena(url)) for url in servers],
            self._probe,
            eject_after=options.eject_after,
            eject_for=options.eject_for,
        )
        self._loop = asyncio.get_running_loop()
        self._places = Places(options.max_in_flight)
        self._counting = threading.Lock()
        self._starting: asyncio.Task[None] | None = None
        self._info: ModelInfo | None = None
        self._before: dict[str, ServerTimes] = {}
        self._local: Server | None = None
        self._own: OwnServer | None = None
        self._fallback_lock = asyncio.Lock()

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
        call, limit = self._prepare(inputs, info, **request)
        async with self._places:
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
        server = self._pool.pick()
        if server is None or server.state is not State.READY or server.blocking is None:
            return None
        call, limit = self._prepare(inputs, info, **request)
        progress = Progress(call, info, limit)
        if not self._places.take_now():
            return None
        keep_place = False
        try:
            result = self._once_here(server, progress)
            keep_place = isinstance(result, Unanswered)
            return result
        finally:
            if not keep_place:
                self._places.give()

    async def resume(self, unanswered: Unanswered) -> Reply:
        """Go on with what `infer_here` began; its place among those in flight is still taken."""
        try:
            return await self._persist(unanswered.progress, unanswered)
        finally:
            self._places.give()

    async def explain(self, inputs: Mapping[str, Tensor]) -> tuple[Reply, Breakdown]:
        """Send one request between two looks at the server's statistics, to see where its time goes."""
        await self.info()
        server = await self._any_server()
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
            await asyncio.shield(self._starting)
        if self._info is None:  # pragma: no cover - _start either sets it or raises
            raise ServerUnavailableError("no server described the model", model=self.model)
        return self._info

    async def config(self) -> dict[str, Any]:
        """The model's configuration, as a server tells it."""
        return await self._control(
            lambda transport: transport.model_config(self.model, self.version, self._headers(), _CONTROL_TIMEOUT)
        )

    async def index(self) -> dict[str, list[dict[str, str]]]:
        """Who serves what: the repository index of every server that answers."""
        found: dict[str, list[dict[str, str]]] = {}
        for server in self._pool.servers:
            try:
                headers = with_own_key(server.transport.url, self._headers())
                found[server.name] = await server.transport.index(headers, _CONTROL_TIMEOUT)
            except Fault:
                found[server.name] = []
        return found

    async def server_statistics(self) -> dict[str, dict[str, float]]:
        """The servers' mean times (ms) of this model since this client began, and how many requests that were."""
        result = {}
        for server in self._pool.servers:
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
            for server in self._pool.servers + ([self._local] if self._local else [])
        }

    async def close(self) -> None:
        """Close all connections; stop a server of our own."""
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
        await self._pool.close()
        for server in self._pool.servers:
            if server.arena is not None:
                await server.arena.close(server.transport, self._headers_or_none())
            await server.transport.close()
        if self._local is not None:
            await self._local.transport.close()
        if self._own is not None:
            await asyncio.to_thread(self._own.stop)

    # ---- starting

    async def _start(self) -> None:
        """Find a server that has the model ready, waiting for one that is still warming up."""
        patience = self.options.warm_up if self.options.fallback is None else self.options.fallback_after
        await self._pool.look()
        server = await self._pool.choose(patience)
        if server is None:
            server = await self._fallback()
        if server is None:
            states = {server.state for server in self._pool.servers}
            kind: type[RequestError] = ServerUnavailableError
            if states == {State.ABSENT}:
                kind = ModelNotFoundError
            elif State.DENIED in states and states <= set(HOPELESS):
                kind = AuthenticationError
            raise kind(f"no server is ready: {self._pool.reasons()}", model=self.model)
        try:
            info = await server.transport.model_info(self.model, self.version, self._headers(), _CONTROL_TIMEOUT)
        except Fault as fault:
            raise fault.error(request_id="", model=self.model, server=server.name, attempts=1) from fault
        if not info.inputs or not info.outputs:
            raise BadReplyError("the metadata name no inputs or no outputs", model=self.model, server=server.name)
        self._info = info
        for one in self._pool.servers:
            if one.usable():
                try:
                    self._before[one.name] = await self._server_times(one)
                except Fault:  # statistics are a service, not a condition
                    continue

    async def _probe(self, server: Server) -> State:
        """Ask one server whether it has the model ready."""
        transport = server.transport
        asked = (self.model, self.version)
        try:
            if await transport.model_ready(*asked, self._headers(), _CONTROL_TIMEOUT):
                server.reason = ""
                return State.READY
        except Fault as fault:
            server.reason = fault.reason
            return State.DENIED if fault.kind is Kind.AUTHENTICATION else State.OUT
        try:
            rows = await transport.index(with_own_key(transport.url, self._headers()), _CONTROL_TIMEOUT)
        except Fault:  # the index is often closed to the public; then the metadata must tell
            state, server.reason = await self._without_index(transport)
            return state
        rows = [row for row in rows if row["name"] == self.model and self.version in ("", row["version"])]
        if any(row["state"] == "READY" for row in rows):  # over HTTP, a refusal looks like "not ready"
            state, server.reason = await self._without_index(transport)
            return state
        state, server.reason = _state_of(rows)
        if state is State.ABSENT:
            version = f" version {self.version}" if self.version else ""
            server.reason = f"it does not serve model '{self.model}'{version}"
        return state

    async def _without_index(self, transport: Transport) -> tuple[State, str]:
        """Whether a server without an index knows the model, and what it says."""
        try:
            await transport.model_info(self.model, self.version, self._headers(), _CONTROL_TIMEOUT)
        except Fault as fault:
            states = {Kind.NOT_FOUND: State.ABSENT, Kind.AUTHENTICATION: State.DENIED}
            return states.get(fault.kind, State.OUT), fault.reason
        return State.OUT, f"model '{self.model}' is not ready"

    # ---- one request, persistently

    async def _persist(self, progress: Progress, begun: Unanswered | None = None) -> Reply:
        """Send until answered, refused for good, or out of time."""
        try:
            if begun is not None:
                self._note(begun.server, begun.fault)
                await self._pause(progress, begun.fault, begun.server)
            while True:
                server = await self._server_for(progress.end, progress.failed)
                if server is None:
                    raise self._out_of_time(progress)
                sent = self._sending(progress)
                try:
                    raw, server = await self._send(server, progress)
                except Fault as fault:
                    await self._pause(progress, fault, server)
                    continue
                return self._answered(progress, raw, server, sent)
        except RequestError:
            self.totals.failures += 1
            raise

    def _sending(self, progress: Progress) -> float:
        """Count an attempt; returns the time."""
        progress.attempts += 1
        with self._counting:
            self.totals.attempts += 1
        return time.monotonic()

    def _answered(self, progress: Progress, raw: RawReply, server: Server, sent: float) -> Reply:
        now = time.monotonic()
        timing = CallTiming((sent - progress.began) * 1e3, (now - sent) * 1e3, (now - progress.began) * 1e3)
        with self._counting:
            self.totals.add(timing, _batch(progress.call.inputs))
        request_id, attempts = progress.call.request_id, progress.attempts
        return Reply(raw.outputs, request_id, server.name, raw.model_version, attempts, timing, raw.parameters)

    async def _pause(self, progress: Progress, fault: Fault, server: Server) -> None:
        """After a failed attempt: raise when another cannot help, else wait as long as is due."""
        progress.last = fault
        progress.inline = progress.inline or fault.kind is Kind.SHARED_MEMORY
        progress.failed.append(server)
        self._give_up_or_not(progress, fault, server)
        if not self._elsewhere(progress.failed):
            pause = random.uniform(0.0, self.options.retry.ceiling(progress.attempts))  # noqa: S311 - jitter
            await asyncio.sleep(min(pause, max(0.0, progress.end - time.monotonic())))

    def _give_up_or_not(self, progress: Progress, fault: Fault, server: Server) -> None:
        """Raise when another attempt cannot help."""
        hopeless = fault.kind not in RETRIED or progress.attempts >= self.options.retry.attempts
        if fault.kind is Kind.NOT_FOUND:
            # Another server may have it.
            hopeless = all(one.state is State.ABSENT for one in self._pool.servers)
        if fault.kind is Kind.REPLY:
            hopeless = progress.failed.count(server) > 1
        if hopeless or time.monotonic() >= progress.end:
            call = progress.call
            raise fault.error(
                request_id=call.request_id, model=call.model, server=server.name, attempts=progress.attempts
            ) from fault

    def _elsewhere(self, failed: list[Server]) -> bool:
        """Whether a server is free that has not failed this request: then there is nothing to wait for."""
        return any(server.usable() and server not in failed for server in self._pool.servers)

    def _out_of_time(self, progress: Progress) -> RequestError:
        call, last, attempts = progress.call, progress.last, progress.attempts
        reason = f"no answer within the deadline of {progress.limit:g} s"
        if last is None:
            return ServerUnavailableError(
                f"{reason}: {self._pool.reasons()}", request_id=call.request_id, model=call.model, attempts=attempts
            )
        error = last.error(request_id=call.request_id, model=call.model, server="", attempts=attempts)
        kind = DeadlineError if last.kind is Kind.SLOW else type(error)
        return kind(f"{reason}; last: {last.reason}", request_id=call.request_id, model=call.model, attempts=attempts)

    async def _server_for(self, end: float, failed: list[Server]) -> Server | None:
        """A server to send to, waiting for one; the fallback when none came back for too long."""
        remaining = end - time.monotonic()
        if self.options.fallback is None:
            return await self._pool.choose(max(0.0, remaining), failed)
        since = self._pool.unavailable_since
        patience = self.options.fallback_after
        if since is not None:
            patience = max(0.0, since + patience - time.monotonic())
        server = await self._pool.choose(min(max(0.0, remaining), patience), failed)
        return server if server is not None else await self._fallback()

    async def _send(self, server: Server, progress: Progress) -> tuple[RawReply, Server]:
        """One attempt, hedged if so wished."""
        after = self.options.hedge_after
        if after is None:
            return await self._once(server, progress, progress.inline), server
        first = asyncio.create_task(self._once(server, progress, progress.inline))
        try:
            done, _ = await asyncio.wait({first}, timeout=after)
            other = None if done else self._pool.pick(avoid=[server])
            if other is None:
                return await _owned(first), server
            self.totals.hedges += 1
            second = asyncio.create_task(self._once(other, progress, inline=True))
            return await _first_answer({first: server, second: other})
        finally:
            first.cancel()

    async def _once(self, server: Server, progress: Progress, inline: bool) -> RawReply:
        """Send once to one server and tell the pool how it went."""
        call = progress.call
        self._pool.started(server)
        lease: Lease | None = None
        arena = None if inline else server.arena
        began = time.monotonic()
        try:
            if arena is not None and arena.next_is_shared(call.byte_size):
                lease = await arena.lease(server.transport, call.inputs, call.headers, _CONTROL_TIMEOUT)
            sending = call if lease is None else _with_regions(call, lease)
            raw = await server.transport.infer(sending, self._timeout(progress))
            _check_reply(raw, progress.info, _batch(call.inputs))
        except Fault as fault:
            self._settle(lease, answered=fault.kind is Kind.CALLER)
            self._note(server, fault)
            raise
        except BaseException:  # cancelled
            self._settle(lease, answered=False)
            self._pool.abandoned(server)
            raise
        self._delivered(arena, call, sending, lease, time.monotonic() - began)
        self._pool.finished(server, None)
        return raw

    def _once_here(self, server: Server, progress: Progress) -> Reply | Unanswered | None:
        """As `_once`, in the caller's thread; None if the server must first be told of more shared memory.

        What a failure means for the pool is judged in the loop, by `resume`.
        """
        call, transport, arena = progress.call, server.blocking, server.arena
        lease: Lease | None = None
        if transport is None:
            return None
        began = time.monotonic()
        if arena is not None and arena.next_is_shared(call.byte_size):
            lease = arena.lease_known(call.inputs)
            if lease is None:
                return None
        sending = call if lease is None else _with_regions(call, lease)
        self._pool.started(server)
        sent = self._sending(progress)
        try:
            raw = transport.infer_here(sending, self._timeout(progress))
            _check_reply(raw, progress.info, _batch(call.inputs))
        except Fault as fault:
            self._settle(lease, answered=fault.kind is Kind.CALLER)
            return Unanswered(progress, server, fault)
        except BaseException:  # interrupted
            self._settle(lease, answered=False)
            self._loop.call_soon_threadsafe(self._pool.abandoned, server)
            raise
        self._delivered(arena, call, sending, lease, time.monotonic() - began)
        if server.state is State.READY:
            self._pool.answered(server)
        else:  # somebody may be waiting for it
            self._loop.call_soon_threadsafe(self._pool.finished, server, None)
        return self._answered(progress, raw, server, sent)

    def _timeout(self, progress: Progress) -> float:
        """Seconds for one sending."""
        left = max(0.001, progress.end - time.monotonic())
        return left if self.options.attempt_timeout is None else min(left, self.options.attempt_timeout)

    def _note(self, server: Server, fault: Fault) -> None:
        """Tell the pool of a failure; forget shared memory that the server has forgotten."""
        if fault.kind is Kind.SHARED_MEMORY and server.arena is not None:
            server.arena.reset()
        self._pool.finished(server, fault)

    def _delivered(self, arena: Arena | None, call: Call, sending: Call, lease: Lease | None, seconds: float) -> None:
        """Count what was answered, and learn from it which way is faster."""
        self._settle(lease, answered=True)
        if arena is not None:
            arena.timed(lease is not None, seconds, call.byte_size)
        with self._counting:
            self.totals.bytes_sent += sending.byte_size

    @staticmethod
    def _settle(lease: Lease | None, *, answered: bool) -> None:
        if lease is None:
            return
        if answered:
            lease.answered()
        else:
            lease.lost()

    # ---- fallback

    async def _fallback(self) -> Server | None:
        """The local fallback, started when first needed; None when the options have none."""
        wanted = self.options.fallback
        if wanted is None:
            return None
        async with self._fallback_lock:
            self.totals.fallbacks += 1
            if isinstance(wanted, LocalModel):
                if self._local is None:
                    transport = await asyncio.to_thread(LocalTransport, wanted, self.model)
                    self._local = Server(transport)
                    self._local.state = State.READY
                return self._local
            if self._own is None:
                self._own = OwnServer(wanted)
                url = await asyncio.to_thread(self._own.start)
                server = Server(make_transport(url, self.options), self._arena(url))
                self._pool.add(server)
                await self._pool.look()
            return await self._pool.choose(self.options.warm_up)

    # ---- helpers

    def _prepare(
        self,
        inputs: Mapping[str, Tensor],
        info: ModelInfo,
        *,
        request_id: str | None = None,
        traceparent: str | None = None,
        deadline: float | None = None,
        parameters: Mapping[str, str | int | bool | float] | None = None,
    ) -> tuple[Call, float]:
        """The request, checked against the model's metadata, and the seconds that it may take."""
        call = Call(
            self.model,
            self.version,
            self._checked(inputs, info),
            request_id or self._identity.next_request(),
            self._headers(child_span(traceparent)),
            parameters or {},
            self.options.compression,
            self.options.priority,
        )
        return call, self.options.deadline if deadline is None else deadline

    def _checked(self, inputs: Mapping[str, Tensor], info: ModelInfo) -> dict[str, Tensor]:
        expected = {tensor.name: tensor for tensor in info.inputs}
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

    def _headers(self, traceparent: str | None = None) -> dict[str, str]:
        headers = {} if traceparent is None else {"traceparent": traceparent}
        if self.options.token is not None:
            headers["authorization"] = f"Bearer {read_token(self.options.token)}"
        return headers

    def _headers_or_none(self) -> dict[str, str]:
        try:
            return self._headers()
        except ConfigurationError:
            return {}

    def _check_token(self, servers: tuple[ServerUrl, ...]) -> None:
        if self.options.token is None or self.options.allow_plaintext_token:
            return
        for url in servers:
            if not url.tls and not url.is_loopback:
                raise ConfigurationError(
                    f"a bearer token would travel unencrypted to {url}; use grpcs or https, or allow_plaintext_token"
                )

    def _arena(self, url: ServerUrl) -> Arena | None:
        if self.options.shared_memory is False or (self.options.shared_memory is None and not url.is_loopback):
            return None
        return Arena(self.options.shared_memory)

    async def _any_server(self) -> Server:
        server = await self._pool.choose(self.options.deadline)
        if server is None:
            raise ServerUnavailableError(f"no server is ready: {self._pool.reasons()}", model=self.model)
        return server

    async def _control(self, ask: Callable[[Transport], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        await self.info()
        server = await self._any_server()
        try:
            return await ask(server.transport)
        except Fault as fault:
            raise fault.error(request_id="", model=self.model, server=server.name, attempts=1) from fault

    async def _server_times(self, server: Server) -> ServerTimes:
        said = await server.transport.statistics(self.model, self.version, self._headers(), _CONTROL_TIMEOUT)
        return ServerTimes.read(said)


def _state_of(rows: list[dict[str, str]]) -> tuple[State, str]:
    """What a model's rows in the repository index mean, when it is not ready."""
    if not rows:
        return State.ABSENT, ""
    for row in rows:
        if row["state"] == "UNAVAILABLE" and row["reason"] not in ("", "unloaded"):
            return State.BROKEN, f"version {row['version']} failed to load: {row['reason']}"
    return State.OUT, f"it is {rows[0]['state'].lower() or 'not loaded'}"


def _batch(inputs: Mapping[str, Tensor]) -> int:
    return int(next(iter(inputs.values())).shape[0])


def _with_regions(call: Call, lease: Lease) -> Call:
    return dataclasses.replace(call, regions=lease.regions)


def _check_reply(raw: RawReply, info: ModelInfo, batch: int) -> None:
    """The answer must be what the metadata promise, one row for each row sent."""
    for tensor in info.outputs:
        array = raw.outputs.get(tensor.name)
        if array is None:
            raise Fault(
                Kind.REPLY, f"the answer lacks output '{tensor.name}'; it has {', '.join(raw.outputs) or 'none'}"
            )
        if not tensor.fits(array) or array.shape[0] != batch:
            raise Fault(
                Kind.REPLY,
                f"output '{tensor.name}': expected {tensor} with {batch} rows, got {array.dtype}{list(array.shape)}",
            )


async def _owned(task: asyncio.Task[RawReply]) -> RawReply:
    """Await a task; being cancelled cancels it and waits until it has ended."""
    try:
        return await task
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise


async def _first_answer(racers: dict[asyncio.Task[RawReply], Server]) -> tuple[RawReply, Server]:
    """The first answer of several copies of one request; the losers are cancelled. The last fault if all failed."""
    pending = set(racers)
    try:
        while True:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task.exception() is None:
                    return task.result(), racers[task]
            if not pending:
                return next(iter(done)).result(), racers[next(iter(done))]
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
