"""The compose stack, for real: built, up, asked, scaled, hurt, secured, watched and taken down."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.docker.conftest import ROOT, Docker, Stack, until
from tests.docker.traffic import Traffic, constituents, image, infer
from tests.support.expired import expired_token

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

MODELS = ("resnet50_top", "top_tagger")


@pytest.fixture(scope="module")
def addresses(stack: Stack) -> tuple[str, str]:
    """(gRPC, HTTP) of the proxy."""
    return stack.address("envoy", 8001), stack.address("envoy", 8000)


@pytest.fixture
def clients(addresses: tuple[str, str]) -> Iterator[tuple[Any, Any]]:
    with (
        tritonclient.grpc.InferenceServerClient(addresses[0]) as by_grpc,
        tritonclient.http.InferenceServerClient(addresses[1]) as by_http,
    ):
        yield by_grpc, by_http


def status(stack: Stack, container: str) -> dict[str, Any]:
    """What the replica's supervisor says; a container that just starts has none yet."""
    page = stack.fetch(container, "http://127.0.0.1:8003/status").strip()
    told: dict[str, Any] = json.loads(page) if page else {"ready": False, "models": [], "restarts": {}}
    return told


def ready(stack: Stack, container: str) -> bool:
    return bool(status(stack, container)["ready"])


def served(stack: Stack, container: str, model: str) -> set[str]:
    return {entry["version"] for entry in status(stack, container)["models"] if entry["model"] == model}


# -- images


def test_images_hold_no_tools_and_no_caches(docker: Docker, images: dict[str, int]) -> None:
    look = """
        for tool in gcc cc g++ make git pip pip3 cmake curl wget; do command -v $tool; done
        python3 -m pip --version 2>/dev/null
        find / -xdev -not -path '*/ensurepip/*' \\( -path '*/.cache/*' -o -path '/var/lib/apt/lists/*_*' \\
            -o -path '/var/cache/apt/*.bin' -o -name '*.whl' -o -path '/src/*' -o -path '/wheel/*' \\) 2>/dev/null
        true"""
    for name in images:
        found = docker("run", "--rm", "--entrypoint", "sh", name, "-c", look).stdout.split()
        assert found == [], f"{name} holds {found}"
    assert images["triton-fpga/server"] < 1.5e9


def test_images_hold_this_checkout_and_run_as_nobody_special(docker: Docker, images: dict[str, int]) -> None:
    for name in images:
        run = ("run", "--rm", "--entrypoint", "python3", name, "-c")
        assert docker(*run, "import os; print(os.getuid(), os.getgid())").stdout.split() == ["10001", "10001"]
        inside = docker(*run, "import fpga_ops.ir.network as n; print(open(n.__file__).read(), end='')").stdout
        assert inside == (ROOT / "fpga_ops" / "ir" / "network.py").read_text()
    numpy = docker(
        "run", "--rm", "--entrypoint", "python3", "triton-fpga/server", "-c", "import numpy; print(numpy.__version__)"
    )
    assert int(numpy.stdout.split(".")[0]) < 2


# -- up


def test_everything_is_up_and_healthy(stack: Stack) -> None:
    for service, count in (("server", 2), ("envoy", 1), ("prometheus", 1)):
        containers = stack.containers(service)
        assert len(containers) == count
        assert [stack.state(container)["Health"]["Status"] for container in containers] == ["healthy"] * count
    assert "copied" in stack.logs("seed")


def test_containers_are_hardened(stack: Stack, docker: Docker) -> None:
    for service in ("server", "envoy", "prometheus"):
        facts = docker.json("inspect", stack.containers(service)[0])[0]
        assert facts["HostConfig"]["ReadonlyRootfs"], service
        assert facts["HostConfig"]["CapDrop"] == ["ALL"], service
        assert "no-new-privileges:true" in facts["HostConfig"]["SecurityOpt"], service
    replica = stack.containers("server")[0]
    write = docker("exec", replica, "sh", "-c", "touch /opt/x; touch /models/x", check=False)
    assert write.stderr.count("Read-only file system") == 2
    # Replicas reach nothing outside.
    code = "import socket; socket.create_connection(('192.0.2.1', 80), 2)"
    assert "unreachable" in docker("exec", replica, "python3", "-c", code, check=False).stderr


