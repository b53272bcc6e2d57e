"""The supervisor's end point, over HTTP, with a supervisor whose server does not run."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.backends.supervisor.conftest import health
from triton_server.server.server import TritonServer
from triton_server.supervisor.health_endpoint import HealthServer
from triton_server.supervisor.models import ModelState
from triton_server.supervisor.restarts import Request
from triton_server.supervisor.supervisor import Supervisor

HOSTILE = '<img src=x onerror="alert(1)">'


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    """As if its server ran: two models, one of them on its last resort, after one restart."""
    monkeypatch.setattr(TritonServer, "running", True)
    made = Supervisor(TritonServer(tmp_path))
    one = health(state=ModelState.SERVING, device="cpu", choice="first", probe_s=0.0015)
    two = health("other", state=ModelState.SLOW, device="reference", choice="last", failovers=1)
    made.models.replace({one.key: one, two.key: two}, {"bad": HOSTILE}, {one.key, two.key}, ())
    made.restarts.came_up()
    made.restarts.went_down(Request("dead", "a stub"))
    made.restarts.came_up(Request("dead", "a stub"))
    return made


@pytest.fixture
def server(supervisor: Supervisor) -> Iterator[HealthServer]:
    made = HealthServer(supervisor, "127.0.0.1", 0)
    yield made
    made.close()


def ask(server: HealthServer, method: str, path: str) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body, answer.headers


def test_the_last_resort_is_told_and_counts_under_a_strict_rule(supervisor: Supervisor, server: HealthServer) -> None:
    status, body, _ = ask(server, "GET", "/ready")
    told = json.loads(body)
    assert (status, told["ready"], told["degraded"]) == (200, True, True)
    assert {row["model"]: row["degraded"] for row in told["models"]} == {"tiny": False, "other": True}
    assert json.loads(ask(server, "GET", "/ready/other")[1])["degraded"]
    assert "triton_fpga_degraded 1.0" in ask(server, "GET", "/metrics")[1]
    strict = Supervisor(supervisor.server, strict_device=True)
    strict.models = supervisor.models
    strict.restarts.came_up()
    assert not strict.ready
    assert strict.reasons == ["other version 1: serves on reference, which is not its first device"]


def test_nothing_is_ready_while_a_restart_is_due(supervisor: Supervisor, server: HealthServer) -> None:
    """The model that is at fault may not have been judged yet, and the others will be away in a moment."""
    assert ask(server, "GET", "/ready/tiny")[0] == 200
    supervisor.restarts.ask("dead", "the stub of tiny_0 has ended", supervisor.restarts.generation)
    status, body, _ = ask(server, "GET", "/ready")
    assert (status, json.loads(body)["reasons"]) == (503, ["a restart is due (dead: the stub of tiny_0 has ended)"])
    assert [ask(server, "GET", f"/ready/{model}")[0] for model in ("tiny", "other")] == [503, 503]
    supervisor.restarts.went_down(supervisor.restarts.requests[0])
    supervisor.restarts.came_up(Request("dead", "a stub"))
    assert ask(server, "GET", "/ready")[0] == 200


@pytest.mark.parametrize(
    "path", ["/", "/live", "/ready", "/ready/tiny", "/ready/nothing", "/status", "/metrics", "/no"]
)
def test_head_is_get_without_the_body(server: HealthServer, path: str) -> None:
    status, body, headers = ask(server, "GET", path)
    head, nothing, same = ask(server, "HEAD", path)
    assert (head, nothing, same["Content-Type"]) == (status, "", headers["Content-Type"])
    assert body


def test_metrics_are_what_prometheus_reads(server: HealthServer) -> None:
    text = ask(server, "GET", "/metrics")[1]
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["triton_fpga_restarts_total", (("cause", "dead"),)] == 1
    key = (("model", "tiny"), ("version", "1"))
    assert samples["triton_fpga_model_state", (("model", "tiny"), ("state", "serving"), ("version", "1"))] == 1
    assert samples["triton_fpga_probe_seconds", key] == 0.0015
    assert samples["triton_fpga_refused_models", ()] == 1
    assert samples["triton_fpga_ready", ()] == 1


def test_a_thread_that_fails_is_a_state_a_metric_and_not_ready(supervisor: Supervisor, server: HealthServer) -> None:
    def fault() -> None:
        raise KeyError("outputs")

    supervisor.threads.start("prober", fault)
    while supervisor.threads.state("prober") != "failed":  # the test's own time-out bounds it
        pass
    status, body, _ = ask(server, "GET", "/ready")
    assert (status, json.loads(body)["reasons"]) == (503, ["thread prober: failed"])
    text = ask(server, "GET", "/metrics")[1]
    assert 'triton_fpga_thread_state{state="failed",thread="prober"} 1.0' in text
    assert 'triton_fpga_thread_faults_total{thread="prober"} 1.0' in text
    assert ask(server, "GET", "/live")[0] == 200, "it goes on"
    supervisor.stop()


def test_the_page_loads_nothing_from_elsewhere(server: HealthServer) -> None:
    status, body, headers = ask(server, "GET", "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "://" not in body.replace("http://www.w3.org/2000/svg", "")
