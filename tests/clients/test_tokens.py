"""Bearer tokens and TLS against the shipped proxy: Envoy with docker/envoy/envoy-secure.yaml before a real Triton."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc

from sonic_client import AuthenticationError, Client, Tls
from tests.clients.jets import random_jets
from tests.support.expired import expired_token
from tests.support.proxy import DOCKER, Replica, running
from triton_server import TritonServer
from triton_server.supervisor.listener import JsonHandler, Listener

pytestmark = pytest.mark.server
JETS = random_jets(5)


@dataclass(frozen=True)
class Proxy:
    """The running proxy's addresses and what opens it."""

    grpc: str
    http: str
    secrets: Path

    def url(self, protocol: str) -> str:
        address = {"grpc": self.grpc, "http": self.http}[protocol]
        return f"triton+{protocol}s://{address}/top_tagger"

    @property
    def tls(self) -> Tls:
        return Tls(self.secrets / "ca.crt")

    def token(self, *options: str) -> str:
        return credentials(self.secrets, "token", "alice", *options)


def credentials(folder: Path, *arguments: str) -> str:
    command = [sys.executable, str(DOCKER / "credentials.py"), "--folder", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class Healthy(JsonHandler):
    """Stands for the supervisor, which the proxy asks whether a replica serves."""

    def do_GET(self) -> None:  # noqa: N802 - the name of the base class
        self.send(HTTPStatus.OK, {"ready": True})


@pytest.fixture(scope="module")
def proxy(triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("proxy")
    credentials(folder / "secrets", "init")
    health = Listener("127.0.0.1", 0, Healthy)
    thread = threading.Thread(target=health.serve_forever, args=(0.05,))
    thread.start()
    replica = Replica(triton.grpc_port, triton.http_port, health.port)
    try:
        with running("envoy-secure.yaml", replica, folder, folder / "secrets" / "proxy") as envoy:
            yield Proxy(f"localhost:{envoy.grpc}", f"localhost:{envoy.http}", folder / "secrets")
    finally:
        health.shutdown()
        thread.join()
        health.server_close()


@pytest.fixture(scope="module")
def expected(grpc_url: str) -> np.ndarray:
    with Client(f"{grpc_url}/top_tagger") as client:
        return np.asarray(client.tag(JETS))


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_token_opens_the_proxy(proxy: Proxy, protocol: str, expected: np.ndarray, tmp_path: Path) -> None:
    token = proxy.token()
    (tmp_path / "token").write_text(token + "\n")
    for given in (token, tmp_path / "token", lambda: token):
        with Client(proxy.url(protocol), tls=proxy.tls, token=given) as client:
            assert np.array_equal(client.tag(JETS), expected)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_other_tokens_do_not(proxy: Proxy, protocol: str, tmp_path: Path) -> None:
    good = proxy.token()
    credentials(tmp_path, "init")
    foreign = credentials(tmp_path, "token", "alice")
    tampered = good[:-20] + ("A" if good[-20] != "A" else "B") + good[-19:]
    for token in (None, foreign, expired_token(proxy.secrets), tampered):
        client = Client(proxy.url(protocol), tls=proxy.tls, token=token, warm_up=2.0)
        with client, pytest.raises(AuthenticationError, match=r"(?i)jwt|token|401"):
            client.tag(JETS)


def test_a_renewed_token_is_used_without_a_new_client(proxy: Proxy, expected: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(proxy.token())
    with Client(proxy.url("grpc"), tls=proxy.tls, token=file) as client:
        assert np.array_equal(client.tag(JETS), expected)
        file.write_text(expired_token(proxy.secrets))
        with pytest.raises(AuthenticationError):
            client.tag(JETS)
        file.write_text(proxy.token())
        assert np.array_equal(client.tag(JETS), expected)


def test_plain_tritonclient_meets_the_same_door(proxy: Proxy) -> None:
    client = tritonclient.grpc.InferenceServerClient(
        proxy.grpc, ssl=True, root_certificates=str(proxy.secrets / "ca.crt")
    )
    with client, pytest.raises(tritonclient.utils.InferenceServerException, match=r"(?i)jwt"):
        client.get_model_metadata("top_tagger")
