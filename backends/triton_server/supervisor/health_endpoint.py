"""The supervisor's own end point for people, load balancers, systemd and Prometheus: truthful where Triton's is not.

GET /          a page for people
GET /live      200 while the supervisor works
GET /ready     200 when every loaded model gave its known answer, else 503 with the reasons
GET /ready/M   the same for one model
GET /status    everything, as JSON
GET /metrics   the same for Prometheus

HEAD gives the same without the body.
"""

import base64
import hashlib
import re
import threading
from collections.abc import Iterator
from http import HTTPStatus
from importlib.resources import files
from urllib.parse import unquote

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from triton_server.errors import ServerStartError
from triton_server.server.control_api import Json
from triton_server.supervisor.listener import JsonHandler, Listener
from triton_server.supervisor.models import ModelState
from triton_server.supervisor.supervisor import Supervisor
from triton_server.supervisor.threads import ThreadState


def page_headers(page: str) -> dict[str, str]:
    """Headers that let the page run its own script and style, named by their hashes, and nothing else whatever."""
    hashes = {}
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        hashes[tag] = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{hashes['script']}'; style-src 'sha256-{hashes['style']}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }


class HealthServer:
    """Serves the end point in a thread until ``close``."""

    def __init__(self, supervisor: Supervisor, address: str, port: int) -> None:
        try:
            self._server = _Server(supervisor, address, port)
        except OSError as error:
            raise ServerStartError(f"cannot listen on {address}:{port} for health: {error.strerror}") from error
        self.port = self._server.port
        threading.Thread(target=self._server.serve_on, name="health", daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


class _Server(Listener):
    def __init__(self, supervisor: Supervisor, address: str, port: int) -> None:
        self.supervisor = supervisor
        self.page = files("triton_server.supervisor").joinpath("page.html").read_text(encoding="utf-8")
        self.page_headers = page_headers(self.page)
        super().__init__(address, port, _Handler)


class _Handler(JsonHandler):
    server: _Server

    def do_GET(self) -> None:  # noqa: N802 - the name of the base class
        path = self.path.partition("?")[0].rstrip("/")
        if not path:
            self.send(HTTPStatus.OK, self.server.page, self.server.page_headers, kind="text/html; charset=utf-8")
            return
        status = self.server.supervisor.status()
        if path == "/live":
            self._judge(status["live"], {"live": status["live"], "threads": status["threads"]})
        elif path == "/ready":
            self._judge(status["ready"], status)
        elif path.startswith("/ready/"):
            model = unquote(path.removeprefix("/ready/"))
            versions = [entry for entry in status["models"] if entry["model"] == model]
            good = status["up"] and bool(versions) and all(ModelState(entry["state"]).serves for entry in versions)
            degraded = any(entry["degraded"] for entry in versions)
            self._judge(good, {"ready": good, "degraded": degraded, "versions": versions})
        elif path == "/status":
            supervisor = self.server.supervisor
            more = {"activity": supervisor.activity.rows(), "events": supervisor.events()}
            self.send(HTTPStatus.OK, {**status, **more})
        elif path == "/metrics":
            self.send(HTTPStatus.OK, metrics(status))
        else:
            known = "/, /live, /ready, /ready/<model>, /status, /metrics"
            self.send(HTTPStatus.NOT_FOUND, {"error": f"there are {known}"})

    do_HEAD = do_GET  # noqa: N815 - the name of the base class

    def _judge(self, good: bool, content: Json) -> None:
        self.send(HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE, content)


def metrics(status: Json) -> str:
    """The status in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Status(status))
    return generate_latest(registry).decode()


def metrics_of_nothing() -> str:
    """The same without a model, for their names and descriptions."""
    return metrics({
        "up": False, "ready": False, "degraded": False, "last_outage_s": 0.0, "refused": {}, "restarts": {},
        "threads": [], "models": [],
    })  # fmt: skip


class _Status(Collector):
    def __init__(self, status: Json) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """One family after the other."""
        status = self._status
        yield _gauge("up", "Whether the model server runs", status["up"])
        yield _gauge("ready", "Whether every loaded model gives its known answer", status["ready"])
        yield _gauge("degraded", "Whether a model serves on the last of its devices", status["degraded"])
        yield _gauge("last_outage_seconds", "Length of the last outage", status["last_outage_s"])
        yield _gauge(
            "refused_models", "Models in the repository that are not served because they are faulty",
            len(status["refused"]),
        )  # fmt: skip
        restarts = CounterMetricFamily("triton_fpga_restarts", "Restarts of the server by cause", labels=["cause"])
        for cause, count in status["restarts"].items():
            restarts.add_metric([cause], count)
        yield restarts
        yield from self._threads()
        yield from self._models()

    def _threads(self) -> Iterator[Metric]:
        faults = CounterMetricFamily(
            "triton_fpga_thread_faults", "Rounds of the supervisor's threads that ended by an exception",
            labels=["thread"],
        )  # fmt: skip
        states = GaugeMetricFamily(
            "triton_fpga_thread_state", "State of the supervisor's threads (1 for the current one)",
            labels=["thread", "state"],
        )  # fmt: skip
        for row in self._status["threads"]:
            faults.add_metric([row["thread"]], row["faults"])
            for state in ThreadState:
                states.add_metric([row["thread"], str(state)], row["state"] == state)
        yield from (faults, states)

    def _models(self) -> Iterator[Metric]:
        model = ["model", "version"]
        text = "State of each served version by its known answer (1 for the current one)"
        states = GaugeMetricFamily("triton_fpga_model_state", text, labels=[*model, "state"])
        degraded = GaugeMetricFamily(
            "triton_fpga_model_degraded", "Whether the version serves on the last of its devices", labels=model
        )
        text = "Time of the last known-answer inference through the server"
        probes = GaugeMetricFamily("triton_fpga_probe_seconds", text, labels=model)
        text = "Devices taken out of service since the server started"
        failovers = GaugeMetricFamily("triton_fpga_failovers", text, labels=model)
        for row in self._status["models"]:
            key = [row["model"], row["version"]]
            for state in ModelState:
                states.add_metric([*key, str(state)], row["state"] == state)
            degraded.add_metric(key, row["degraded"])
            probes.add_metric(key, row["probe_ms"] / 1e3)
            failovers.add_metric(key, row["failovers"])
        yield from (states, degraded, probes, failovers)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"triton_fpga_{name}", text, value=value)
