"""The tools of `bench service`: link, load generator, report; the measurements themselves need a quiet machine."""

from __future__ import annotations

import json
import socket
import threading
import time
from argparse import ArgumentParser
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from sonic_client.core.server_metrics import parse_provenance
from sonic_client.errors import ClientError
from sonic_client.events.jets import prepare
from tests.clients.fake_server import FakeTriton, serving
from triton_fpga_bench.service import command, far_link, inputs, report
from triton_fpga_bench.service.client_load import Load, measure
from triton_fpga_bench.service.light_load import Generator, Job


@pytest.fixture
def rows(tmp_path: Path) -> str:
    np.save(tmp_path / "rows.npy", inputs.constituents(None))
    return str(tmp_path / "rows.npy")


def test_closed_loop_counts_what_was_answered(rows: str, tmp_path: Path) -> None:
    fake = FakeTriton(delay=0.02)
    with serving(fake) as (_, address):
        found = measure(Load(f"grpc://{address}/top_tagger", rows, 1.0, connections=4, warm_up=0.2), tmp_path)
    assert found.failures == 0
    assert found.p50_ms >= 20.0
    assert found.bytes_per_inference == 3200
    assert 10 < found.throughput_per_s <= 200
    assert found.throughput_per_s == pytest.approx(found.requests / 1.0)


def test_open_loop_counts_from_when_a_request_was_due(rows: str, tmp_path: Path) -> None:
    lock = threading.Lock()

    def one_at_a_time(number: int, request: object, context: object) -> None:
        with lock:
            time.sleep(0.02)

    with serving(FakeTriton(behaviour=one_at_a_time)) as (_, address):
        url = f"grpc://{address}/top_tagger"
        overloaded = measure(Load(url, rows, 1.0, rate=100.0, warm_up=0.0), tmp_path)
    assert overloaded.p99_ms > 300.0  # 100/s offered, 50/s served: the last ones were due long before


@pytest.mark.parametrize("jets", [1, 300], ids=["one jet", "beyond every window"])
def test_the_light_generator_sends_whole_requests_over_all_its_connections(jets: int) -> None:
    fake = FakeTriton()
    values = np.arange(jets * 800, dtype=np.float32).reshape(jets, 200, 4)
    body = inputs.encode("top_tagger", "constituents", values)
    with serving(fake) as (_, address), Generator(address, body, 4, niceness=0) as generator:
        closed = generator.run(Job(3.0, 0.1, in_flight=8))
        opened = generator.run(Job(0.5, 0.0, rate=20.0))
    assert closed.ended == {"ok": closed.sent}
    assert opened.ended == {"ok": 10}
    assert closed.sent > 8
    assert closed.answers_per_s > 0
    assert len(fake.requests) == closed.sent + opened.sent
    assert all(one == service_pb2.ModelInferRequest.FromString(body) for one in fake.requests)
    assert fake.requests[0].raw_input_contents[0] == values.tobytes()
    assert len(set(fake.peers)) == 4
    assert fake.most_under_way <= 8


def test_the_light_generator_tells_how_requests_ended_and_that_it_did() -> None:
    def refuse(number: int, request: object, context: grpc.ServicerContext) -> None:
        if number % 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, "full")
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")

    body = service_pb2.ModelInferRequest(model_name="top_tagger").SerializeToString()
    with serving(FakeTriton(behaviour=refuse)) as (server, address), Generator(address, body, niceness=0) as generator:
        ended = generator.run(Job(0.2, 0.0, in_flight=2)).ended
        server.stop(0).wait(5)
        with pytest.raises(ClientError, match="ended with code"):
            generator.run(Job(0.2, 0.0, in_flight=2))
    assert set(ended) == {"UNAVAILABLE", "3"}
    assert abs(ended["UNAVAILABLE"] - ended["3"]) <= 2


def test_images_and_constituents_are_valid_inputs() -> None:
    images = inputs.images((3, 224, 224))
    assert np.allclose(images.sum(axis=(2, 3)), 1.0, rtol=1e-5)
    rows = inputs.constituents(None)
    assert prepare(rows).good.all()


@pytest.mark.skipif(far_link.why_not() != "", reason=f"no link here: {far_link.why_not()}")
def test_the_link_delays_every_packet() -> None:
    with far_link.Link(40.0) as wan:
        with far_link.inside(wan.server):
            listener = socket.create_server((far_link.SERVER_ADDRESS, 5000))
        with far_link.inside(wan.client):
            began = time.monotonic()
            client = socket.create_connection((far_link.SERVER_ADDRESS, 5000), timeout=20)
            assert 0.04 <= time.monotonic() - began < 10
        server, _ = listener.accept()
        began = time.monotonic()
        client.sendall(b"x" * 100_000)
        received = 0
        while received < 100_000:
            received += len(server.recv(65536))
        assert time.monotonic() - began >= 0.02
        assert wan.change(0.0)["to_server"] > 100_000
        began = time.monotonic()
        for _ in range(20):
            client.sendall(b"x")
            server.recv(1)
        assert time.monotonic() - began < 20 * 0.02  # it would take that long at the old distance
        for end in (client, server, listener):
            end.close()


