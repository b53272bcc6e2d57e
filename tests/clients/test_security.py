"""TLS, mutual TLS and bearer tokens, against a real Triton server that demands them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from sonic_client import AuthenticationError, Client, ConfigurationError, ServerUnavailableError, Tls
from tests.clients.jets import random_jets
from triton_server import TritonServer

pytestmark = pytest.mark.server
TOKEN = "header.payload.signature"  # noqa: S105


@dataclass(frozen=True)
class Certificates:
    folder: Path

    def __getattr__(self, name: str) -> Path:
        return self.folder / f"{name}.pem"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca_key.pem", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test CA")
    for name, extension in (
        ("server", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ("user", "extendedKeyUsage=clientAuth"),
    ):
        (folder / "extension").write_text(extension)
        openssl("req", *key, "-keyout", f"{name}_key.pem", "-out", "request.pem", "-subj", f"/CN={name}")
        openssl(
            "x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca_key.pem", "-CAcreateserial",
            "-out", f"{name}.pem", "-days", "2", "-extfile", "extension",
        )  # fmt: skip
    return Certificates(folder)


@pytest.fixture(scope="module")
def guarded(repository: Path, certificates: Certificates) -> Iterator[TritonServer]:
    """Wants a client certificate on gRPC, and a token on HTTP."""
    flags = [
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={certificates.server}",
        f"--grpc-server-key={certificates.server_key}",
        f"--grpc-root-cert={certificates.ca}",
        f"--http-restricted-api=inference,health,metadata:authorization=Bearer {TOKEN}",
    ]
    with TritonServer(repository, extra=flags, auto_complete=None) as server:
        yield server


def test_mutual_tls(guarded: TritonServer, certificates: Certificates, grpc_url: str) -> None:
    jets = random_jets(5)
    with Client(f"{grpc_url}/top_tagger") as client:
        expected = client.tag(jets)
    tls = Tls(certificates.ca, certificates.user, certificates.user_key)
    with Client(f"triton+grpcs://localhost:{guarded.grpc_port}/top_tagger", tls=tls) as client:
        assert np.array_equal(client.tag(jets), expected)


@pytest.mark.parametrize("what", ["no client certificate", "an unknown authority", "no encryption"])
def test_what_the_server_does_not_accept(guarded: TritonServer, certificates: Certificates, what: str) -> None:
    tls = Tls(None if what == "an unknown authority" else certificates.ca)
    scheme = "grpc" if what == "no encryption" else "grpcs"
    url = f"triton+{scheme}://localhost:{guarded.grpc_port}/top_tagger"
    with Client(url, tls=tls, warm_up=1.0) as client, pytest.raises(ServerUnavailableError, match="localhost"):
        client.tag(random_jets(1))


def test_a_token_is_demanded_and_sent(guarded: TritonServer, http_url: str, tmp_path: Path) -> None:
    jets = random_jets(5)
    with Client(f"{http_url}/top_tagger") as client:
        expected = client.tag(jets)
    file = tmp_path / "token"
    file.write_text(TOKEN)
    url = f"triton+http://{guarded.http_url}/top_tagger"
    for token in (TOKEN, file):
        with Client(url, token=token) as client:
            assert np.array_equal(client.tag(jets), expected)
    for token in (None, "header.payload.forged"):
        with Client(url, token=token, warm_up=2.0) as client, pytest.raises(AuthenticationError):
            client.tag(jets)


def test_files_that_are_missing_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="both a certificate and its key"):
        Tls(certificate=tmp_path)
    with pytest.raises(ConfigurationError, match="does not exist"):
        Tls(tmp_path / "ca.pem")
    with (
        Client("grpc://localhost/m", token=tmp_path / "none") as client,
        pytest.raises(ConfigurationError, match="token"),
    ):
        client.info()
