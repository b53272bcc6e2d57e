"""What goes wrong at an operator's: each with a message, a failing exit code or health check, and the rest still up."""

from __future__ import annotations

import json
import os
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docker.conftest import COMPOSE, ROOT, Docker, Stack, until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]


@pytest.fixture
def stack(docker: Docker, environment: dict[str, str]) -> Iterator[Stack]:
    """A stack of one replica that each test starts wrongly in its own way."""
    trial = Stack(docker, f"tfpga{os.getpid()}bad", {**environment, "REPLICAS": "1"})
    try:
        yield trial
    finally:
        trial.down()
    assert trial.leftovers() == []


def health(stack: Stack, service: str) -> str:
    return str(stack.state(stack.containers(service)[0])["Health"]["Status"])


@pytest.mark.parametrize(("mode", "message"), [(0o755, "no model in /seed"), (0o700, "cannot read /seed")])
def test_a_missing_or_unreadable_repository(stack: Stack, tmp_path: Path, mode: int, message: str) -> None:
    source = tmp_path / "models"
    source.mkdir()
    source.chmod(mode)
    stack.env["MODEL_SOURCE"] = str(source)
    done = stack.up(check=False)
    assert done.returncode != 0
    assert message in stack.logs("seed")
    until(lambda: health(stack, "prometheus") == health(stack, "envoy") == "healthy", 60, "the others are up")


@pytest.fixture
def replica(docker: Docker, images: dict[str, int]) -> Iterator[Callable[..., str]]:
    """Start a replica by itself with these options of `docker run`; its container."""
    name = f"tfpga{os.getpid()}alone"

    def start(*options: str | Path) -> str:
        docker(
            "run", "--detach", "--name", name, "--read-only", "--network", "none", "--shm-size", "256m",
            "--tmpfs", "/tmp", "--tmpfs", "/run/triton-fpga:exec,mode=0700,uid=10001,gid=10001", *options,  # noqa: S108
            "triton-fpga/server", "serve", "--model-repository=/models",
        )  # fmt: skip
        return name

    yield start
    docker("rm", "--force", "--volumes", name)


def test_a_replica_without_a_model_volume_is_unhealthy_and_says_why(
    docker: Docker, replica: Callable[..., str]
) -> None:
    container = replica()
    until(lambda: "no model in /models" in docker("logs", container).stdout, 60, "the log says what is missing")
    check = docker("exec", container, "python3", "/opt/triton-fpga/libexec/healthcheck.py", check=False)
    assert check.returncode == 1
    assert json.loads(check.stdout)["models"] == []


def test_a_replica_that_may_not_read_its_volume_ends_with_a_message(
    docker: Docker, replica: Callable[..., str], tmp_path: Path
) -> None:
    closed = tmp_path / "models"
    closed.mkdir(mode=0o700)
    container = replica("-v", f"{closed}:/models:ro")
    assert int(docker("wait", container).stdout) == 2
    assert "triton-fpga serve: cannot read /models: let user 10001 read it" in docker("logs", container).stderr


def test_a_full_disk_stops_a_publication_and_leaves_nothing_half(
    docker: Docker, images: dict[str, int], environment: dict[str, str]
) -> None:
    code = (
        "import json, pathlib, shutil, numpy as np, onnx\n"
        "from retrain.errors import PublishError\n"
        "from retrain.publishing.publish import publish\n"
        "seed, volume = pathlib.Path('/seed/top_tagger/1'), pathlib.Path('/models')\n"
        "golden = np.load(seed / 'golden.npz')['input']\n"
        "try: publish(volume, 'top_tagger', onnx.load(seed / 'model.onnx'), golden, {'metrics': {}})\n"
        "except PublishError as error: print(error)\n"
        "print([str(path) for path in volume.rglob('*') if path.name != '.publish.lock'])\n"
    )
    done = docker(
        "run", "--rm", "--tmpfs", "/models:size=12k,uid=10001", "-v", f"{environment['MODEL_SOURCE']}:/seed:ro",
        "--entrypoint", "python3", "triton-fpga/notebooks", "-c", code,
    )  # fmt: skip
    assert "No space left on device" in done.stdout
    assert done.stdout.endswith("\n[]\n")


def test_a_replica_without_room_for_its_caches_serves_without_them(
    docker: Docker, replica: Callable[..., str], environment: dict[str, str]
) -> None:
    container = replica(
        "-v", f"{environment['MODEL_SOURCE']}:/models:ro", "--tmpfs", "/var/cache/triton-fpga:size=4k,uid=10001"
    )
    health = ("exec", container, "python3", "/opt/triton-fpga/libexec/healthcheck.py")
    until(lambda: docker(*health, check=False).returncode == 0, 60, "every model serves")
    assert "No space left on device" in docker("logs", container).stderr


def test_a_port_in_use(stack: Stack, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        overlay = tmp_path / "port.yaml"
        overlay.write_text(f'services: {{ envoy: {{ ports: !override ["127.0.0.1:{port}:8000"] }} }}\n')
        stack.files = (*COMPOSE, overlay)
        stack.compose("up", "-d", "--no-build", "--wait", "prometheus")
        done = stack.compose("up", "-d", "--no-build", "envoy", check=False)
    assert done.returncode != 0
    assert "address already in use" in done.stderr
    assert str(port) in done.stderr
    assert health(stack, "prometheus") == "healthy"


def test_a_replica_that_never_becomes_healthy(stack: Stack, tmp_path: Path) -> None:
    """A model file that is no model: `up` fails, the health check tells the reason, a client hears it is not served."""
    model = tmp_path / "models" / "top_tagger"
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.onnx").write_bytes(b"no model")
    for name in ("config.pbtxt", "labels.txt"):
        shutil.copy(ROOT / "model_repository" / "top_tagger" / name, model)
    stack.env["MODEL_SOURCE"] = str(tmp_path / "models")
    overlay = tmp_path / "impatient.yaml"
    overlay.write_text("services: { server: { healthcheck: { start_period: 5s, interval: 1s } } }\n")
    stack.files = (*COMPOSE, overlay)
    done = stack.up("server", check=False)
    assert done.returncode != 0
    assert "is unhealthy" in done.stderr
    stack.up("envoy", "prometheus", options=("--no-deps",))

    def told() -> str:
        log = stack.state(stack.containers("server")[0])["Health"]["Log"]
        return "".join(entry["Output"] for entry in log)

    until(lambda: "top_tagger" in told() and "refused" in told(), 60, "the health check names the model")
    assert health(stack, "server") != "healthy"
    until(lambda: health(stack, "prometheus") == health(stack, "envoy") == "healthy", 60, "the others are up")
    url = f"http://{stack.address('envoy', 8000)}/v2/models/top_tagger/infer"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, data=b'{"inputs": []}', timeout=10)
    assert refused.value.code in (400, 404, 503)
    assert b"top_tagger" in refused.value.read()