@pytest.mark.parametrize("model", MODELS)
def test_both_protocols_give_the_same_bits(clients: tuple[Any, Any], model: str) -> None:
    values = image(3, seed=1) if model == "resnet50_top" else constituents(3, seed=1)
    by_grpc, by_http = (infer(client, model, values).as_numpy("probabilities") for client in clients)
    np.testing.assert_array_equal(by_grpc, by_http)
    assert by_grpc.shape == (3, 2)
    np.testing.assert_allclose(by_grpc.sum(axis=1), 1.0, atol=1e-5)


def test_known_answers_come_through_the_proxy(clients: tuple[Any, Any], environment: dict[str, str]) -> None:
    folder = Path(environment["MODEL_SOURCE"])
    for model in MODELS:
        version = max(
            (path for path in (folder / model).iterdir() if path.name.isdigit()), key=lambda path: int(path.name)
        )
        golden = np.load(version / "golden.npz", allow_pickle=False)
        values = golden["input"][:2]
        for client in clients:
            scores = infer(client, model, values).as_numpy("probabilities")
            np.testing.assert_allclose(scores, golden["probabilities"][:2], atol=1e-6)


def test_a_clients_mistake_is_its_own(clients: tuple[Any, Any]) -> None:
    """It comes back with its message, at once, and ejects nobody."""
    wrong = constituents()
    wrong[0, 0, 0] = np.nan
    for client in clients:
        for _ in range(10):
            began = time.monotonic()
            with pytest.raises(InferenceServerException, match=r"(?i)constituents"):
                infer(client, "top_tagger", wrong)
            assert time.monotonic() - began < 2
        infer(client, "top_tagger", constituents())


def test_calls_that_change_a_server_do_not_pass_the_proxy(clients: tuple[Any, Any]) -> None:
    by_grpc, by_http = clients
    for call in (
        lambda: by_grpc.unload_model("top_tagger"),
        lambda: by_grpc.load_model("top_tagger"),
        lambda: by_grpc.register_system_shared_memory("x", "/x", 8),
        lambda: by_grpc.update_log_settings({"log_verbose_level": 1}),
    ):
        with pytest.raises(InferenceServerException, match=r"(?i)admin key") as refused:
            call()
        assert refused.value.status() == "StatusCode.PERMISSION_DENIED"
    for call in (
        lambda: by_http.unload_model("top_tagger"),
        lambda: by_http.load_model("top_tagger"),
        lambda: by_http.register_system_shared_memory("x", "/x", 8),
        lambda: by_http.update_trace_settings("top_tagger", {}),
        lambda: by_http.update_log_settings({}),
    ):
        with pytest.raises(InferenceServerException, match=r"(?i)admin key"):
            call()


def test_an_old_client_is_told_what_is_spoken_here(addresses: tuple[str, str]) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://{addresses[1]}/api/health/ready", timeout=5)
    assert refused.value.code == 404
    assert "KServe v2" in json.load(refused.value)["error"]
    with grpc.insecure_channel(addresses[0]) as channel:
        status = channel.unary_unary("/nvidia.inferenceserver.GRPCService/Status")
        with pytest.raises(grpc.RpcError) as unknown:
            status(b"", timeout=5)
    assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "KServe v2" in unknown.value.details()


# -- hurt


def test_scale_to_three_and_all_three_work(stack: Stack, addresses: tuple[str, str]) -> None:
    stack.up(options=("--scale", "server=3", "--no-recreate"))
    replicas = stack.containers("server")
    assert len(replicas) == 3

    def counts() -> list[int]:
        pages = [stack.fetch(replica, "http://127.0.0.1:8002/metrics") for replica in replicas]
        return [
            int(float(re.findall(r'nv_inference_count\{model="top_tagger",version="\d+"\} (\S+)', page)[0]))
            for page in pages
        ]

    before = counts()
    with Traffic(*addresses, "top_tagger", constituents(), clients=("grpc",) * 4 + ("http",) * 2) as traffic:
        traffic.run(150)
    assert traffic.failures == []
    shares = np.subtract(counts(), before)
    assert shares.min() > 15, f"requests went {shares}"


KILL = """
import os, pathlib, signal, sys
for process in pathlib.Path("/proc").glob("[0-9]*"):
    command = (process / "cmdline").read_bytes().split(b"\\0")[0].decode()
    if command.endswith(sys.argv[1]):
        os.kill(int(process.name), signal.Signals[sys.argv[2]])
        print(process.name)
"""


