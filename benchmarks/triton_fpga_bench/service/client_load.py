"""A load generator in its own process: many connections at batch one, closed loop or Poisson arrivals.

usage: python -m triton_fpga_bench.service.client_load SPECIFICATION.json

Closed loop: every connection sends when its last answer has come. Open loop: requests are due at random times, whatever
the server does, and latency counts from the time a request was due, so that a server that falls behind shows it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonic_client.client import AsyncClient
from sonic_client.errors import ClientError, RequestError


@dataclass(frozen=True)
class Load:
    """What to send.

    Attributes:
        url: Server and model.
        inputs: `.npy` file with the tensors, one row a request.
        seconds: How long to measure, after `warm_up` seconds that do not count.
        connections: Clients at once, each with a connection of its own.
        in_flight: Requests under way on every connection (closed loop).
        rate: Requests per second, Poisson (open loop); None is the closed loop.
        shared_memory: As in the client's options.
        compression: As in the client's options.
    """

    url: str
    inputs: str
    seconds: float
    connections: int = 1
    in_flight: int = 1
    rate: float | None = None
    shared_memory: bool = False
    compression: str | None = None
    warm_up: float = 1.0


@dataclass(frozen=True)
class Measured:
    """What came of it; times in ms. `answered` counts the warm-up too; `cores` is what the generator itself used."""

    requests: int
    answered: int
    failures: int
    throughput_per_s: float
    mean_ms: float
    p50_ms: float
    p99_ms: float
    bytes_per_inference: float
    repeated: int
    cores: float


def measure(load: Load, folder: Path) -> Measured:
    """Run the load in a process of its own (in the present network namespace)."""
    specification = folder / "load.json"
    specification.write_text(json.dumps(asdict(load)))
    command = [sys.executable, "-m", "triton_fpga_bench.service.client_load", str(specification)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise ClientError(f"the load generator failed: {ended.stderr.strip()[-2000:]}")
    return Measured(**json.loads(ended.stdout))


async def run(load: Load) -> Measured:
    """Send the load and measure."""
    rows = np.load(load.inputs, mmap_mode="r")
    in_flight = load.in_flight if load.rate is None else 4096
    clients = [
        AsyncClient(
            load.url,
            max_in_flight=in_flight,
            shared_memory=load.shared_memory,
            compression=load.compression,
            deadline=120.0,
        )
        for _ in range(load.connections)
    ]
    try:
        for client in clients:
            await client.info()
        name = (await clients[0].info()).inputs[0].name
        generator = _closed if load.rate is None else _open
        began, used = time.perf_counter(), time.process_time()
        latencies, failures, seconds = await generator(load, clients, name, rows)
        cores = (time.process_time() - used) / (time.perf_counter() - began)
        sent = [client.statistics() for client in clients]
    finally:
        await asyncio.gather(*(client.close() for client in clients))
    times = np.asarray(latencies) if latencies else np.array([float("nan")])
    answered = sum(total.requests for total in sent)
    return Measured(
        requests=len(latencies),
        answered=answered,
        failures=failures,
        throughput_per_s=len(latencies) / seconds,
        mean_ms=float(times.mean()),
        p50_ms=float(np.quantile(times, 0.5)),
        p99_ms=float(np.quantile(times, 0.99)),
        bytes_per_inference=sum(total.bytes_sent for total in sent) / max(1, answered),
        repeated=sum(total.attempts for total in sent) - answered,
        cores=cores,
    )


Outcome = tuple[list[float], int, float]


async def _closed(load: Load, clients: list[AsyncClient], name: str, rows: NDArray[np.float32]) -> Outcome:
    latencies: list[float] = []
    failures = 0
    began = time.perf_counter()
    counted_from, end = began + load.warm_up, began + load.warm_up + load.seconds

    async def keep_sending(client: AsyncClient, number: int) -> None:
        nonlocal failures
        while (sent := time.perf_counter()) < end:
            try:
                await client.infer(_inputs(name, rows, number))
            except RequestError:
                failures += 1
                continue
            now = time.perf_counter()
            if counted_from <= now <= end:
                latencies.append((now - sent) * 1e3)
            number += 1

    jobs = [keep_sending(client, 7 * i + j) for i, client in enumerate(clients) for j in range(load.in_flight)]
    await asyncio.gather(*jobs)
    return latencies, failures, load.seconds


async def _open(load: Load, clients: list[AsyncClient], name: str, rows: NDArray[np.float32]) -> Outcome:
    rate = load.rate or 1.0
    count = max(1, round(rate * (load.seconds + load.warm_up)))
    due = np.cumsum(np.random.default_rng(1).exponential(1.0 / rate, count))
    latencies: list[float] = []
    failures = 0
    began = time.perf_counter()

    async def send(number: int) -> None:
        nonlocal failures
        try:
            await clients[number % len(clients)].infer(_inputs(name, rows, number))
        except RequestError:
            failures += 1
            return
        if due[number] >= load.warm_up:
            latencies.append((time.perf_counter() - began - due[number]) * 1e3)

    tasks = []
    for number in range(count):
        pause = due[number] - (time.perf_counter() - began)
        if pause > 0:
            await asyncio.sleep(pause)
        tasks.append(asyncio.create_task(send(number)))
    await asyncio.gather(*tasks)
    return latencies, failures, time.perf_counter() - began - load.warm_up


def _inputs(name: str, rows: NDArray[np.float32], number: int) -> Mapping[str, Any]:
    row = number % len(rows)
    return {name: np.ascontiguousarray(rows[row : row + 1])}


if __name__ == "__main__":
    wanted = Load(**json.loads(Path(sys.argv[1]).read_text()))
    sys.stdout.write(json.dumps(asdict(asyncio.run(run(wanted)))))
