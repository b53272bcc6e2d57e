"""The supervisor's own end point for load balancers, systemd, Docker and Prometheus: truthful where Triton's is not.

GET /live      200 while the supervisor works
GET /ready     200 when every loaded model gave its known answer, else 503 with the reason
GET /ready/M   the same for one model
GET /status    everything, as JSON
GET /metrics   the same for Prometheus
"""

import threading
from http import HTTPStatus
from urllib.parse import unquote

from triton_server.errors import ServerStartError
from triton_server.server.control_api import Json
from triton_server.supervisor.listener import JsonHandler, Listener
from triton_server.supervisor.supervisor import ModelState, Supervisor

_SERVES = {str(ModelState.SERVING), str(ModelState.SLOW), str(ModelState.BUSY)}


class HealthServer:
    """Serves the end point in a thread until ``close``."""

    def __init__(self, supervisor: Supervisor, address: str, port: int) -> None:
        try:
            self._server = _Server(supervisor, address, port)
        except OSError as error:
            raise ServerStartError(f"cannot listen on {address}:{port} for health: {error.strerror}") from error
        self.port = self._server.port
        threading.Thread(target=self._server.serve_forever, args=(0.2,), name="health", daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


class _Server(Listener):
    def __init__(self, supervisor: Supervisor, address: str, port: int) -> None:
        self.supervisor = supervisor
        super().__init__(address, port, _Handler)


class _Handler(JsonHandler):
    server: _Server

    def do_GET(self) -> None:  # noqa: N802 - the name of the base class
        status = self.server.supervisor.status()
        path = self.path.partition("?")[0].rstrip("/")
        if path == "/live":
            self._judge(status["live"], {"live": status["live"]})
        elif path == "/ready":
            self._judge(status["ready"], status)
        elif path.startswith("/ready/"):
            model = unquote(path.removeprefix("/ready/"))
            versions = [entry for entry in status["models"] if entry["model"] == model]
            good = status["up"] and bool(versions) and all(entry["state"] in _SERVES for entry in versions)
            self._judge(good, {"ready": good, "versions": versions})
        elif path == "/status":
            self.send(HTTPStatus.OK, status)
        elif path == "/metrics":
            self.send(HTTPStatus.OK, metrics(status))
        else:
            self.send(HTTPStatus.NOT_FOUND, {"error": "there are /live, /ready, /ready/<model>, /status, /metrics"})

    def _judge(self, good: bool, content: Json) -> None:
        self.send(HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE, content)


def metrics(status: Json) -> str:
    """The status in Prometheus' text format."""
    lines = [
        "# HELP triton_fpga_up Whether the model server runs",
        "# TYPE triton_fpga_up gauge",
        f"triton_fpga_up {int(status['up'])}",
        "# HELP triton_fpga_ready Whether every loaded model gives its known answer",
        "# TYPE triton_fpga_ready gauge",
        f"triton_fpga_ready {int(status['ready'])}",
        "# HELP triton_fpga_last_outage_seconds Length of the last outage",
        "# TYPE triton_fpga_last_outage_seconds gauge",
        f"triton_fpga_last_outage_seconds {status['last_outage_s']}",
        "# HELP triton_fpga_restarts_total Restarts of the server by cause",
        "# TYPE triton_fpga_restarts_total counter",
        *(f'triton_fpga_restarts_total{{cause="{cause}"}} {count}' for cause, count in status["restarts"].items()),
        "# HELP triton_fpga_model_state State of each served version by its known answer (1 for the current one)",
        "# TYPE triton_fpga_model_state gauge",
    ]
    for entry in status["models"]:
        label = f'model="{entry["model"]}",version="{entry["version"]}"'
        lines += [
            f'triton_fpga_model_state{{{label},state="{state}"}} {int(entry["state"] == state)}' for state in ModelState
        ]
    lines += [
        "# HELP triton_fpga_probe_seconds Time of the last known-answer inference through the server",
        "# TYPE triton_fpga_probe_seconds gauge",
    ]
    for entry in status["models"]:
        label = f'model="{entry["model"]}",version="{entry["version"]}"'
        lines.append(f"triton_fpga_probe_seconds{{{label}}} {entry['probe_ms'] / 1e3}")
    lines += [
        "# HELP triton_fpga_failovers Devices taken out of service since the server started",
        "# TYPE triton_fpga_failovers gauge",
    ]
    for entry in status["models"]:
        label = f'model="{entry["model"]}",version="{entry["version"]}"'
        lines.append(f"triton_fpga_failovers{{{label}}} {entry['failovers']}")
    lines += [
        "# HELP triton_fpga_refused_models Models in the repository that are not served because they are faulty",
        "# TYPE triton_fpga_refused_models gauge",
        f"triton_fpga_refused_models {len(status['refused'])}",
    ]
    return "\n".join(lines) + "\n"
