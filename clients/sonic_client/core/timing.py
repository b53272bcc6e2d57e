"""Where the time went: of one call, and summed over a client's life."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

_KEPT = 100_000
"""Latencies that are kept for quantiles; older ones are forgotten."""


@dataclass(frozen=True)
class CallTiming:
    """One call, in ms. `waiting` is for a server, for back-off and for failed attempts; `answer` the last attempt."""

    waiting_ms: float
    answer_ms: float
    total_ms: float


@dataclass
class Totals:
    """Sums over all calls of a client."""

    requests: int = 0
    inferences: int = 0
    failures: int = 0
    attempts: int = 0
    hedges: int = 0
    fallbacks: int = 0
    bytes_sent: int = 0
    waiting_ms: float = 0.0
    answer_ms: float = 0.0
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT), repr=False)

    def add(self, timing: CallTiming, inferences: int) -> None:
        """Count an answered call."""
        self.requests += 1
        self.inferences += inferences
        self.waiting_ms += timing.waiting_ms
        self.answer_ms += timing.answer_ms
        self.latencies_ms.append(timing.total_ms)

    def quantile_ms(self, q: float) -> float:
        """A quantile of the latency of a request; NaN before the first."""
        return float(np.quantile(np.asarray(self.latencies_ms), q)) if self.latencies_ms else float("nan")

    def summary(self) -> dict[str, Any]:
        """Plain numbers for a report."""
        numbers = asdict(self)
        del numbers["latencies_ms"]
        return numbers | {"p50_ms": self.quantile_ms(0.5), "p99_ms": self.quantile_ms(0.99)}


class Counters:
    """What a client has done so far. Any thread may count; what is handed out is a copy."""

    def __init__(self) -> None:
        self._totals = Totals()
        self._lock = threading.Lock()

    def count(self, name: str, amount: int = 1) -> None:
        """Add to one of the whole numbers of `Totals`."""
        with self._lock:
            setattr(self._totals, name, getattr(self._totals, name) + amount)

    def answered(self, timing: CallTiming, inferences: int) -> None:
        """Count an answered call."""
        with self._lock:
            self._totals.add(timing, inferences)

    def snapshot(self) -> Totals:
        """The sums of this moment, which stay as they are."""
        with self._lock:
            return replace(self._totals, latencies_ms=self._totals.latencies_ms.copy())


_PARTS = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True)
class ServerTimes:
    """The server's own sums for a model: how many requests succeeded, and ns in each part."""

    requests: int = 0
    inferences: int = 0
    executions: int = 0
    success_ns: int = 0
    parts_ns: tuple[int, ...] = (0, 0, 0, 0)

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> ServerTimes:
        """From the answer of Triton's statistics extension, summed over the versions that it lists."""
        total = cls()
        for row in said.get("model_stats", []):
            stats = row.get("inference_stats", {})
            total = cls(
                total.requests + int(stats.get("success", {}).get("count", 0)),
                total.inferences + int(row.get("inference_count", 0)),
                total.executions + int(row.get("execution_count", 0)),
                total.success_ns + int(stats.get("success", {}).get("ns", 0)),
                tuple(
                    have + int(stats.get(part, {}).get("ns", 0))
                    for have, part in zip(total.parts_ns, _PARTS, strict=True)
                ),
            )
        return total

    def __sub__(self, earlier: ServerTimes) -> ServerTimes:
        return ServerTimes(
            self.requests - earlier.requests,
            self.inferences - earlier.inferences,
            self.executions - earlier.executions,
            self.success_ns - earlier.success_ns,
            tuple(now - then for now, then in zip(self.parts_ns, earlier.parts_ns, strict=True)),
        )

    def __add__(self, other: ServerTimes) -> ServerTimes:
        return ServerTimes(
            self.requests + other.requests,
            self.inferences + other.inferences,
            self.executions + other.executions,
            self.success_ns + other.success_ns,
            tuple(a + b for a, b in zip(self.parts_ns, other.parts_ns, strict=True)),
        )

    def mean_ms(self) -> dict[str, float]:
        """Mean over requests of each part, in ms; NaN when there was no request."""
        scale = 1e-6 / self.requests if self.requests else float("nan")
        parts = {f"{part}_ms": ns * scale for part, ns in zip(_PARTS, self.parts_ns, strict=True)}
        return parts | {"server_ms": self.success_ns * scale}


@dataclass(frozen=True)
class Breakdown:
    """One call's time, in ms, from the client's clock and the server's statistics before and after it.

    Exact when nobody else used the model meanwhile (`exclusive`); otherwise the server's parts are means over the
    requests of that moment.
    """

    client_ms: float
    network_ms: float
    queue_ms: float
    compute_input_ms: float
    compute_infer_ms: float
    compute_output_ms: float
    total_ms: float
    exclusive: bool
