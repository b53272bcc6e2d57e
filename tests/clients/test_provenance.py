"""`Reply.provenance`: from the answer itself where the server can say it, else from the metrics page."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from sonic_client import Client, prepare
from sonic_client.core.admin_key import ADMIN_HEADER
from sonic_client.core.server_metrics import ModelMetrics, find_metrics, parse_provenance, read_metric
from sonic_client.core.url import parse
from tests.clients.fake_server import FakeTriton, serving
from tests.clients.jets import random_jets
from tests.clients.test_session import INPUT
from tests.support.http_server import answering
from triton_server import TritonServer
from triton_server.server import admin_key

PAGE = """# TYPE fpga_model_info gauge
fpga_model_info{model="top_tagger",version="1",device="cpu",precision="int8",kernel="old"} 0
fpga_model_info{model="top_tagger",version="2",device="fpga",precision="int8",kernel="abc",isa="avx2"} 2
fpga_model_info{model="other",version="2",device="gpu",precision="int8",kernel="def"} 1
"""


@contextmanager
def metrics_page(text: str) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Silence."""

    with answering(Handler) as port:
        yield f"http://127.0.0.1:{port}/metrics"


def test_from_the_answer() -> None:
    said = {"device": "fpga:0", "precision": "int8", "kernel": "0123abcd", "version": "1", "isa": "avx512_vnni"}
    with serving(FakeTriton(parameters=said)) as (_, address), Client(address, "top_tagger") as client:
        for _ in range(2):  # by the event loop, and from this thread
            assert client.infer(INPUT).provenance == said


def test_from_the_metrics() -> None:
    with (
        metrics_page(PAGE.replace('version="2",device="fpga"', 'version="1",device="fpga"')) as url,
        serving(FakeTriton()) as (_, address),
        Client(address, "top_tagger", metrics_url=url) as client,
    ):
        reply = client.infer(INPUT)
        expected = {"device": "fpga", "precision": "int8", "kernel": "abc", "version": "1", "isa": "avx2"}
        assert reply.provenance == expected
        assert pickle.loads(pickle.dumps(reply)).provenance == expected  # noqa: S301


def test_what_nobody_says_is_empty() -> None:
    with serving(FakeTriton()) as (_, address), Client(address, "top_tagger") as client:
        assert client.infer(INPUT).provenance == {"device": "", "precision": "", "kernel": "", "version": "1"}


def test_only_what_answers_counts() -> None:
    assert parse_provenance(PAGE, "top_tagger")["kernel"] == "abc"
    assert parse_provenance(PAGE, "top_tagger", "1") == {}
    assert parse_provenance(PAGE, "top_tagger", "2")["isa"] == "avx2"
    two = PAGE.replace("} 0", "} 1").replace('version="1"', 'version="2"')
    assert parse_provenance(two, "top_tagger", "2")["device"] == "cpu, fpga"


@pytest.mark.parametrize("name", ["a}b", 'a"b', "a\\b", "a\nb", 'x",version="9', "{}", "a b", "ü"])
def test_names_that_need_care(name: str) -> None:
    """What the usual writer of this format writes is read back."""
    registry = CollectorRegistry()
    gauge = Gauge("fpga_model_info", "What answers.", ["model", "device"], registry=registry)
    gauge.labels(model=name, device="cpu").set(1)
    gauge.labels(model="other", device=name).set(1e-3)
    text = generate_latest(registry).decode()
    assert parse_provenance(text, name) == {"model": name, "device": "cpu"}
    assert parse_provenance(text, "other")["device"] == name
    with metrics_page(text) as url:
        assert read_metric(url, "fpga_model_info", "other") == 1e-3


@pytest.mark.parametrize("line", ["} NaN", "} 1 1700000000000", "} +Inf\r", "} ", "} one", " 1", ""])
def test_lines_that_are_none_or_say_more(line: str) -> None:
    text = 'fpga_model_info{model="m",device="cpu"' + line + '\nfpga_model_info{model="m",device="fpga"} 1\n'
    expected = "cpu, fpga" if line.startswith(("} 1", "} +Inf")) else "fpga"
    assert parse_provenance(text, "m")["device"] == expected


@pytest.mark.parametrize(
    ("url", "page"),
    [
        ("grpc://triton.site.org:8001/m", "http://triton.site.org:8002/metrics"),
        ("http://triton.site.org:8000/m", "http://triton.site.org:8002/metrics"),
        ("grpc://triton.site.org:9001/m", ""),
        ("grpc://127.0.0.1:9/m", ""),
    ],
)
def test_where_the_page_is(url: str, page: str) -> None:
    assert find_metrics(parse(url).server) == page


def test_a_page_that_does_not_answer_is_not_asked_for_each_reply() -> None:
    metrics = ModelMetrics(parse("grpc://127.0.0.1:1").server, "m", "http://127.0.0.1:9/metrics")
    assert metrics.provenance("1") == {}
    metrics._page = "http://never.asked.invalid/"
    assert metrics.provenance("1") == {}


@pytest.mark.server
def test_of_a_real_server(triton: TritonServer, grpc_url: str, http_url: str) -> None:
    assert find_metrics(parse(grpc_url).server) == triton.metrics_url
    tensor = next(prepare(random_jets(1)).chunks(1))
    for url in (grpc_url, http_url):
        with Client(f"{url}/top_tagger") as client:
            said = client.infer({"constituents": tensor}).provenance
        assert (said["device"], said["precision"], said["version"]) == ("reference", "int8", "1")
        assert said["kernel"]


def test_the_admin_keys_of_server_and_client_are_one() -> None:
    assert ADMIN_HEADER == admin_key.ADMIN_HEADER