def test_the_model_that_answers_is_read_from_the_metrics() -> None:
    page = (
        'fpga_model_info{device="fpga",kernel="a",model="top_tagger",precision="int8",version="1"} 0.000000\n'
        'fpga_model_info{device="cpu",kernel="b",model="top_tagger",precision="int8",version="1"} 1.000000\n'
    )
    assert parse_provenance(page, "top_tagger")["device"] == "cpu"
    assert parse_provenance(page, "other") == {}


def test_the_report_says_what_was_measured(tmp_path: Path) -> None:
    point = {
        "requests": 10, "answered": 12, "failures": 0, "throughput_per_s": 100.0, "mean_ms": 9.0, "p50_ms": 8.0,
        "p99_ms": 20.0,
        "bytes_per_inference": 3200.0, "repeated": 0,
    }  # fmt: skip
    parts = dict.fromkeys(
        ("client_ms", "network_ms", "queue_ms", "input_ms", "python_ms", "device_ms", "output_ms", "server_other_ms"),
        0.5,
    )
    ways = dict.fromkeys(("bare", "grpc", "grpc_shared_memory", "http", "http_shared_memory", "plain", "least"), 5.0)
    numbers = {
        "device": "cpu", "precision": "int8", "machine": "m", "command": "c", "date": "d",
        "table": [{"what": "published: GPU", "ms_per_image": 7.0, "images_per_s": 143.0}],
        "latency": {"top_tagger": {"median_ms": ways}},
        "scaling": {"top_tagger": {
            "closed_loop": [{"connections": n} | point for n in (1, 8)],
            "open_loop": [{"offered_per_s": 50.0, "load": 0.5} | point],
            "saturation_connections": 1, "most_per_s": 100.0,
        }},
        "remote": {"top_tagger": {"throughput_ratio": 0.97, "points": [
            {"rtt_ms": rtt, "one_in_flight": point, "many_in_flight": point, "link_mbit_per_s": 2.0,
             "link_bytes_per_inference": 3400.0}
            for rtt in (0.0, 60.0)
        ]}},
        "breakdown": {"top_tagger": parts | {"total_ms": 4.0}},
        "overlap": {"top_tagger": {"device_ms": 2.0, "host_ms": 0.5, "per_s": {
            "one batch at a time": {1: 250.0, 8: 330.0}, "overlapped": {1: 260.0, 8: 470.0},
        }}},
        "summary": {"added_ms_constituents": 0.4, "added_ms_image": None},
    }  # fmt: skip
    report.write(numbers, tmp_path)
    text = (tmp_path / "report.md").read_text()
    for words in (
        "published: GPU",
        "Saturated from 1",
        "far over near | | 0.970",
        "| total | 4.000 |",
        "| None |",
        "2 ms for each image, 500 a second at the most",
        "| top_tagger | overlapped | 260 | 470 |",
    ):
        assert words in text
    assert {p.name for p in tmp_path.iterdir()} == {
        "report.md", "report.json", "scaling_top_tagger.png", "breakdown.png", "remote.png",
    }  # fmt: skip


@pytest.mark.server
def test_the_command_on_a_tiny_model(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    command.register(parser)
    arguments = ["--quick", "--json", "--only", "latency", "breakdown", "overlap", "--device", "reference"]
    models = tmp_path / "models"
    models.mkdir()
    (models / "top_tagger").symlink_to(repository / "top_tagger")
    arguments += ["--model-repository", str(models), "--output", str(tmp_path)]
    assert command.run(parser.parse_args(arguments)) == 0
    summary = json.loads(capsys.readouterr().out)
    assert {
        "added_ms_image", "added_ms_constituents", "throughput_ratio_8_clients", "bytes_per_inference",
        "remote_throughput_ratio",
    } <= set(summary)  # fmt: skip
    assert summary["bytes_per_inference"] == 3200
    assert summary["remote_throughput_ratio"] is None
    assert summary["added_ms_constituents_least"] is not None
    assert summary["added_ms_image_least"] is None
    assert summary["pretended_device_per_s"] > 0
    assert summary["pretended_device_per_s_image"] is None
    assert "Where the time goes" in (tmp_path / "report.md").read_text()
