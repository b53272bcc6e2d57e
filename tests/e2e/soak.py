"""Mixed load, loads and unloads, bad requests and crashes for as long as asked, with what the processes hold.

`python -m tests.e2e.long soak --minutes 240 --plot soak.png` is the long run; the test takes half a minute.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from geventhttpclient.response import HTTPConnectionClosed
from tritonclient.utils import InferenceServerException

from tests.e2e.conftest import Service, images
from triton_server.processes import descendants, find_stubs
from triton_server.shm import SHM

LOST = (InferenceServerException, OSError, HTTPConnectionClosed)
"""What a client sees of a bad request, or of a server that is restarting."""
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Sample:
    """What the supervisor, the server and its stubs hold together."""

    seconds: float
    memory: int
    """Resident bytes."""
    descriptors: int
    threads: int
    shared: int
    """Bytes of this service's regions in /dev/shm."""


def sample(service: Service, began: float) -> Sample:
    memory = descriptors = threads = 0
    for pid in (service.process.pid, *descendants(service.process.pid)):
        with contextlib.suppress(OSError):
            memory += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
            descriptors += len(list(Path(f"/proc/{pid}/fd").iterdir()))
            threads += len(list(Path(f"/proc/{pid}/task").iterdir()))
    regions = SHM.glob(f"tfpga-{service.process.pid}-*")
    shared = sum(region.stat().st_blocks * 512 for region in regions)
    return Sample(time.monotonic() - began, memory, descriptors, threads, shared)


def _load_anew(service: Service, model: str) -> None:
    """Unload and load a model, again if the server was restarted meanwhile, until its old stub is gone.

    So every sample sees the same: a stub that the running server started for one model, its first one for the other.
    """

    def loaded() -> bool:
        control = service.client("http")
        control.unload_model(model)
        control.load_model(model)
        return True

    def settled() -> bool:
        return bool(service.get("/ready")[0] == 200) and len(find_stubs(service.server_pid)) == 2

    service.wait_for(lambda: _kept(loaded), what="a new load")
    service.wait_for(lambda: _kept(settled), what="one stub a model")


def _kept(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except (*LOST, TypeError):  # no server, no pid
        return False


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
        if crash_every_s and time.monotonic() - last_crash > crash_every_s:
            os.kill(service.stub("tiny"), signal.SIGKILL)
            last_crash = time.monotonic()
        _load_anew(service, "other")
        samples.append(sample(service, began))
        progress(samples[-1])
    return samples


def growth(samples: list[Sample]) -> dict[str, float]:
    """How much each quantity rose from the first third of the run to the last, by the medians of the thirds."""
    third = max(1, len(samples) // 3)

    def median(name: str, part: list[Sample]) -> float:
        return float(np.median([getattr(entry, name) for entry in part]))

    names = ("memory", "descriptors", "threads", "shared")
    return {name: median(name, samples[-third:]) - median(name, samples[:third]) for name in names}


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
