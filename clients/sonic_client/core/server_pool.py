"""Which of several servers gets the next request: health, least outstanding, ejection and return."""

from __future__ import annotations

import asyncio
import enum
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress

from sonic_client.core.faults import AGAINST_SERVER, Fault, Kind
from sonic_client.core.shared_memory import Arena
from sonic_client.core.transports.base import Blocking, Transport

_log = logging.getLogger(__name__)

CLOSED = "the client was closed while this was under way"
_LONGEST_EJECTION = 60.0
_PROBE_EVERY = 0.25
_PROBE_AT_MOST = 2.0


class State(enum.Enum):
    """What the pool believes of a server."""

    UNKNOWN = "unknown"
    READY = "ready"
    PROBATION = "probation"
    """Back after an ejection; gets one request at a time until one succeeds."""
    OUT = "out"
    """Ejected, down, or still loading the model; being watched."""
    ABSENT = "absent"
    """It answers and does not have the model."""
    DENIED = "denied"
    """It wants a (better) token or certificate."""
    BROKEN = "broken"
    """It tried to load the model and failed."""


HOPELESS = frozenset({State.ABSENT, State.DENIED, State.BROKEN})
"""States that waiting will hardly mend; such servers are still looked at now and then."""
_HOPELESS_EVERY = 10.0


class Server:
    """One server and what has been seen of it."""

    def __init__(self, transport: Transport, arena: Arena | None = None) -> None:
        self.transport = transport
        self.blocking = transport if isinstance(transport, Blocking) else None
        self.arena = arena
        self.state = State.UNKNOWN
        self.reason = "not asked yet"
        self.outstanding = 0
        self.failures = 0
        self.ejections = 0
        self.answered = 0

    @property
    def name(self) -> str:
        """The URL, or "local"."""
        return str(self.transport.url)

    def usable(self) -> bool:
        """Whether a request may be sent to it now."""
        return self.state is State.READY or (self.state is State.PROBATION and self.outstanding == 0)


Probe = Callable[[Server], Awaitable[State]]