def strike(
    stack: Stack, addresses: tuple[str, str], docker: Docker, note: Callable[[str], None], victim: str, signal: str
) -> None:
    replica = stack.containers("server")[0]
    mended = sum(status(stack, replica)["restarts"].values())
    with Traffic(*addresses, "top_tagger", constituents()) as traffic:
        traffic.run(40)
        if victim == "the container":
            docker("kill", replica)
        else:
            assert stack.python(replica, KILL, victim, signal).split(), f"no {victim} in the replica"
        traffic.run(120)
        if victim == "the container":
            docker("start", replica)
        else:
            until(lambda: sum(status(stack, replica)["restarts"].values()) > mended, 60, "the supervisor mends it")
        until(lambda: ready(stack, replica), 90, f"the replica is ready again after {victim} was killed")
        traffic.run(40)
    note(f"{signal} to {victim}: {traffic.answered} answers, none failed, slowest {traffic.slowest * 1e3:.0f} ms")
    assert traffic.failures == []
    assert traffic.slowest < (20 if signal == "SIGSTOP" else 5)


@pytest.mark.parametrize(
    ("victim", "signal"),
    [
        ("tritonserver", "SIGKILL"),
        ("triton_python_backend_stub", "SIGKILL"),
        ("triton_python_backend_stub", "SIGSTOP"),
        ("the container", "SIGKILL"),
    ],
)
def test_a_killed_replica_costs_no_request(
    stack: Stack, addresses: tuple[str, str], docker: Docker, note: Callable[[str], None], victim: str, signal: str
) -> None:
    strike(stack, addresses, docker, note, victim, signal)


def test_big_requests_survive_a_kill_too(stack: Stack, addresses: tuple[str, str], docker: Docker) -> None:
    """4.8 MB of images: the proxy keeps the whole request to send it again."""
    replica = stack.containers("server")[1]
    with Traffic(*addresses, "resnet50_top", image(8), clients=("grpc", "http")) as traffic:
        traffic.run(4)
        docker("kill", replica)
        traffic.run(10)
    docker("start", replica)
    assert traffic.failures == []
    until(lambda: ready(stack, replica), 90, "the replica is ready again")


def test_a_bomb_ends_one_replica_alone(stack: Stack, addresses: tuple[str, str]) -> None:
    """A small compressed request that is gigabytes: who takes it is restarted, and the proxy does not send it on."""

    def bombed() -> int:
        return sum(status(stack, replica)["restarts"].get("memory", 0) for replica in stack.containers("server"))

    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(4000)) + packer.flush()
    assert len(bomb) < 32 << 20, "the proxy takes it"
    before = bombed()
    with Traffic(*addresses, "top_tagger", constituents()) as traffic:
        traffic.run(10)
        connection = http.client.HTTPConnection(addresses[1], timeout=90)
        with contextlib.closing(connection):
            headers = {"Content-Encoding": "gzip", "Inference-Header-Content-Length": "100"}
            connection.request("POST", "/v2/models/top_tagger/infer", bomb, headers)
            assert connection.getresponse().status == 503
        until(lambda: all(ready(stack, replica) for replica in stack.containers("server")), 90, "all are ready again")
        traffic.run(40)
    assert bombed() == before + 1
    assert traffic.failures == []


def test_removed_replicas_finish_what_they_have(stack: Stack, addresses: tuple[str, str]) -> None:
    with Traffic(*addresses, "top_tagger", constituents()) as traffic:
        traffic.run(20)
        stack.up(options=("--scale", "server=2", "--no-recreate"))
        traffic.run(40)
    assert len(stack.containers("server")) == 2
    assert traffic.failures == []


def test_a_killed_server_costs_no_request_with_two_replicas_either(
    stack: Stack, addresses: tuple[str, str], docker: Docker, note: Callable[[str], None]
) -> None:
    """While it restarts it refuses at once, so it always has fewer requests than the one that is left."""
    for _ in range(3):
        strike(stack, addresses, docker, note, "tritonserver", "SIGKILL")


# -- published

PUBLISH = """
import json, os, pathlib
import numpy as np, onnx
from retrain.publishing.publish import addresses, publish
repository, model = pathlib.Path(os.environ["TRITON_FPGA_REPOSITORY"]), "top_tagger"
server = os.environ["TRITON_FPGA_SERVER"]
newest = max((p for p in (repository / model).iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
golden = np.load(newest / "golden.npz", allow_pickle=False)
network = onnx.load(newest / "model.onnx")
head = next(tensor for tensor in network.graph.initializer if tensor.data_type == 1 and list(tensor.dims) == [2])
head.raw_data = (onnx.numpy_helper.to_array(head) + np.array([0.5, -0.5], np.float32)).astype(np.float32).tobytes()
card = json.loads((newest / "model_card.json").read_text())
version = publish(repository, model, network, golden["input"], card, force=True, server=server)
print(newest.name, version.number, len(addresses(server)))
"""
"""What a notebook does after training, here with the served network and another bias."""


