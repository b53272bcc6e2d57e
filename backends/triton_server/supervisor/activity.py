"""What the server's own metrics tell of each model: what answers, how much, how fast."""

import logging
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from triton_server.errors import ServerError
from triton_server.protocol import FIRST, LAST, SPARE
from triton_server.server.control_api import Json
from triton_server.supervisor.models import Key, ModelHealth

log = logging.getLogger("triton_server")

HISTORY_S = 900.0
SAMPLE_S = 5.0
_RANK = {"": 0, FIRST: 1, SPARE: 2, LAST: 3}
_COUNTS = {
    "nv_inference_request_success_total": "answered",
    "nv_inference_request_failure_total": "failed",
    "nv_inference_request_duration_us_total": "duration_us",
    "nv_inference_queue_duration_us_total": "queue_us",
}
"""Triton's counters of a model version, as `read_metrics` names them, with what they are called here."""
_WAITING = "nv_inference_pending_request_count"


@dataclass(frozen=True)
class Rates:
    """What one model version did between two looks."""

    at: float
    """Seconds since the epoch, at the end."""
    per_s: float
    """Requests answered a second."""
    failed_per_s: float
    """Requests refused or failed a second."""
    latency_ms: float | None
    """Mean time in the server; None without a request."""
    queue_ms: float | None
    """Mean of it that was waiting."""
    waiting: int
    """Requests in the queue at the end."""


class Activity:
    """Reads the server's metrics, tells the models what answers, and remembers the rates of the last 15 minutes.

    ``page`` returns the metrics in Prometheus' text format, and raises OSError or ServerError.
    """

    def __init__(
        self, page: Callable[[], str], clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._page = page
        self._clock = clock
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        self._last: dict[Key, tuple[float, Counter[str]]] = {}
        self._rates: dict[Key, deque[Rates]] = defaultdict(lambda: deque(maxlen=round(HISTORY_S / SAMPLE_S)))

    def describe(self, supervised: Mapping[Key, ModelHealth]) -> None:
        """Fill in what answers: device, instruction set, precision, kernel, fail-overs, self-tests.

        Nothing where there is no page.
        """
        try:
            samples = list(read_metrics(self._page()))
        except (OSError, ServerError, ValueError):
            return
        for health in supervised.values():
            before = health.degraded
            _describe(health, [(n, labels, v) for n, labels, v in samples if _key(labels) == health.key])
            if health.degraded and not before:
                log.warning("%s: degraded: it serves on %s, the last of its devices", health.name, health.device)
            elif before and not health.degraded:
                log.info("%s: no longer degraded: it serves on %s", health.name, health.device)

    def sample(self) -> None:
        """Look at the counters, and remember the rates since the last look."""
        try:
            text = self._page()
        except (OSError, ServerError):
            return
        now, wall = self._clock(), self._wall_clock()
        counts: dict[Key, Counter[str]] = defaultdict(Counter)
        waiting: Counter[Key] = Counter()
        for name, labels, value in read_metrics(text):
            if name in _COUNTS:
                counts[_key(labels)][_COUNTS[name]] += int(value)
            elif name == _WAITING:
                waiting[_key(labels)] += int(value)
        with self._lock:
            for key, count in counts.items():
                then, before = self._last.get(key, (now, count))
                if now > then:
                    self._rates[key].append(_rates(wall, now - then, count, before, waiting[key]))
            self._last = {key: (now, count) for key, count in counts.items()}
            for key in [key for key, rates in self._rates.items() if rates and rates[-1].at < wall - HISTORY_S]:
                del self._rates[key]

    def rows(self) -> list[Json]:
        """By model version: columns of equal length, the oldest first."""
        with self._lock:
            return [
                {
                    "model": model, "version": version,
                    "at": [round(rate.at, 1) for rate in rates],
                    "per_s": [round(rate.per_s, 2) for rate in rates],
                    "failed_per_s": [round(rate.failed_per_s, 2) for rate in rates],
                    "latency_ms": [_rounded(rate.latency_ms) for rate in rates],
                    "queue_ms": [_rounded(rate.queue_ms) for rate in rates],
                    "waiting": rates[-1].waiting if rates else 0,
                }
                for (model, version), rates in sorted(self._rates.items())
            ]  # fmt: skip


def read_metrics(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Name, labels and value of each sample of Prometheus' text format. Raises ValueError for anything else.

    A counter's name ends with ``_total`` here, whether or not it does on the page: prometheus_client gives it that.
    """
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def _key(labels: Mapping[str, str]) -> Key:
    return labels.get("model", ""), labels.get("version", "")


def _describe(health: ModelHealth, samples: list[tuple[str, dict[str, str], float]]) -> None:
    failovers, faults = 0, 0
    tests: Counter[str] = Counter()
    answers = [labels for name, labels, value in samples if name == "fpga_model_info" and value > 0]
    for name, labels, value in samples:
        if name == "fpga_failovers_total":
            failovers += int(value)
        elif name == "fpga_self_tests_total":
            tests[labels.get("result", "")] += int(value)
        elif name == "fpga_thread_faults_total":
            faults += int(value)
    if answers:
        worst = max(answers, key=lambda labels: _RANK.get(labels.get("choice", ""), 0))
        health.device, health.precision, health.kernel, health.choice = (
            worst.get(name, "") for name in ("device", "precision", "kernel", "choice")
        )
        health.isa = worst.get("isa", "")
    health.failovers, health.self_tests, health.thread_faults = failovers, dict(tests), faults


def _rates(at: float, seconds: float, now: Counter[str], before: Counter[str], waiting: int) -> Rates:
    if any(now[name] < before[name] for name in _COUNTS.values()):
        before = Counter()  # the server has started again
    answered = now["answered"] - before["answered"]
    return Rates(
        at,
        answered / seconds,
        (now["failed"] - before["failed"]) / seconds,
        (now["duration_us"] - before["duration_us"]) / answered / 1e3 if answered else None,
        (now["queue_us"] - before["queue_us"]) / answered / 1e3 if answered else None,
        waiting,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
