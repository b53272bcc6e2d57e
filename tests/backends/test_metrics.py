"""What the plugin tells Prometheus, without Triton."""

from __future__ import annotations

import gc
from collections import Counter
from typing import Any

from triton_server.plugin.metrics import Counters, Metrics, Provenance

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
    counters = Counters(lambda *what: told.append(what), {"model": "m"})
    counters.add("fpga_inferences_total", 2, device="cpu")
    counters.add("fpga_inferences_total", 3, device="cpu")
    counters.flush()
    counters.flush()
    assert told == [("fpga_inferences_total", {"model": "m", "device": "cpu"}, 5.0)]


def test_what_answers_is_told_for_as_long_as_it_does() -> None:
    """A new instance starts before the old one ends, and several of one version have the same labels."""
    gauge: Counter[tuple[str, str]] = Counter()

    def move(name: str, labels: dict[str, str], step: float) -> None:
        assert name == "fpga_model_info"
        assert (labels["model"], labels["precision"], labels["choice"]) == ("m", "int8", "first")
        gauge[labels["version"], labels["device"]] += int(step)

    def instance(version: str, device: str) -> Provenance:
        made = Provenance(move, {"model": "m", "version": version})
        made.tell(device, "int8", "k", "first")
        return made

    first, second = instance("1", "cpu"), instance("1", "cpu")
    first.tell("cpu", "int8", "k", "first")
    assert gauge == {("1", "cpu"): 2}, "told again is told once"
    reloaded = instance("1", "cpu")  # its configuration changed
    first.withdraw()
    second.withdraw()
    second.withdraw()
    assert gauge["1", "cpu"] == 1
    published = instance("2", "cpu")
    reloaded.withdraw()
    assert gauge == {("1", "cpu"): 0, ("2", "cpu"): 1}
    published.tell("reference", "int8", "k", "first")
    assert gauge == {("1", "cpu"): 0, ("2", "cpu"): 0, ("2", "reference"): 1}


def test_working_points_are_told_for_as_long_as_the_instance_answers() -> None:
    gauge: Counter[tuple[tuple[str, str], ...]] = Counter()

    def move(name: str, labels: dict[str, str], step: float) -> None:
        assert name == "fpga_working_point"
        gauge[tuple(sorted(labels.items()))] += int(step)

    first, second = (Provenance(move, {"model": "m", "version": version}) for version in "12")
    first.tell_working_points([{"efficiency": "0.3", "threshold": "0.9"}])
    second.tell_working_points([{"efficiency": "0.3", "threshold": "0.8"}])
    first.withdraw()
    first.withdraw()
    told = {dict(labels)["threshold"]: count for labels, count in gauge.items()}
    assert told == {"0.9": 0, "0.8": 1}


def test_a_closed_stub_destroys_none_of_tritons_metrics() -> None:
    """The next instance of the same version uses the same counters in the server."""
    DESTROYED.clear()
    metrics: Any = Metrics(Utils)
    metrics.increment("fpga_inferences_total", {"model": "m"}, 1.0)
    metrics.close()
    del metrics
    gc.collect()
    assert not DESTROYED