def run_notebook(docker: Docker, container: str, code: str) -> str:
    """Execute a cell by Jupyter in the container; what it printed."""
    cell = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": code}
    book = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    save = "import pathlib, sys; pathlib.Path('/notebooks/trial.ipynb').write_text(sys.argv[1])"
    docker("exec", container, "python3", "-c", save, json.dumps(book))
    docker("exec", container, "jupyter", "execute", "--inplace", "/notebooks/trial.ipynb")
    done = json.loads(docker("exec", container, "cat", "/notebooks/trial.ipynb").stdout)
    return "".join(text for output in done["cells"][0]["outputs"] for text in output.get("text", ()))


def test_a_notebook_publishes_to_every_replica_and_rolls_back(
    stack: Stack, docker: Docker, addresses: tuple[str, str]
) -> None:
    stack.compose("--profile", "notebooks", "up", "-d", "--no-build", "--no-recreate", "--wait", "notebooks")
    notebooks = stack.containers("notebooks")[0]
    replicas = stack.containers("server")
    with Traffic(*addresses, "top_tagger", constituents()) as traffic:
        traffic.run(20)
        old, new, asked = run_notebook(docker, notebooks, PUBLISH).split()
        assert int(new) == int(old) + 1
        assert int(asked) == len(replicas)
        for replica in replicas:  # confirmed already; the supervisor's known answers may be a round behind
            until(lambda replica=replica: served(stack, replica, "top_tagger") == {new}, 30, f"version {new} is served")  # type: ignore[misc]
        traffic.run(20)
        assert traffic.versions[new] >= 10
        back = ("triton-fpga", "rollback", "top_tagger", "--repository", "/models", "--server", "server:8000")
        assert f"back at version {old}" in docker("exec", notebooks, *back).stdout
        for replica in replicas:
            until(lambda replica=replica: served(stack, replica, "top_tagger") == {old}, 30, f"version {old} is served")  # type: ignore[misc]
        traffic.run(5)  # what was on its way
        seen = traffic.versions[new]
        traffic.run(30)
    assert traffic.versions[new] == seen, "the withdrawn version still answers"
    assert traffic.failures == []
    stack.compose("--profile", "notebooks", "rm", "-sf", "notebooks")


# -- watched


def prometheus(stack: Stack, path: str, **query: str) -> Any:
    url = f"http://{stack.address('prometheus', 9090)}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)["data"]


def test_every_target_is_scraped(stack: Stack) -> None:
    def healthy() -> bool:
        targets = prometheus(stack, "targets")["activeTargets"]
        return all(target["health"] == "up" for target in targets) and len(targets) == 2 + 2 + 1 + 1

    until(healthy, 40, "two replicas (twice), the proxy and Prometheus itself are scraped")


def panels() -> list[tuple[str, str]]:
    board = json.loads((ROOT / "docker" / "grafana" / "dashboards" / "service.json").read_text())
    return [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel["targets"]]


def test_every_panel_shows_data(stack: Stack, addresses: tuple[str, str]) -> None:
    """Each query of the dashboard, as Grafana would send it, against the running Prometheus."""
    queries = panels()
    assert len(queries) >= 20
    missing: list[str] = []

    def all_there() -> bool:
        missing.clear()
        for title, expression in queries:
            query = expression.replace("$__rate_interval", "20s").replace("$model", ".*")
            values = [float(series["value"][1]) for series in prometheus(stack, "query", query=query)["result"]]
            if not any(np.isfinite(value) for value in values):
                missing.append(f"{title}: {expression}")
        return not missing

    with Traffic(*addresses, "top_tagger", constituents()) as traffic:
        traffic.run(30)
        deadline = time.monotonic() + 60
        while not all_there() and time.monotonic() < deadline:
            time.sleep(2)
    assert missing == []
    assert traffic.failures == []


