"""What a server's metrics page says of a model: what answers (device, precision, kernel), and sums.

Two patterns find it. prometheus_client's parser would be a package more for every client, and 0.15 s of its start.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from sonic_client.core.admin_key import listeners
from sonic_client.core.proxy import opener
from sonic_client.core.url import ServerUrl
from sonic_client.errors import ConfigurationError

_LABELS = r'(?:[^}"\n]|"(?:[^"\\\n]|\\.)*")*'
_VALUE = r"[-+]?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|Inf|NaN)"
_SAMPLE = re.compile(rf"^(\w+)\{{({_LABELS})\}}[ \t]+({_VALUE})(?:[ \t]+-?\d+)?[ \t\r]*$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")

_TRITON_PORTS = (8000, 8001)
_TRITON_METRICS_PORT = 8002
_FRESH_S = 5.0
"""Seconds for which an answer of the metrics page is believed."""
_ABSENT_S = 60.0
"""Seconds for which a page that did not answer is not asked again."""
_PATIENCE_S = 1.0


def read_provenance(metrics_url: str, model: str, timeout: float = 5.0) -> dict[str, str]:
    """Labels of the gauge `fpga_model_info` of what answers for the model: version, device, precision, kernel.

    Empty when the server has no such metric or does not show metrics.
    """
    return parse_provenance(_page(metrics_url, timeout), model)


def read_metric(metrics_url: str, name: str, model: str, timeout: float = 5.0) -> float:
    """Sum of a metric's values over everything but the model; 0 when there is none."""
    samples = _samples(_page(metrics_url, timeout), name)
    return sum(value for labels, value in samples if labels.get("model") == model)


def parse_provenance(text: str, model: str, version: str = "") -> dict[str, str]:
    """As `read_provenance`, of a metrics page, and of one version if it is given.

    Where instances on several devices answer, their labels stand side by side, as in "cpu, emulator".
    """
    merged: dict[str, list[str]] = {}
    for labels in _answering(text, "fpga_model_info"):
        if labels.get("model") == model and version in ("", labels.get("version")):
            for name, value in labels.items():
                merged.setdefault(name, []).append(value)
    return {name: ", ".join(dict.fromkeys(values)) for name, values in merged.items()}


def _answering(text: str, name: str) -> Iterator[dict[str, str]]:
    """Labels of every gauge of a name that counts an instance."""
    return (labels for labels, value in _samples(text, name) if value > 0)


def _samples(text: str, name: str) -> Iterator[tuple[dict[str, str], float]]:
    """Labels and value of every sample of a name, in Prometheus' text format."""
    for metric, inside, value in _SAMPLE.findall(text):
        if metric == name:
            yield {label: _ESCAPED.sub(_unescaped, content) for label, content in _LABEL.findall(inside)}, float(value)


def _unescaped(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]


def _page(metrics_url: str, timeout: float) -> str:
    """The metrics page; empty when there is none."""
    try:
        with opener(metrics_url).open(metrics_url, timeout=timeout) as answer:
            return str(answer.read().decode())
    except (OSError, ValueError, ConfigurationError):  # metrics are often closed to the public
        return ""


def find_metrics(url: ServerUrl) -> str:
    """URL of a server's metrics page; "" where it cannot be known.

    On Triton's own ports (8000, 8001) that is port 8002 of the same host. For other ports on this machine, it is what
    the command line of the process says that listens there, if it is this user's (Linux).
    """
    if url.protocol == "local":
        return ""
    port = _port_of_process(url.port) if url.is_loopback else 0
    if not port and url.port in _TRITON_PORTS:
        port = _TRITON_METRICS_PORT
    return f"http://{ServerUrl('http', url.host, port).address}/metrics" if port else ""


def _port_of_process(port: int) -> int:
    """The `--metrics-port` of the tritonserver that listens on a port of this machine; 0 if none can be seen."""
    sockets = {f"socket:[{inode}]" for user, inode in listeners(port) if user == os.getuid()}
    if not sockets:
        return 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = re.search(rb"--metrics-port[=\0](\d+)", (process / "cmdline").read_bytes())
            if told and any(str(file.readlink()) in sockets for file in (process / "fd").iterdir()):
                return int(told[1])
        except OSError:  # ended meanwhile, or somebody else's
            continue
    return 0


class ModelMetrics:
    """What the metrics page of one server says of one model, at most 5 s old. Picklable; any thread may ask.

    Args:
        url: The server.
        model: The model.
        page: URL of the page; "" finds it, see `find_metrics`.
    """

    def __init__(self, url: ServerUrl, model: str, page: str = "") -> None:
        self._url = url
        self._model = model
        self._page = page
        self._text = ""
        self._asked_again = 0.0
        self._lock = threading.Lock()

    def provenance(self, version: str) -> dict[str, str]:
        """Labels of what answers for a version now; empty when nothing says. Takes up to 1 s when it has to ask."""
        return parse_provenance(self._fresh(), self._model, version)

    def working_points(self, version: str) -> list[dict[str, str]]:
        """Labels of every gauge `fpga_working_point` of a version: efficiency, threshold, temperature, label."""
        told = _answering(self._fresh(), "fpga_working_point")
        return [labels for labels in told if (labels.get("model"), labels.get("version")) == (self._model, version)]

    def _fresh(self) -> str:
        with self._lock:
            now = time.monotonic()
            if now >= self._asked_again:
                self._page = self._page or find_metrics(self._url)
                self._text = _page(self._page, _PATIENCE_S) if self._page else ""
                self._asked_again = time.monotonic() + (_FRESH_S if self._text else _ABSENT_S)
            return self._text

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"} | {"_asked_again": 0.0}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
