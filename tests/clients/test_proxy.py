"""A site's `http_proxy`: never for this machine and names without a dot, else used, and named when it fails."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import numpy as np
import pytest

from sonic_client import Client, ConfigurationError, Retry, ServerUnavailableError
from sonic_client.core.proxy import find_proxy
from sonic_client.core.server_metrics import read_provenance
from sonic_client.core.url import parse
from tests.clients.fake_server import FakeTriton, score, serving
from tests.clients.jets import random_jets
from tests.support.forward_proxy import forward_proxy
from triton_server import TritonServer

INPUT = {"constituents": np.random.default_rng(0).normal(size=(1, 200, 4)).astype(np.float32)}
FAST = Retry(0.001, 0.01, attempts=2)
SITE = "http://squid.site.org:3128"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("url", "variables", "expected"),
    [
        ("grpc://triton.site.org", {"http_proxy": SITE}, "http_proxy"),
        ("http://triton.site.org", {"HTTP_PROXY": SITE}, "http_proxy"),
        ("grpcs://triton.site.org", {"http_proxy": SITE}, ""),
        ("grpcs://triton.site.org", {"http_proxy": "http://other:1", "https_proxy": SITE}, "https_proxy"),
        ("https://triton.site.org", {"https_proxy": "squid.site.org:3128"}, "https_proxy"),
        ("grpc://triton.site.org", {"grpc_proxy": SITE, "http_proxy": "http://other:1"}, "grpc_proxy"),
        ("http://triton.site.org", {"grpc_proxy": SITE}, ""),
        ("grpc://triton.site.org", {"all_proxy": SITE}, "all_proxy"),
        ("grpc://10.1.2.3", {"http_proxy": SITE}, "http_proxy"),
        ("grpc://[2001:db8::1]", {"http_proxy": SITE}, "http_proxy"),
        ("grpc://localhost", {"http_proxy": SITE}, ""),
        ("grpc://127.0.0.2", {"http_proxy": SITE}, ""),
        ("http://[::1]", {"http_proxy": SITE}, ""),
        ("http://triton", {"http_proxy": SITE, "grpc_proxy": SITE}, ""),
        ("grpc://triton.site.org", {"http_proxy": SITE, "no_proxy": "site.org"}, ""),
        ("grpc://triton.site.org", {"http_proxy": SITE, "no_proxy": "other.org, .site.org"}, ""),
        ("grpc://triton.site.org", {"http_proxy": SITE, "NO_PROXY": "*"}, ""),
        ("grpc://triton.site.org:8001", {"http_proxy": SITE, "no_proxy": "triton.site.org:8001"}, ""),
        ("grpc://10.1.2.3", {"http_proxy": SITE, "no_proxy": "10.0.0.0/8"}, ""),
        ("grpc://11.1.2.3", {"http_proxy": SITE, "no_proxy": "10.0.0.0/8"}, "http_proxy"),
        ("grpc://[2001:db8::1]", {"http_proxy": SITE, "no_proxy": "2001:db8::/32"}, ""),
    ],
)
def test_which_proxy(monkeypatch: pytest.MonkeyPatch, url: str, variables: dict[str, str], expected: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    proxy = find_proxy(parse(url).server)
    assert (proxy.variable if proxy else "") == expected
    assert proxy is None or proxy.url == SITE


@pytest.mark.parametrize("value", ["socks5://squid.site.org:1080", "https://squid.site.org:3128", "http://squid:port"])
def test_other_proxies_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("http_proxy", value)
    with Client("grpc://triton.site.org/top_tagger") as client, pytest.raises(ConfigurationError, match="http_proxy"):
        client.infer(INPUT)


def test_grpc_goes_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTriton()
    with serving(fake) as (_, address), forward_proxy(address) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//me:pa%3Ass@"))
        with Client("grpc://triton.site.org:8001/top_tagger") as client:
            for _ in range(2):  # by the event loop, and from this thread
                reply = client.infer(INPUT)
                assert np.array_equal(reply.outputs["probabilities"], score(INPUT["constituents"]))
    assert set(proxy.seen) == {"triton.site.org:8001"}
    assert set(proxy.credentials) == {"Basic " + base64.b64encode(b"me:pa:ss").decode()}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_grpc_on_this_machine_does_not(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    fake = FakeTriton()
    with serving(fake) as (_, address), forward_proxy(address) as proxy:
        for name in ("http_proxy", "https_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, proxy.url)
        with Client(f"grpc://{host}:{address.rpartition(':')[2]}/top_tagger") as client:
            for _ in range(2):
                assert client.infer(INPUT).attempts == 1
    assert proxy.seen == []


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_proxy_that_refuses_is_named(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    with forward_proxy("127.0.0.1:9", refuse=502) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//me:secret@"))
        with (
            Client(f"{scheme}://triton.site.org/top_tagger", retry=FAST, warm_up=0.3) as client,
            pytest.raises(ServerUnavailableError) as caught,
        ):
            client.infer(INPUT)
        where = re.escape(f"asked through the proxy {proxy.url.removeprefix('http://')} (http_proxy)")
        assert re.search(where, str(caught.value))
        assert "secret" not in str(caught.value)
        assert proxy.seen


@pytest.mark.server
def test_http_and_metrics(monkeypatch: pytest.MonkeyPatch, triton: TritonServer, grpc_url: str, http_url: str) -> None:
    jets = random_jets(5)
    with Client(f"{grpc_url}/top_tagger") as client:
        expected = client.tag(jets)
    with forward_proxy(triton.http_url) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        with Client(f"{http_url}/top_tagger") as client:
            assert np.array_equal(client.tag(jets), expected)
        assert read_provenance(triton.metrics_url, "top_tagger")["device"] == "reference"
        assert proxy.seen == []
        with Client("http://triton.site.org:8000/top_tagger") as client:
            assert np.array_equal(client.tag(jets), expected)
        assert set(proxy.seen) == {"triton.site.org:8000"}


@pytest.mark.server
def test_a_server_of_ours_starts_behind_a_proxy(monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    with forward_proxy("127.0.0.1:9", refuse=403) as proxy:
        for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        with TritonServer(repository, auto_complete=None) as server:
            assert server.control.model_ready("top_tagger")
    assert proxy.seen == []