def test_rules_are_loaded_and_calm(stack: Stack) -> None:
    groups = prometheus(stack, "rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) >= 12
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    operations = (ROOT / "docs" / "how-to" / "answer-an-alert.md").read_text()
    for rule in rules:
        assert f"### {rule['name']}" in operations, f"answer-an-alert.md does not tell what {rule['name']} means"


# -- secured


def token(environment: dict[str, str], *arguments: str) -> str:
    command = [
        "python3",
        str(ROOT / "docker" / "credentials.py"),
        "--folder",
        environment["SECRETS"],
        "token",
        *arguments,
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def secure(stack: Stack) -> tuple[str, str]:
    """(gRPC, HTTP) of the proxy with TLS and tokens."""
    stack.compose("--profile", "secure", "up", "-d", "--no-build", "--no-recreate", "--wait", "envoy-secure")
    by_grpc, by_http = stack.address("envoy-secure", 8444), stack.address("envoy-secure", 8443)
    return by_grpc.replace("127.0.0.1", "localhost"), by_http.replace("127.0.0.1", "localhost")


def secure_clients(environment: dict[str, str], secure: tuple[str, str]) -> tuple[Any, Any]:
    import ssl

    ca = f"{environment['SECRETS']}/ca.crt"
    return (
        tritonclient.grpc.InferenceServerClient(secure[0], ssl=True, root_certificates=ca),
        tritonclient.http.InferenceServerClient(
            secure[1], ssl=True, ssl_context_factory=lambda: ssl.create_default_context(cafile=ca)
        ),
    )


def test_a_token_opens_the_secure_proxy(environment: dict[str, str], secure: tuple[str, str]) -> None:
    headers = {"authorization": f"Bearer {token(environment, 'alice')}"}
    answers = []
    for client in secure_clients(environment, secure):
        with client:
            assert client.is_server_ready()  # health needs no token: load balancers ask it
            answers.append(infer(client, "top_tagger", constituents(), headers=headers).as_numpy("probabilities"))
    np.testing.assert_array_equal(*answers)


def test_a_wrong_token_is_refused(environment: dict[str, str], secure: tuple[str, str], tmp_path: Path) -> None:
    good = token(environment, "alice")
    subprocess.run(
        ["python3", ROOT / "docker" / "credentials.py", "--folder", tmp_path / "foreign", "init"], check=True
    )
    foreign = token({"SECRETS": str(tmp_path / "foreign")}, "alice")
    expired = expired_token(Path(environment["SECRETS"]))
    tampered = good[:-20] + ("A" if good[-20] != "A" else "B") + good[-19:]
    for client in secure_clients(environment, secure):
        with client:
            for headers in (
                {},
                *({"authorization": f"Bearer {bad}"} for bad in (foreign, expired, tampered, "nonsense")),
            ):
                with pytest.raises(InferenceServerException, match=r"(?i)jwt") as refused:
                    infer(client, "top_tagger", constituents(), headers=headers)
                assert refused.value.status() in ("StatusCode.UNAUTHENTICATED", "401")


def test_without_tls_nothing_comes_in(secure: tuple[str, str]) -> None:
    with socket.create_connection(("127.0.0.1", int(secure[1].rpartition(":")[2])), timeout=5) as plain:
        plain.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" not in plain.recv(1024)
    channel = grpc.secure_channel(secure[0], grpc.ssl_channel_credentials())  # does not know our CA
    with pytest.raises(grpc.FutureTimeoutError):
        grpc.channel_ready_future(channel).result(timeout=3)
    channel.close()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("server.crt", r"(?i)certificate"),
        ("server.key", r"(?i)private key"),
        ("jwks.json", r"(?i)jwks"),
    ],
)
def test_a_bad_secret_stops_that_proxy_alone(
    stack: Stack, environment: dict[str, str], tmp_path: Path, file: str, message: str
) -> None:
    shutil.copytree(environment["SECRETS"], tmp_path / "secrets")
    (tmp_path / "secrets" / "proxy" / file).write_text("nothing of use\n")
    broken = Stack(stack.docker, stack.project, {**stack.env, "SECRETS": str(tmp_path / "secrets")})
    done = broken.compose(
        "--profile", "secure", "up", "-d", "--no-build", "--no-deps", "--force-recreate",
        "--wait", "--wait-timeout", "20", "envoy-secure", check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert re.search(message, broken.logs("envoy-secure"))
    assert stack.state(stack.containers("envoy")[0])["Health"]["Status"] == "healthy"
    stack.compose("--profile", "secure", "rm", "-sf", "envoy-secure")
