"""The servers of one client: which one gets a request, whether it has the model, and what answers when none does."""

from __future__ import annotations

import asyncio
import time

from sonic_client.core.credentials import Credentials
from sonic_client.core.fallback import LocalTransport, OwnServer
from sonic_client.core.faults import Fault, Kind
from sonic_client.core.server_metrics import ModelMetrics
from sonic_client.core.server_pool import HOPELESS, Pool, Server, State
from sonic_client.core.shared_memory import Arena
from sonic_client.core.timing import Counters
from sonic_client.core.transports.base import Transport
from sonic_client.core.url import ServerUrl
from sonic_client.errors import AuthenticationError, ModelNotFoundError, RequestError, ServerUnavailableError
from sonic_client.options import LocalModel, Options

CONTROL_TIMEOUT = 10.0
"""Seconds for one control call (ready, metadata, statistics, registration)."""


def make_transport(url: ServerUrl, options: Options) -> Transport:
    """Open a connection (lazily) to a server."""
    if url.protocol == "http":
        from sonic_client.core.transports.http import HttpTransport

        return HttpTransport(url, options.tls, options.max_in_flight)
    from sonic_client.core.transports.grpc import GrpcTransport

    return GrpcTransport(url, options.tls, options.connections, options.deadline)


class Servers:
    """The servers that have one model, watched by a pool. Lives in one event loop."""

    def __init__(
        self,
        urls: tuple[ServerUrl, ...],
        model: str,
        version: str,
        options: Options,
        credentials: Credentials,
        counters: Counters,
    ) -> None:
        self._model = model
        self._version = version
        self._options = options
        self._credentials = credentials
        self._counters = counters
        self.pool = Pool(
            [Server(make_transport(url, options), self._arena(url)) for url in urls],
            self._probe,
            eject_after=options.eject_after,
            eject_for=options.eject_for,
        )
        self._metrics: dict[str, ModelMetrics] = {}
        self._local: Server | None = None
        self._own: OwnServer | None = None
        self._fallback_lock = asyncio.Lock()

    @property
    def all(self) -> list[Server]:
        """Every server, and the local fallback once it is in use."""
        return self.pool.servers + ([self._local] if self._local else [])

    def metrics(self, server: Server) -> ModelMetrics:
        """Where a server tells what answers."""
        if server.name not in self._metrics:
            self._metrics[server.name] = ModelMetrics(server.transport.url, self._model, self._options.metrics_url)
        return self._metrics[server.name]

    # ---- choosing

    async def first(self) -> Server:
        """A server that has the model ready, waiting for one that is still warming up.

        Raises:
            RequestError: There is none; the subclass says whether the model, a token or the server is missing.
        """
        patience = self._options.warm_up if self._options.fallback is None else self._options.fallback_after
        await self.pool.look()
        server = await self.pool.choose(patience)
        if server is None:
            server = await self._fallback()
        if server is None:
            states = {server.state for server in self.pool.servers}
            kind: type[RequestError] = ServerUnavailableError
            if states == {State.ABSENT}:
                kind = ModelNotFoundError
            elif State.DENIED in states and states <= set(HOPELESS):
                kind = AuthenticationError
            raise kind(f"no server is ready: {self.pool.reasons()}", model=self._model)
        return server

    async def any(self) -> Server:
        """A server that is ready. Raises ServerUnavailableError."""
        server = await self.pool.choose(self._options.deadline)
        if server is None:
            raise ServerUnavailableError(f"no server is ready: {self.pool.reasons()}", model=self._model)
        return server

    async def choose(self, end: float, failed: list[Server]) -> Server | None:
        """A server to send to until `end`, rather not one that failed; the fallback when none came back in time."""
        remaining = end - time.monotonic()
        if self._options.fallback is None:
            return await self.pool.choose(max(0.0, remaining), failed)
        since = self.pool.unavailable_since
        patience = self._options.fallback_after
        if since is not None:
            patience = max(0.0, since + patience - time.monotonic())
        server = await self.pool.choose(min(max(0.0, remaining), patience), failed)
        return server if server is not None or self.pool.closed.is_set() else await self._fallback()

    def elsewhere(self, failed: list[Server]) -> bool:
        """Whether a server is free that has not failed this request: then there is nothing to wait for."""
        return any(server.usable() and server not in failed for server in self.pool.servers)

    # ---- asking

    async def _probe(self, server: Server) -> State:
        """Ask one server whether it has the model ready."""
        transport = server.transport
        try:
            ready = await transport.model_ready(
                self._model, self._version, self._credentials.headers(), CONTROL_TIMEOUT
            )
        except Fault as fault:
            if fault.kind is not Kind.NOT_FOUND:
                server.reason = fault.reason
                return State.DENIED if fault.kind is Kind.AUTHENTICATION else State.OUT
            ready = False  # so Triton answers since mid-2026 over gRPC, where it said "not ready" before
        if ready:
            server.reason = ""
            return State.READY
        try:
            rows = await transport.index(self._credentials.owner_headers(transport.url), CONTROL_TIMEOUT)
        except Fault:  # the index is often closed to the public; then the metadata must tell
            state, server.reason = await self._without_index(transport)
            return state
        rows = [row for row in rows if row["name"] == self._model and self._version in ("", row["version"])]
        if any(row["state"] == "READY" for row in rows):  # over HTTP, a refusal looks like "not ready"
            state, server.reason = await self._without_index(transport)
            return state
        state, server.reason = _state_of(rows)
        if state is State.ABSENT:
            version = f" version {self._version}" if self._version else ""
            server.reason = f"it does not serve model '{self._model}'{version}"
        return state

    async def _without_index(self, transport: Transport) -> tuple[State, str]:
        """Whether a server without an index knows the model, and what it says."""
        try:
            await transport.model_info(self._model, self._version, self._credentials.headers(), CONTROL_TIMEOUT)
        except Fault as fault:
            states = {Kind.NOT_FOUND: State.ABSENT, Kind.AUTHENTICATION: State.DENIED}
            return states.get(fault.kind, State.OUT), fault.reason
        return State.OUT, f"model '{self._model}' is not ready"

    # ---- the fallback

    async def _fallback(self) -> Server | None:
        """The local fallback, started when first needed; None when the options have none."""
        wanted = self._options.fallback
        if wanted is None:
            return None
        async with self._fallback_lock:
            self._counters.count("fallbacks")
            if isinstance(wanted, LocalModel):
                if self._local is None:
                    transport = await asyncio.to_thread(LocalTransport, wanted, self._model)
                    self._local = Server(transport)
                    self._local.state = State.READY
                return self._local
            if self._own is None:
                own = OwnServer(wanted)
                url = await asyncio.to_thread(own.start)
                self._own = own
                self.pool.add(Server(make_transport(url, self._options), self._arena(url)))
                await self.pool.look()
            return await self.pool.choose(self._options.warm_up)

    def _arena(self, url: ServerUrl) -> Arena | None:
        wanted = self._options.shared_memory
        if wanted is False or (wanted is None and not url.is_loopback):
            return None
        return Arena(wanted)

    # ---- the end

    async def close(self) -> None:
        """Close all connections; stop a server of our own."""
        await self.pool.close()
        for server in self.pool.servers:
            if server.arena is not None:
                await server.arena.close(server.transport, self._credentials.headers_or_none())
            await server.transport.close()
        if self._local is not None:
            await self._local.transport.close()
        if self._own is not None:
            await asyncio.to_thread(self._own.stop)

    def abandon(self) -> None:
        """Give back what outlives an event loop that ended without closing this: memory, threads and processes."""
        for server in self.pool.servers:
            if server.arena is not None:
                server.arena.reset()
        if self._local is not None and isinstance(self._local.transport, LocalTransport):
            self._local.transport.abandon()
        if self._own is not None:
            self._own.stop()


def _state_of(rows: list[dict[str, str]]) -> tuple[State, str]:
    """What a model's rows in the repository index mean, when it is not ready."""
    if not rows:
        return State.ABSENT, ""
    for row in rows:
        if row["state"] == "UNAVAILABLE" and row["reason"] not in ("", "unloaded"):
            return State.BROKEN, f"version {row['version']} failed to load: {row['reason']}"
    return State.OUT, f"it is {rows[0]['state'].lower() or 'not loaded'}"
