"""System shared memory towards a server on this machine, used when it is measured to be faster than the socket."""

from __future__ import annotations

import os
import statistics
import sys
import threading
import uuid
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.shared_memory import SharedMemory

import numpy as np

from sonic_client.core.admin_key import with_own_key
from sonic_client.core.faults import Fault, Kind
from sonic_client.core.transports.base import Region, Tensor, Transport

SMALLEST = 32 * 1024
"""Requests with fewer bytes are sent inline: the copy costs less than the bookkeeping."""
_PASSING = frozenset({Kind.CONNECTION, Kind.NOT_READY, Kind.OVERLOAD, Kind.SLOW})
"""Why a region could not be made known, that says nothing of the next one."""
_SAMPLES = 12
"""Requests of each kind that are timed before one kind is settled on."""


class Lease:
    """Regions that hold one request's inputs until its answer has come."""

    def __init__(self, arena: Arena, blocks: dict[str, _Block]) -> None:
        self._arena = arena
        self._blocks = blocks

    @property
    def regions(self) -> dict[str, Region]:
        """Where each input lies."""
        return {name: Region(block.name, block.used) for name, block in self._blocks.items()}

    def answered(self) -> None:
        """The server is done with the memory: it may be used again."""
        self._arena.give_back(self._blocks)

    def lost(self) -> None:
        """The server may still be reading (cancelled, timed out): never use this memory again."""
        for block in self._blocks.values():
            block.unlink()


class _Block:
    def __init__(self, size: int) -> None:
        self.name = f"sonic-{os.getpid()}-{uuid.uuid4().hex[:16]}"
        self.memory = SharedMemory(self.name, create=True, size=size)
        self.size = size
        self.used = 0

    def write(self, array: Tensor) -> None:
        if self.memory.buf is None:  # numpy would take memory of its own, and the server find the last request's
            raise OSError("the region was given up")
        target: Tensor = np.ndarray(array.shape, array.dtype, buffer=self.memory.buf)
        np.copyto(target, array)
        self.used = array.nbytes

    def unlink(self) -> None:
        with suppress(BufferError, OSError):
            self.memory.close()
        with suppress(FileNotFoundError):
            self.memory.unlink()


class Arena:
    """The shared memory of one client with one local server. `lease_known`, `timed` and leases suit any thread.

    Args:
        wanted: True always uses it, None measures first (False is for the caller not to make an Arena).
    """

    def __init__(self, wanted: bool | None) -> None:
        self._wanted = wanted
        self._lock = threading.Lock()
        self._free: list[_Block] = []
        self._known: list[_Block] = []
        self._usable = sys.platform.startswith("linux")
        self._times: dict[bool, list[float]] = {True: [], False: []}
        self._settled: bool | None = None

    @property
    def decision(self) -> bool | None:
        """Whether shared memory is used; None while that is being measured."""
        if not self._usable:
            return False
        return True if self._wanted else self._settled

    def next_is_shared(self, byte_size: int) -> bool:
        """Whether the next request should go through shared memory."""
        if not self._usable or byte_size == 0:
            return False
        if self._wanted:
            return True
        if byte_size < SMALLEST:
            return False
        if self._settled is not None:
            return self._settled
        return len(self._times[True]) <= len(self._times[False])

    def timed(self, shared: bool, seconds: float, byte_size: int) -> None:
        """Learn how long a request took."""
        if self._wanted or self._settled is not None or byte_size < SMALLEST:
            return
        with self._lock:
            self._times[shared].append(seconds)
            if all(len(times) >= _SAMPLES for times in self._times.values()):
                # The first of each kind pay for connection and registration.
                shared_time, inline_time = (statistics.median(self._times[kind][2:]) for kind in (True, False))
                self._settled = shared_time < inline_time

    async def lease(
        self, transport: Transport, inputs: Mapping[str, Tensor], headers: Mapping[str, str], timeout: float
    ) -> Lease | None:
        """Put the inputs into shared memory that the server knows; None if the server cannot see ours."""
        blocks: dict[str, _Block] = {}
        try:
            for name, array in inputs.items():
                blocks[name] = await self._block(transport, array.nbytes, headers, timeout)
                blocks[name].write(array)
        except (Fault, OSError) as error:
            # A server that is just away may well see it when it is back.
            self._usable = isinstance(error, Fault) and error.kind in _PASSING
            self.give_back(blocks)
            return None
        except BaseException:  # cancelled
            self.give_back(blocks)
            raise
        return Lease(self, blocks)

    def lease_known(self, inputs: Mapping[str, Tensor]) -> Lease | None:
        """Put the inputs into memory that the server knows already; None if too little of it is free."""
        blocks: dict[str, _Block] = {}
        with self._lock:  # until all is written: `reset` must not come between
            for name, array in inputs.items():
                block = self._take(array.nbytes)
                if block is None:
                    self._free.extend(blocks.values())
                    return None
                blocks[name] = block
                block.write(array)
        return Lease(self, blocks)

    def give_back(self, blocks: Mapping[str, _Block]) -> None:
        """Blocks that may be used again, unless the server forgot them meanwhile."""
        with self._lock:
            self._free.extend(block for block in blocks.values() if block in self._known)

    def reset(self) -> None:
        """The server forgot the regions (it was restarted): later requests register new ones."""
        with self._lock:
            for block in self._known:
                block.unlink()
            self._known.clear()
            self._free.clear()

    async def close(self, transport: Transport, headers: Mapping[str, str]) -> None:
        """Forget all regions here and at the server."""
        for block in self._known:
            with suppress(Fault):
                await transport.unregister(block.name, with_own_key(transport.url, headers), 1.0)
        self.reset()

    async def _block(self, transport: Transport, size: int, headers: Mapping[str, str], timeout: float) -> _Block:
        with self._lock:
            free = self._take(size)
            if free is not None:
                return free
            block = _Block(size)
            self._known.append(block)
        try:
            await transport.register(block.name, f"/{block.name}", size, with_own_key(transport.url, headers), timeout)
        except BaseException:
            block.unlink()  # whether the server has it now is not known: it stays among those that are unregistered
            raise
        return block

    def _take(self, size: int) -> _Block | None:
        """The smallest free block of at least `size` bytes; the lock is held."""
        fitting = [block for block in self._free if block.size >= size]
        if not fitting:
            return None
        block = min(fitting, key=lambda one: one.size)
        self._free.remove(block)
        return block
