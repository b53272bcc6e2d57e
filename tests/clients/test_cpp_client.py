"""The C++ example, built with Debian's gRPC and run against the real server, in the order of CMSSW's calls.

`make test-cpp` installs what it needs and runs this; without, it fails and says what is missing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from sonic_client import Client, prepare
from tests.clients.fake_server import FakeTriton, serving
from tests.clients.jets import random_jets
from triton_server import TritonServer
from triton_server.server.admin_key import default_path

pytestmark = pytest.mark.cpp
SOURCE = Path(__file__).resolve().parents[2] / "clients" / "examples" / "cpp"
TOOLS = ("make", "g++", "pkg-config", "protoc", "grpc_cpp_plugin")
TENSOR = next(prepare(random_jets(12, seed=5)).chunks(12))


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    assert not missing, f"{', '.join(missing)} not found: make test-cpp installs the packages (as root)"
    build = tmp_path_factory.mktemp("cpp")
    made = subprocess.run(
        ["make", "-C", SOURCE, f"BUILD={build}", "CXXFLAGS=-O0"], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    return build / "tag_jets"


def run(program: Path, *arguments: str, rows: bytes = TENSOR.tobytes()) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"http_proxy": "http://127.0.0.1:9", "GRPC_VERBOSITY": "NONE"}
    command = [program, *arguments]
    return subprocess.run(command, input=rows, capture_output=True, timeout=120, check=False, env=environment)


@pytest.mark.server
@pytest.mark.parametrize("way", ["inline", "shared memory"])
def test_the_same_bits_as_from_python(program: Path, triton: TritonServer, grpc_url: str, way: str) -> None:
    before = sorted(Path("/dev/shm").iterdir())  # noqa: S108
    options = ["--admin-key-file", str(default_path()), *(["--shared-memory"] if way == "shared memory" else [])]
    done = run(program, triton.grpc_url, "top_tagger", *options)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    with Client(f"{grpc_url}/top_tagger") as client:
        replies = [client.infer({"constituents": row[None]}) for row in TENSOR]
    expected = np.concatenate([reply.outputs["probabilities"] for reply in replies])
    assert np.array_equal(np.array(said["scores"], np.float32), expected)
    assert {(row["name"], row["version"], row["state"]) for row in said["index"]} == {
        ("top_tagger", "1", "READY"),
        ("resnet50_top", "1", "READY"),
    }
    assert (said["backend"], said["max_batch_size"], said["version"]) == ("fpga", 8, "1")
    assert said["requests"] == 12
    assert 0 < said["infer_ms"] <= said["server_ms"]
    if "device" in said["parameters"]:  # where the server's Triton has response parameters
        assert said["parameters"].items() >= replies[0].provenance.items()
    assert sorted(Path("/dev/shm").iterdir()) == before  # noqa: S108
    assert triton.control.model_ready("top_tagger")


@pytest.mark.server
def test_what_the_server_refuses(program: Path, triton: TritonServer) -> None:
    without_key = run(program, triton.grpc_url, "top_tagger", "--shared-memory")
    assert without_key.returncode == 2
    assert b"registering shared memory" in without_key.stderr
    assert b"going on without it" in without_key.stderr  # the index
    absent = run(program, triton.grpc_url, "no_such_model")
    assert absent.returncode == 2
    assert b"no_such_model" in absent.stderr
    unsorted = np.zeros((1, 200, 4), np.float32)
    unsorted[0, :2] = [[1, 1, 0, 0], [5, 5, 0, 0]]
    refused = run(program, triton.grpc_url, "top_tagger", rows=unsorted.tobytes())
    assert refused.returncode == 2
    assert b"sorted by falling pT" in refused.stderr


def test_wrong_use(program: Path) -> None:
    assert run(program).returncode == 1
    assert b"--deadline-ms: expected" in run(program, "localhost:1", "m", "--deadline-ms", "soon").stderr
    assert b"no key" in run(program, "localhost:1", "m", "--admin-key-file", "/nonexistent").stderr
    nobody = run(program, "127.0.0.1:9", "m")
    assert nobody.returncode == 2
    assert b"readiness" in nobody.stderr


class _Conventional(FakeTriton):
    """Also ready, and with a configuration, which the Python client does not ask for."""

    def ServerReady(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        from tritonclient.grpc import service_pb2

        return service_pb2.ServerReadyResponse(ready=True)

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        from tritonclient.grpc import service_pb2

        return service_pb2.ModelConfigResponse()


def test_the_deadline_and_the_size_of_the_input(program: Path) -> None:
    slow = _Conventional(delay=60.0)
    with serving(slow) as (_, address):
        late = run(program, address, "top_tagger", "--deadline-ms", "200")
        assert late.returncode == 3
        assert b"inference: status 4" in late.stderr
        assert len(slow.requests) == 12
        ragged = run(program, address, "top_tagger", rows=b"12345")
        assert ragged.returncode == 1
        assert b"expected rows of 3200 bytes, got 5 bytes" in ragged.stderr
