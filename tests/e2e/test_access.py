"""Who may change what is served, and who may only ask."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tritonclient.utils import InferenceServerException

from tests.e2e.conftest import COMPLETE, images, serving
from triton_server.server.admin_key import ADMIN_HEADER, default_path

pytestmark = pytest.mark.server


@pytest.mark.parametrize("kind", ["grpc", "http"])
@pytest.mark.parametrize("own_key", [False, True], ids=["default", "own key"])
def test_strangers_may_ask_and_not_change(repository: Path, tmp_path: Path, kind: str, own_key: bool) -> None:
    key = tmp_path / "key"
    with serving(repository, COMPLETE, *(("--admin-key-file", str(key)) if own_key else ())) as service:
        client = service.client(kind)
        assert service.infer(kind, "tiny", images()).shape == (1, 2)
        assert client.is_model_ready("tiny")
        changes = [
            lambda: client.unload_model("tiny"),
            lambda: client.load_model("tiny"),
            lambda: client.load_model("tiny", headers={ADMIN_HEADER: "guess"}),
            client.get_model_repository_index,
            lambda: client.update_log_settings({"log_verbose_level": 1}),
            lambda: client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]}),
            lambda: client.register_system_shared_memory("x", "/x", 64),
        ]
        for change in changes:
            with pytest.raises(InferenceServerException, match="restricted"):
                change()
        file = key if own_key else default_path()
        assert file.stat().st_mode & 0o777 == 0o600
        secret = file.read_text().strip()
        assert secret.encode() not in Path(f"/proc/{service.server_pid}/cmdline").read_bytes(), "as `ps` shows it"
        headers = {ADMIN_HEADER: secret}
        client.load_model("tiny", headers=headers)
        assert client.get_model_repository_index(headers=headers)
        assert service.status()["ready"], "the supervisor has the key"


def test_a_strangers_load_request_runs_no_code(repository: Path, tmp_path: Path) -> None:
    """Such a request may bring a configuration and files of its own: a Python model is any code."""
    planted = tmp_path / "planted"
    code = f"open({str(planted)!r}, 'w').close()\nclass TritonPythonModel:\n    def execute(self, requests): ...\n"
    config = json.dumps({"backend": "python", "max_batch_size": 0})
    with serving(repository, COMPLETE) as service:
        client = service.client("http")
        for name in ("tiny", "new"):
            with pytest.raises(InferenceServerException, match="restricted"):
                client.load_model(name, config=config, files={"file:1/model.py": code.encode()})
        assert not planted.exists()
        client.load_model("new", headers=service.admin, config=config, files={"file:1/model.py": code.encode()})
        assert planted.exists(), "the test would see it run"


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
