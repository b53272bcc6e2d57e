"""What the plugin tells Prometheus, without Triton."""

from __future__ import annotations

import gc
from typing import Any

from triton_server.plugin.accounts import Accounts, Metrics

DESTROYED: list[str] = []


class Utils:
    """Stands for triton_python_backend_utils; counts what is destroyed."""

    class MetricFamily:
        COUNTER, GAUGE = 1, 2

        def __init__(self, name: str, description: str, kind: int) -> None:
            self.name = name

        def Metric(self, labels: dict[str, str]) -> Utils.Metric:  # noqa: N802 - Triton's name
            return Utils.Metric()

        def __del__(self) -> None:
            DESTROYED.append("family")

    class Metric:
        value = 0.0

        def increment(self, increase: float) -> None:
            self.value += increase

        def __del__(self) -> None:
            DESTROYED.append("metric")


def test_counts_are_handed_over_once() -> None:
    told: list[tuple[str, dict[str, str], float]] = []
    accounts = Accounts(lambda *what: told.append(what), {"model": "m"})
    accounts.add("fpga_inferences_total", 2, device="cpu")
    accounts.add("fpga_inferences_total", 3, device="cpu")
    accounts.flush()
    accounts.flush()
    assert told == [("fpga_inferences_total", {"model": "m", "device": "cpu"}, 5.0)]


def test_a_closed_stub_destroys_none_of_tritons_metrics() -> None:
    """The next instance of the same version uses the same counters in the server."""
    DESTROYED.clear()
    metrics: Any = Metrics(Utils)
    metrics.increment("fpga_inferences_total", {"model": "m"}, 1.0)
    metrics.close()
    del metrics
    gc.collect()
    assert not DESTROYED
