"""The queueing simulation against what queueing theory knows exactly."""

import json
import math
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from triton_fpga_bench import capacity

Node = capacity.Node


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_replica_waits_as_pollaczek_and_khinchine_say(load: float) -> None:
    """M/D/1: mean wait = load / (2 (1 - load)) service times."""
    node = Node({1: 10.0}, overhead_ms=2.0)
    point = capacity.open_loop(node, 1, load * 100, inferences=60_000)
    assert point.mean_ms - 12.0 == pytest.approx(10.0 * load / (2 * (1 - load)), rel=0.08)
    assert point.busy == pytest.approx(load, rel=0.03)


def test_spread_of_the_service_time_adds_to_the_wait_as_theory_says() -> None:
    """M/G/1: the wait is (1 + spread^2) times the one of M/D/1."""
    node = Node({1: 10.0}, spread=1.0)
    point = capacity.open_loop(node, 1, 60.0, inferences=120_000)
    assert point.mean_ms - 10.0 == pytest.approx(2 * 10.0 * 0.6 / (2 * 0.4), rel=0.12)


@pytest.mark.parametrize("clients", [1, 2, 5, 50])
def test_closed_loop_follows_the_asymptotes(clients: int) -> None:
    """Throughput is at most 1/service and at most clients/(service + overhead); Little's law holds."""
    node = Node({1: 5.0}, overhead_ms=10.0)
    point = capacity.closed_loop(node, 1, clients)
    bound = min(200.0, clients / 15e-3)
    assert 0.7 * bound <= point.throughput <= 1.001 * bound
    if clients in (1, 50):
        assert point.throughput == pytest.approx(bound, rel=0.01)
    assert point.throughput * point.mean_ms / 1e3 == pytest.approx(clients, rel=0.02)


def test_batches_raise_the_throughput_under_load_and_leave_a_lone_client_alone() -> None:
    alone, batched = Node({1: 5.0}), Node({1: 5.0, 8: 20.0})
    assert capacity.closed_loop(batched, 1, 1).mean_ms == pytest.approx(5.0)
    assert capacity.closed_loop(alone, 1, 64).throughput == pytest.approx(200.0, rel=0.02)
    assert capacity.closed_loop(batched, 1, 64).throughput == pytest.approx(400.0, rel=0.02)


def test_replicas_share_the_load() -> None:
    node = Node({1: 5.0}, overhead_ms=1.0)
    one, ten = (capacity.closed_loop(node, n, 20 * n) for n in (1, 10))
    assert ten.throughput == pytest.approx(10 * one.throughput, rel=0.02)
    # With the same load per replica, more of them wait less: a request finds an idle one.
    few, many = (capacity.open_loop(node, n, 160.0 * n) for n in (1, 20))
    assert many.p99_ms < 0.5 * few.p99_ms


def test_the_fewest_replicas_are_the_fewest() -> None:
    node = Node({1: 5.0}, overhead_ms=1.0)
    point = capacity.replicas_for(node, 2500.0, 12.0)
    assert point.p99_ms <= 12.0
    assert capacity.open_loop(node, point.replicas - 1, 2500.0).p99_ms > 12.0


def test_the_highest_rate_is_the_highest() -> None:
    node = Node({1: 5.0}, overhead_ms=1.0)
    point = capacity.rate_for(node, 4, 12.0)
    assert point.p99_ms <= 12.0
    assert capacity.open_loop(node, 4, 1.03 * point.throughput).p99_ms > 12.0
    assert capacity.replicas_for(node, 0.97 * point.throughput, 12.0).replicas == 4
    with pytest.raises(ValueError, match="below what an idle replica needs"):
        capacity.rate_for(node, 4, 5.0)


def test_a_seed_gives_the_same_numbers_again() -> None:
    node = Node({1: 5.0, 4: 12.0}, spread=0.2)
    assert capacity.open_loop(node, 3, 500.0, inferences=3000, seed=7) == capacity.open_loop(
        node, 3, 500.0, inferences=3000, seed=7
    )


def test_too_much_load_is_said() -> None:
    assert math.isinf(capacity.open_loop(Node({1: 10.0}), 2, 250.0).p99_ms)


def test_times_between_measured_batches() -> None:
    node = Node({1: 4.0, 4: 10.0, 8: 16.0})
    assert [node.time_ms(n) for n in (1, 2, 4, 6, 8)] == [4.0, 6.0, 10.0, 13.0, 16.0]
    assert node.capacity == 500.0


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert capacity.main(["--service-ms", "1:5", "--clients", "10", "--replicas", "1,2", "--json"]) == 0
    points = json.loads(capsys.readouterr().out)
    assert [point["replicas"] for point in points] == [1, 2]
    assert capacity.main(["--service-ms", "1:5", "--rate", "100", "--p99-ms", "3"]) == 2
    assert "below what an idle replica needs" in capsys.readouterr().err
    for wrong in (
        ["--service-ms", "fast", "--rate", "1"],
        ["--service-ms", "1:5", "--measured", "2:100"],
        ["--rate", "1"],
        ["--service-ms", "1:5"],
    ):
        with pytest.raises(SystemExit):
            capacity.main(wrong)


def test_a_measured_curve_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    """The overhead is what one client's rate leaves; what is simulated is then its own measurement."""
    service = {1: 5.0, 8: 20.0}
    node = Node(service, overhead_ms=3.0)
    curve = {n: capacity.closed_loop(node, 1, n).throughput for n in (1, 4, 32)}
    assert capacity.overhead_ms(service, curve[1]) == pytest.approx(3.0, rel=1e-3)
    for row in capacity.compare(node, curve):
        assert row["deviation"] == pytest.approx(0.0)
    told = ",".join(f"{n}:{rate}" for n, rate in curve.items())
    assert capacity.main(["--service-ms", "1:5,8:20", "--measured", told]) == 0
    out = capsys.readouterr().out
    assert "overhead 3.00 ms" in out
    assert out.count("+0%") + out.count("-0%") == 3


def test_device_times_of_the_command_come_from_a_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(capacity, "read_statistics", lambda url, model: {1: 5.0})
    assert capacity.main(["--statistics", "http://x:1", "--clients", "1", "--replicas", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["mean_ms"] == pytest.approx(5.0)


def test_times_come_from_a_running_servers_statistics() -> None:
    def entry(batch: int, count: int, infer_ms: float) -> dict[str, object]:
        other = {"count": count, "ns": count * 250_000}
        infer = {"count": count, "ns": int(count * infer_ms * 1e6)}
        return {"batch_size": batch, "compute_input": other, "compute_infer": infer, "compute_output": other}

    answers = [{"batch_stats": [entry(1, 100, 4.5), entry(8, 10, 19.5)]}, {"batch_stats": [entry(1, 100, 6.5)]}]

    class Statistics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"model_stats": answers}).encode()
            self.send_response(200 if self.path == "/v2/models/m/stats" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Statistics) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        assert capacity.read_statistics(url, "m") == {1: 6.0, 8: 20.0}
        with pytest.raises(ValueError, match="no statistics of other"):
            capacity.read_statistics(url, "other")
        answers.clear()
        with pytest.raises(ValueError, match="executed nothing"):
            capacity.read_statistics(url, "m")
        server.shutdown()
    with pytest.raises(ValueError, match="expected http"):
        capacity.read_statistics("file:///etc/passwd", "m")
