"""Who may change what is served, and who may only ask."""

from __future__ import annotations

from pathlib import Path

import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from tests.e2e.conftest import COMPLETE, images, serving
from triton_server.server import ADMIN_HEADER

pytestmark = pytest.mark.server


def test_strangers_may_ask_and_not_change(repository: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    with serving(repository, COMPLETE, "--admin-key-file", str(key)) as service:
        for kind in ("grpc", "http"):
            client = service.client(kind)
            assert service.infer(kind, "tiny", images()).shape == (1, 2)
            assert client.is_model_ready("tiny")
            for change in (
                lambda client=client: client.unload_model("tiny"),
                lambda client=client: client.load_model("tiny"),
                lambda client=client: client.get_model_repository_index(),
                lambda client=client: client.register_system_shared_memory("x", "/x", 64),
            ):
                with pytest.raises(InferenceServerException, match="restricted"):
                    change()
            headers = {ADMIN_HEADER: key.read_text().strip()}
            client.load_model("tiny", headers=headers)
            assert client.get_model_repository_index(headers=headers)
        assert service.status()["ready"], "the supervisor has the key"


def test_what_a_request_holds_is_for_nobody_else(repository: Path) -> None:
    from tests.e2e.conftest import leftovers

    with serving(repository, COMPLETE) as service:
        regions = leftovers(service.process.pid)
        assert regions
        assert all(region.stat().st_mode & 0o077 == 0 for region in regions)


def test_loopback_alone_listens(repository: Path) -> None:
    with serving(repository, COMPLETE) as service:
        ports = {int(service.urls[kind].rsplit(":", 1)[1]) for kind in ("grpc", "http")}
        ports |= {int(service.urls[kind].split(":")[2].split("/")[0]) for kind in ("metrics", "health")}
        listening: dict[int, set[str]] = {}
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                address, port = fields[1].split(":")
                if fields[3] == "0A":
                    listening.setdefault(int(port, 16), set()).add(address[-8:])
        for port in ports:
            assert listening[port] == {"0100007F"}, "127.0.0.1, as such or mapped into IPv6"


def test_a_taken_port_is_named(repository: Path) -> None:
    import socket
    import subprocess
    import sys

    from tests.e2e.conftest import SERVE

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-c", SERVE, "--model-repository", str(repository), "--grpc-port", str(port),
                   "--http-port", "0", "--metrics-port", "0", "--health-port", "0"]  # fmt: skip
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert f"127.0.0.1:{port}" in ended.stderr


def test_a_wrong_key_is_no_key(repository: Path) -> None:
    """A client with a wrong key is refused like one without."""
    import tempfile

    with (
        tempfile.TemporaryDirectory() as folder,
        serving(repository, COMPLETE, "--admin-key-file", f"{folder}/key") as service,
    ):
        client = tritonclient.grpc.InferenceServerClient(service.urls["grpc"])
        with pytest.raises(InferenceServerException, match="restricted"):
            client.unload_model("tiny", headers={ADMIN_HEADER: "guess"})
        client.close()