class Pool:
    """The servers of one client. Lives in one event loop; `pick`, `started` and `answered` suit any thread."""

    def __init__(self, servers: Sequence[Server], probe: Probe, *, eject_after: int, eject_for: float) -> None:
        self.servers = list(servers)
        self._probe = probe
        self._eject_after = eject_after
        self._eject_for = eject_for
        self._changed = asyncio.Event()
        self.closed = asyncio.Event()
        self._counting = threading.Lock()
        self._watchers: dict[int, asyncio.Task[None]] = {}
        self.unavailable_since: float | None = time.monotonic()

    def add(self, server: Server) -> None:
        """Take in a further server."""
        self.servers.append(server)
        self._notify()

    def pick(self, avoid: Collection[Server] = ()) -> Server | None:
        """The usable server with the fewest requests under way, rather not one of `avoid`."""
        usable = [server for server in self.servers if server.usable()]
        others = [server for server in usable if server not in avoid]
        choice = others or usable
        if not choice:
            return None
        fewest = min(server.outstanding for server in choice)
        return random.choice([server for server in choice if server.outstanding == fewest])  # noqa: S311

    async def choose(self, timeout: float, avoid: Collection[Server] = ()) -> Server | None:
        """`pick`, waiting up to `timeout` s for a server to become usable; None if none did, or the pool was closed."""
        end = time.monotonic() + timeout
        while not self.closed.is_set():
            self._changed.clear()
            server = self.pick(avoid)
            if server is not None:
                return server
            remaining = end - time.monotonic()
            if remaining <= 0 or all(server.state in HOPELESS for server in self.servers):
                return None
            try:
                async with asyncio.timeout(remaining):
                    await self._changed.wait()
            except TimeoutError:
                return None
        return None

    async def pause(self, seconds: float) -> None:
        """Wait, not for longer than the pool is open."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.closed.wait()

    async def look(self) -> None:
        """Ask every server once whether it has the model ready; watch those that do not."""
        unknown = [server for server in self.servers if server.state is State.UNKNOWN]
        await asyncio.gather(*(self._update(server) for server in unknown))

    def started(self, server: Server) -> None:
        """A request is being sent to the server."""
        with self._counting:
            server.outstanding += 1

    def answered(self, server: Server) -> None:
        """A request was answered, by a server that is still ready: nobody can be waiting for one."""
        with self._counting:
            server.outstanding -= 1
            server.answered += 1
            server.failures = server.ejections = 0

    def finished(self, server: Server, fault: Fault | None) -> None:
        """A request ended. `fault` is None after an answer; a refusal of the caller's content is an answer too."""
        if fault is None or fault.kind not in AGAINST_SERVER:
            self.answered(server)
            if server.state is State.PROBATION:
                self._set(server, State.READY, "")
        else:
            with self._counting:
                server.outstanding -= 1
                server.failures += 1
            self._count_against(server, fault)
        self._notify()

    def abandoned(self, server: Server) -> None:
        """A request was cancelled by the caller; it says nothing about the server."""
        with self._counting:
            server.outstanding -= 1
        self._notify()

    def reasons(self) -> str:
        """Why no server can be used, for an error message."""
        return "; ".join(f"{server.name}: {server.state.value} ({server.reason})" for server in self.servers)

    async def close(self) -> None:
        """Stop watching, and let nobody wait any longer."""
        self.closed.set()
        self._notify()
        watchers = list(self._watchers.values())
        self._watchers.clear()
        for task in watchers:
            task.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)

    def _count_against(self, server: Server, fault: Fault) -> None:
        if server.state is State.OUT or server.state in HOPELESS:
            return
        if fault.kind is Kind.NOT_FOUND:
            self._set(server, State.ABSENT, fault.reason)
            self._watch(server, _PROBE_EVERY)
            return
        gone = fault.kind in (Kind.CONNECTION, Kind.NOT_READY) and len(self.servers) > 1
        if gone or server.state is State.PROBATION or server.failures >= self._eject_after:
            pause = min(_LONGEST_EJECTION, self._eject_for * 2.0**server.ejections)
            server.ejections += 1
            server.failures = 0
            self._set(server, State.OUT, fault.reason)
            self._watch(server, pause)

    async def _update(self, server: Server) -> None:
        state = await self._probe(server)
        self._set(server, state, server.reason)
        if state is not State.READY:
            self._watch(server, _PROBE_EVERY if state is State.OUT else _HOPELESS_EVERY)

    def _watch(self, server: Server, pause: float) -> None:
        if id(server) not in self._watchers and not self.closed.is_set():
            self._watchers[id(server)] = asyncio.create_task(self._until_back(server, pause))

    async def _until_back(self, server: Server, pause: float) -> None:
        try:
            await asyncio.sleep(pause)
            interval = _PROBE_EVERY
            while (state := await self._ask(server)) is not State.READY:
                self._set(server, state, server.reason)
                await asyncio.sleep(_HOPELESS_EVERY if state in HOPELESS else interval)
                interval = min(_PROBE_AT_MOST, interval * 1.5)
            # A server whose model process died still calls itself ready: only an answer ends the probation.
            self._set(server, State.PROBATION if server.ejections else State.READY, "")
        finally:
            self._watchers.pop(id(server), None)

    async def _ask(self, server: Server) -> State:
        """As the probe says; a probe that fails in any way leaves the server out and watched, and says so."""
        try:
            return await self._probe(server)
        except Exception as error:  # noqa: BLE001 - a server that is no longer looked at would stay out for ever
            server.reason = f"it could not be asked ({type(error).__name__}: {error})"
            _log.warning("%s: %s", server.name, server.reason)
            return State.OUT

    def _set(self, server: Server, state: State, reason: str) -> None:
        server.state = state
        server.reason = reason
        if any(server.state in (State.READY, State.PROBATION) for server in self.servers):
            self.unavailable_since = None
        elif self.unavailable_since is None:
            self.unavailable_since = time.monotonic()
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
