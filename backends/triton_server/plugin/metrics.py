"""What the plugin tells Prometheus, gathered in plain numbers and handed over in the background.

Setting a Triton metric from Python is a message to the server's process, too slow for the path of a request.
"""

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from triton_server.workarounds.kept_metrics import keep

Key = tuple[str, tuple[tuple[str, str], ...]]

DESCRIPTIONS = {
    "fpga_inferences_total": "Inferences (rows) answered, by device",
    "fpga_executions_total": "Device calls, by device",
    "fpga_device_seconds_total": "Time on the device, copies included, by device",
    "fpga_rejected_requests_total": "Requests answered with INVALID_ARG because of their values",
    "fpga_failed_requests_total": "Requests answered with an error because no device was left",
    "fpga_failovers_total": "Devices taken out of service, by device and cause",
    "fpga_self_tests_total": "Known-answer tests, by device and result",
    "fpga_thread_faults_total": "Faults of the plugin's own threads, by thread; each was logged and the thread goes on",
    "fpga_model_info": "Instances that answer with this device, instruction set, precision and kernel now",
    "fpga_working_point": "Instances whose scores above the threshold are this fraction of the class",
}


class Counters:
    """Counts by name and labels. ``publish(name, labels, increase)`` is called once a second with what was added."""

    def __init__(self, publish: Callable[[str, dict[str, str], float], None], labels: dict[str, str]) -> None:
        self._publish = publish
        self._labels = labels
        self._counts: Counter[Key] = Counter()
        self._lock = threading.Lock()

    def add(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Add to a count; cheap."""
        with self._lock:
            self._counts[name, tuple(labels.items())] += value  # type: ignore[assignment] # Counter adds floats too

    def flush(self) -> None:
        """Hand over what was added since the last time."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        for (name, labels), value in counts.items():
            self._publish(name, {**self._labels, **dict(labels)}, float(value))


class Provenance:
    """The gauge fpga_model_info of one instance: what answers, for as long as it does.

    Several instances answer with the same labels, and at a reload the new one starts before the old one ends. So each
    adds one to its labels and takes it away again; what no instance answers with is 0. ``move(name, labels, step)``
    changes a gauge.
    """

    def __init__(self, move: Callable[[str, dict[str, str], float], None], labels: dict[str, str]) -> None:
        self._move = move
        self._labels = labels
        self._told: dict[str, str] | None = None
        self._points: list[dict[str, str]] = []
        self._lock = threading.Lock()

    def tell(
        self, device: str, precision: str, kernel: str, choice: str, more: Mapping[str, str] | None = None
    ) -> None:
        """This answers now; ``choice`` is "first", "spare" or "last" of the devices that the model names.

        ``more`` are further labels: a CPU's instruction set, the temperature of scaled scores.
        """
        labels = {"device": device, "precision": precision, "kernel": kernel, "choice": choice}
        self._replace({**self._labels, **labels, **(more or {})})

    def tell_working_points(self, points: Sequence[Mapping[str, str]]) -> None:
        """The cuts on this instance's scores, for as long as it answers: the gauge fpga_working_point."""
        self._points = [{**self._labels, **point} for point in points]
        for labels in self._points:
            self._move("fpga_working_point", labels, 1.0)

    def withdraw(self) -> None:
        """Nothing of this instance answers any more."""
        self._replace(None)
        points, self._points = self._points, []
        for labels in points:
            self._move("fpga_working_point", labels, -1.0)

    def _replace(self, labels: dict[str, str] | None) -> None:
        with self._lock:
            told, self._told = self._told, labels
        if told == labels:
            return
        for values, step in ((told, -1.0), (labels, 1.0)):
            if values is not None:
                self._move("fpga_model_info", values, step)


class Metrics:
    """Triton metrics made on first use, one family a name. ``utils`` is triton_python_backend_utils."""

    def __init__(self, utils: Any) -> None:
        self._utils = utils
        self._families: dict[str, Any] = {}
        self._metrics: dict[Key, Any] = {}

    def increment(self, name: str, labels: dict[str, str], increase: float) -> None:
        """Increase a counter."""
        self._metric(name, DESCRIPTIONS[name], labels, self._utils.MetricFamily.COUNTER).increment(increase)

    def move(self, name: str, labels: dict[str, str], step: float) -> None:
        """Add to a gauge, or take away: instances of one version share it, also an old one and its successor."""
        self._metric(name, DESCRIPTIONS[name], labels, self._utils.MetricFamily.GAUGE).increment(step)

    def _metric(self, name: str, description: str, labels: dict[str, str], kind: Any) -> Any:
        key = (name, tuple(sorted(labels.items())))
        if key not in self._metrics:
            if name not in self._families:
                self._families[name] = self._utils.MetricFamily(name=name, description=description, kind=kind)
            self._metrics[key] = self._families[name].Metric(labels=labels)
        return self._metrics[key]

    def close(self) -> None:
        """End without destroying Triton's objects (workarounds/kept_metrics.py)."""
        keep((*self._metrics.values(), *self._families.values()))
