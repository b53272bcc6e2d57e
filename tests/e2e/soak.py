"""Mixed load, loads and unloads, bad requests and crashes for as long as asked, with what the processes hold.

`python -m tests.e2e.long soak --minutes 240 --plot soak.png` is the long run; the test takes half a minute.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from geventhttpclient.response import HTTPConnectionClosed
from tritonclient.utils import InferenceServerException

from tests.e2e.conftest import Service, images
from triton_server.processes import descendants
from triton_server.shm import SHM

LOST = (InferenceServerException, OSError, HTTPConnectionClosed)
"""What a client sees of a bad request, or of a server that is restarting."""
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Sample:
    """What the supervisor, the server and its stubs hold together."""

    seconds: float
    processes: int
    memory: int
    """Resident bytes."""
    descriptors: int
    threads: int
    own_descriptors: int
    """The supervisor's alone: it lives through every crash, what it holds after one it holds for ever."""
    own_threads: int
    shared: int
    """Bytes of this service's regions in /dev/shm."""


def sample(service: Service, began: float) -> Sample:
    memory = descriptors = threads = 0
    processes = (service.process.pid, *descendants(service.process.pid))
    for pid in processes:
        with contextlib.suppress(OSError):
            memory += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
            descriptors += _entries(pid, "fd")
            threads += _entries(pid, "task")
    own = _entries(service.process.pid, "fd"), _entries(service.process.pid, "task")
    regions = SHM.glob(f"tfpga-{service.process.pid}-*")
    shared = sum(region.stat().st_blocks * 512 for region in regions)
    return Sample(time.monotonic() - began, len(processes), memory, descriptors, threads, *own, shared)


def _entries(pid: int, what: str) -> int:
    return len(list(Path(f"/proc/{pid}/{what}").iterdir()))


def soak(
    service: Service, seconds: float, *, crash_every_s: float = 0.0, progress: Callable[[Sample], None] = lambda s: None
) -> list[Sample]:  # fmt: skip
    """Keep the service of the models ``tiny`` and ``other`` busy; returns a sample after each round."""
    rng = np.random.default_rng(0)
    samples: list[Sample] = []
    began = time.monotonic()
    last_crash = began
    while time.monotonic() - began < seconds:
        for number in range(20):
            values = images(int(rng.integers(1, 5)), 3, 32, 32, seed=number)
            if number % 5 == 4:
                values[0, 0, 0, 0] = np.nan
            kind = "grpc" if number % 2 else "http"
            with contextlib.suppress(*LOST):
                service.infer(kind, "tiny" if number % 3 else "other", values)
        for client in service.clients:
            client.close()
        service.clients.clear()
        with contextlib.suppress(*LOST):
            service.client("http").unload_model("other")
            service.client("http").load_model("other")
        if crash_every_s and time.monotonic() - last_crash > crash_every_s:
            os.kill(service.stub("tiny"), signal.SIGKILL)
            last_crash = time.monotonic()
        service.wait_ready()
        samples.append(sample(service, began))
        progress(samples[-1])
    return samples


def growth(samples: list[Sample]) -> dict[str, float]:
    """How much each quantity rose from the first third of the run to the last, by the medians of the thirds.

    Of the samples with the usual number of processes, except for that number: it varies while a server restarts.
    """
    usual = statistics.mode(entry.processes for entry in samples)

    def rise(name: str, of: list[Sample]) -> float:
        third = max(1, len(of) // 3)
        first, last = ([getattr(entry, name) for entry in part] for part in (of[:third], of[-third:]))
        return float(np.median(last) - np.median(first))

    alike = [entry for entry in samples if entry.processes == usual]
    rises = {name: rise(name, alike) for name in ("memory", "descriptors", "threads", "shared")}
    rises |= {name: rise(name, samples) for name in ("own_descriptors", "own_threads")}
    return {"processes": rise("processes", samples), **rises}


def plot(samples: list[Sample], path: Path) -> None:
    """Draw what was held over time."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(4, 1, sharex=True, figsize=(8, 9), layout="constrained")
    hours = [entry.seconds / 3600 for entry in samples]
    for axis, (name, label, scale) in zip(
        axes,
        (("memory", "resident memory (MB)", 1e6), ("shared", "shared memory (MB)", 1e6),
         ("descriptors", "file descriptors", 1), ("threads", "threads", 1)),
        strict=True,
    ):  # fmt: skip
        axis.plot(hours, [getattr(entry, name) / scale for entry in samples])
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("time (h)")
    figure.savefig(path, dpi=150)
    plt.close(figure)
