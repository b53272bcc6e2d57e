"""One request, sent until it is answered: retries, back-off, hedging and shared memory, under one deadline."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from sonic_client.core.faults import RETRIED, Fault, Kind
from sonic_client.core.reply import Reply
from sonic_client.core.server_pool import CLOSED, Server, State
from sonic_client.core.servers import CONTROL_TIMEOUT, Servers
from sonic_client.core.shared_memory import Arena, Lease
from sonic_client.core.timing import CallTiming, Counters
from sonic_client.core.transports.base import Call, ModelInfo, RawReply, Tensor
from sonic_client.errors import DeadlineError, RequestError, ServerUnavailableError
from sonic_client.options import Options

_LONGEST = 1e8
"""Seconds: three years. gRPC never sends a request whose deadline is infinite."""


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


class Attempts:
    """Sends requests to `servers` and counts what comes of it. Lives in one event loop.

    `once_here` may be called from any other thread.
    """

    def __init__(self, servers: Servers, options: Options, counters: Counters) -> None:
        self._servers = servers
        self._pool = servers.pool
        self._options = options
        self._counters = counters
        self._loop = asyncio.get_running_loop()

    async def persist(self, progress: Progress, begun: Unanswered | None = None) -> Reply:
        """Send until answered, refused for good, or out of time."""
        try:
            if begun is not None:
                self._refuse_closed(progress)
                self._note(begun.server, begun.fault)
                await self._pause(progress, begun.fault, begun.server)
            while True:
                server = await self._servers.choose(progress.end, progress.failed)
                self._refuse_closed(progress)
                if server is None:
                    raise self._out_of_time(progress)
                sent = self._sending(progress)
                try:
                    raw, server = await self._send(server, progress)
                except Fault as fault:
                    self._refuse_closed(progress)
                    await self._pause(progress, fault, server)
                    continue
                return self._answered(progress, raw, server, sent)
        except RequestError:
            self._counters.count("failures")
            raise

    def _sending(self, progress: Progress) -> float:
        """Count an attempt; returns the time."""
        progress.attempts += 1
        self._counters.count("attempts")
        return time.monotonic()

    def _answered(self, progress: Progress, raw: RawReply, server: Server, sent: float) -> Reply:
        now = time.monotonic()
        timing = CallTiming((sent - progress.began) * 1e3, (now - sent) * 1e3, (now - progress.began) * 1e3)
        self._counters.answered(timing, _batch(progress.call.inputs))
        request_id, attempts = progress.call.request_id, progress.attempts
        metrics = self._servers.metrics(server)
        return Reply(raw.outputs, request_id, server.name, raw.model_version, attempts, timing, raw.parameters, metrics)

    async def _pause(self, progress: Progress, fault: Fault, server: Server) -> None:
        """After a failed attempt: raise when another cannot help, else wait as long as is due."""
        progress.last = fault
        progress.inline = progress.inline or fault.kind is Kind.SHARED_MEMORY
        progress.failed.append(server)
        self._give_up_or_not(progress, fault, server)
        if not self._servers.elsewhere(progress.failed):
            pause = random.uniform(0.0, self._options.retry.ceiling(progress.attempts))  # noqa: S311 - jitter
            await self._pool.pause(min(pause, max(0.0, progress.end - time.monotonic())))

    def _give_up_or_not(self, progress: Progress, fault: Fault, server: Server) -> None:
        """Raise when another attempt cannot help."""
        hopeless = fault.kind not in RETRIED or progress.attempts >= self._options.retry.attempts
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

    def _refuse_closed(self, progress: Progress) -> None:
        """Raise when the client was closed: what it was waiting for will not come."""
        if self._pool.closed.is_set():
            call = progress.call
            raise ServerUnavailableError(
                CLOSED, request_id=call.request_id, model=call.model, attempts=progress.attempts
            )

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

    async def _send(self, server: Server, progress: Progress) -> tuple[RawReply, Server]:
        """One attempt, hedged if so wished."""
        after = self._options.hedge_after
        if after is None:
            return await self._once(server, progress, progress.inline), server
        first = asyncio.create_task(self._once(server, progress, progress.inline))
        try:
            done, _ = await asyncio.wait({first}, timeout=after)
            other = None if done else self._pool.pick(avoid=[server])
            if other is None:
                return await _owned(first), server
            self._counters.count("hedges")
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
                lease = await arena.lease(server.transport, call.inputs, call.headers, CONTROL_TIMEOUT)
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

    def once_here(self, server: Server, progress: Progress) -> Reply | Unanswered | None:
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
        left = min(_LONGEST, max(0.001, progress.end - time.monotonic()))
        return left if self._options.attempt_timeout is None else min(left, self._options.attempt_timeout)

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
        self._counters.count("bytes_sent", sending.byte_size)

    @staticmethod
    def _settle(lease: Lease | None, *, answered: bool) -> None:
        if lease is None:
            return
        if answered:
            lease.answered()
        else:
            lease.lost()


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
        if not tensor.gives(array, batch):
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
