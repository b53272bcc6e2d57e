"""Mixed load, loads and unloads, bad requests and crashes for as long as asked, with what the processes hold.

`python -m tests.e2e.long soak --minutes 240 --plot soak.png` is the long run; the test takes half a minute.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from geventhttpclient.response import HTTPConnectionClosed
from tritonclient.utils import InferenceServerException

from tests.e2e.conftest import Service, images
from triton_server.server.shared_memory import SHM
from triton_server.supervisor.processes import descendants, find_stubs

LOST = (InferenceServerException, OSError, HTTPConnectionClosed)
"""What a client sees of a bad request, or of a server that is restarting."""
PAGE = os.sysconf("SC_PAGE_SIZE")
PATIENCE_S = 900.0
"""A run of hours at low priority may itself be stopped for minutes: that is no fault of the service."""


@dataclass(frozen=True)
class Sample:
    """What the supervisor, the server and its stubs hold together, and two of them alone."""

    seconds: float
    server_pid: int
    """Tells one life of the server from the next."""
    memory: int
    """Resident bytes."""
    supervisor_memory: int
    server_memory: int
    descriptors: int
    threads: int
    shared: int
    """Bytes of this service's regions in /dev/shm."""


def sample(service: Service, began: float) -> Sample:
    supervisor = service.process.pid
    memory: dict[int, int] = {}
    descriptors = threads = 0
    below = descendants(supervisor)
    for pid in (supervisor, *below):
        with contextlib.suppress(OSError):
            memory[pid] = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
            descriptors += len(list(Path(f"/proc/{pid}/fd").iterdir()))
            threads += len(list(Path(f"/proc/{pid}/task").iterdir()))
    regions = SHM.glob(f"tfpga-{supervisor}-*")
    shared = sum(region.stat().st_blocks * 512 for region in regions)
    server = next(pid for pid in below if find_stubs(pid))
    return Sample(
        time.monotonic() - began, server, sum(memory.values()), memory[supervisor], memory[server], descriptors,
        threads, shared,
    )  # fmt: skip


def _load_anew(service: Service, model: str) -> None:
    """Unload and load a model, again if the server was restarted meanwhile, until its old stub is gone.

    So every sample sees the same: a stub that the running server started for one model, its first one for the other.
    """

    def loaded() -> bool:
        control = service.client("http")
        control.unload_model(model, headers=service.admin)
        control.load_model(model, headers=service.admin)
        return True

    def settled() -> bool:
        stubs = find_stubs(service.server_pid)
        held = {path.name for path in SHM.glob(f"tfpga-{service.process.pid}-*")}
        # newer Tritons remove the regions of a stub some time after its end
        return bool(service.get("/ready")[0] == 200) and len(stubs) == 2 and held == {_region(s.pid) for s in stubs}

    service.wait_for(lambda: _kept(loaded), PATIENCE_S, "a new load")
    service.wait_for(lambda: _kept(settled), PATIENCE_S, "one stub a model")


def _region(stub: int) -> str:
    """The name of a stub's shared memory, from its command line."""
    return Path(f"/proc/{stub}/cmdline").read_bytes().split(b"\0")[2].decode()


def _kept(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except (*LOST, TypeError):  # no server, no pid
        return False


def _crashes(service: Service) -> Iterator[str]:
    """What befalls the service, in turn, without end."""
    while True:
        os.kill(service.stub("tiny"), signal.SIGKILL)
        yield "a killed stub"
        os.kill(service.stub("other"), signal.SIGSTOP)
        yield "a stopped stub"
        os.kill(service.server_pid, signal.SIGKILL)
        yield "a killed server"


def soak(
    service: Service, seconds: float, *, crash_every_s: float = 0.0, pause_s: float = 0.0,
    progress: Callable[[Sample], None] = lambda s: None,
) -> list[Sample]:  # fmt: skip
    """Keep the service of the models ``tiny`` and ``other`` busy; returns a sample after each round."""
    rng = np.random.default_rng(0)
    samples: list[Sample] = []
    crashes = _crashes(service)
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
            next(crashes)
            last_crash = time.monotonic()
        _load_anew(service, "other")
        samples.append(sample(service, began))
        progress(samples[-1])
        time.sleep(pause_s)
    return samples


def growth(samples: list[Sample]) -> dict[str, float]:
    """How much each quantity rose from the first third of the run to the last, by the medians of the thirds."""
    third = max(1, len(samples) // 3)

    def median(name: str, part: list[Sample]) -> float:
        return float(np.median([getattr(entry, name) for entry in part]))

    names = ("memory", "supervisor_memory", "descriptors", "threads", "shared")
    return {name: median(name, samples[-third:]) - median(name, samples[:third]) for name in names}


def server_growth(samples: list[Sample], settled: int = 20) -> float | None:
    """Bytes that the server grows by in a round (a load, an unload, 20 requests), after the first ones of each life.

    The mean of the slopes of all lives that are long enough, weighted by their length; None without any.
    """
    slopes, weights = [], []
    for _, life in itertools.groupby(samples, key=lambda entry: entry.server_pid):
        memory = [entry.server_memory for entry in life][settled:]
        if len(memory) >= settled:
            slopes.append(float(np.polyfit(range(len(memory)), memory, 1)[0]))
            weights.append(len(memory))
    return float(np.average(slopes, weights=weights)) if slopes else None


class Record:
    """A file of samples that grows with the run, so that a run cut short is not lost."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", newline="")
        self._writer = csv.DictWriter(self._file, list(Sample.__dataclass_fields__))
        self._writer.writeheader()

    def add(self, entry: Sample) -> None:
        self._writer.writerow(asdict(entry))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


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
        axis.plot(hours, [getattr(entry, name) / scale for entry in samples], label="all processes")
        if name == "memory":
            for part in ("server", "supervisor"):
                axis.plot(hours, [getattr(entry, f"{part}_memory") / scale for entry in samples], label=part)
            axis.legend(loc="center right")
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        for before, after in itertools.pairwise(samples):
            if before.server_pid != after.server_pid:
                axis.axvline(after.seconds / 3600, color="0.85", zorder=0)
    axes[0].set_title("grey lines: the server was started again", fontsize="medium")
    axes[-1].set_xlabel("time (h)")
    figure.savefig(path, dpi=150)
    plt.close(figure)
