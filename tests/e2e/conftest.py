"""Real servers for the tests: ``triton-fpga serve`` as a user starts it, over small repositories made here."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

import fpga_ops
from fpga_ops.ir.network import INTEGER_RULE
from tests.fpga_ops.onnx_models import quantise, resnet
from triton_server.repository.admission import sha256
from triton_server.repository.model_version import describe_onnx
from triton_server.server.admin_key import ADMIN_HEADER, default_path, read_or_make
from triton_server.server.shared_memory import SHM
from triton_server.supervisor.processes import descendants, find_stubs, state

ROOT = Path(__file__).resolve().parents[2]
MODEL_REPOSITORY = Path(os.environ.get("TRITON_FPGA_MODEL_REPOSITORY", ROOT / "model_repository"))
"""The shipped models; the variable names another repository with the same two."""

SERVE = """
import argparse, sys
from pathlib import Path
from triton_server.server import server
from triton_server.commands import serve
parser = argparse.ArgumentParser()
parser.add_argument("--test-backend", type=Path)
serve.register(parser)
args = parser.parse_args()
if args.test_backend:
    server.backend_folder = lambda: args.test_backend
sys.exit(serve.run(args))
"""
"""``triton-fpga serve``, with the plugin's folder replaceable by one that breaks devices on demand."""

COMPLETE = "--triton-flag=--disable-auto-complete-config"
"""For repositories whose configurations are complete: spares a process and a second for each model at the start."""

CONFIG = 'backend: "fpga"\nparameters {{ key: "device" value {{ string_value: "{device}" }} }}\n{more}\n'


def write_model(
    repository: Path, name: str, onnx_file: Path | None, *, version: int = 1, device: str = "reference",
    config: str | None = None, more: str = "", golden: bool = True, card: bool = True,
) -> Path:  # fmt: skip
    """Lay out one version of a model as it is published: complete in a hidden folder, then renamed. Returns it."""
    folder = repository / name
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "config.pbtxt").exists() or config is not None:
        (folder / "config.pbtxt").write_text(config if config is not None else CONFIG.format(device=device, more=more))
    hidden = folder / f".{version}"
    hidden.mkdir()
    if onnx_file is not None:
        shutil.copy(onnx_file, hidden / "model.onnx")
        if golden:
            write_golden(hidden)
        if card:
            files = {path.name: sha256(path) for path in hidden.iterdir()}
            (hidden / "model_card.json").write_text(json.dumps({"files": files}))
    hidden.rename(folder / str(version))
    return folder / str(version)


def complete(onnx_file: Path, max_batch: int | None = 8) -> str:
    """What the shipped configurations say and auto-completion would."""
    lines = [] if max_batch is None else [f"max_batch_size: {max_batch}"]
    for kind, tensors in zip(("input", "output"), describe_onnx(onnx_file), strict=True):
        for tensor in tensors:
            dims = ", ".join(map(str, tensor.dims))
            lines.append(f'{kind} [ {{ name: "{tensor.name}" data_type: {tensor.data_type} dims: [ {dims} ] }} ]')
    return "\n".join(lines) + "\n"


def write_golden(version: Path, shape: Sequence[int] = (2, 3, 32, 32)) -> None:
    inputs = images(*shape)
    with fpga_ops.load(version / "model.onnx", "reference") as network:
        outputs = network.run({"images": inputs})
        features = next(iter(network.features({"images": inputs}).values()))
    np.savez(version / "golden.npz", input=inputs, features=features, rule=np.array(INTEGER_RULE), **outputs)


def images(*shape: int, seed: int = 5) -> np.ndarray:
    """Images that are finite and not negative: ``float32[N, 3, 32, 32]`` unless told."""
    return np.random.default_rng(seed).random(shape or (1, 3, 32, 32)).astype(np.float32)


@dataclass
class Service:
    """A running ``triton-fpga serve``."""

    process: subprocess.Popen[str]
    urls: dict[str, Any]
    log: Path
    start_s: float
    """How long the start took: the measure of this machine's speed just now."""
    clients: list[Any] = field(default_factory=list)

    @property
    def repository(self) -> Path:
        return Path(str(self.log).removesuffix(".log"))

    def status(self) -> dict[str, Any]:
        return self.get("/status")[1]

    def get(self, path: str) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(self.urls["health"] + path, timeout=5) as answer:  # noqa: S310 - our own URL
                body, code = answer.read(), answer.status
        except urllib.error.HTTPError as error:
            with error:
                body, code = error.read(), error.code
        return code, (body.decode() if path == "/metrics" else json.loads(body))

    def restarts(self) -> int:
        return sum(self.status()["restarts"].values())

    @property
    def admin(self) -> dict[str, str]:
        """Headers of a request that changes what is served."""
        return {ADMIN_HEADER: read_or_make(default_path())}

    def metrics(self) -> str:
        with urllib.request.urlopen(self.urls["metrics"], timeout=5) as answer:  # noqa: S310 - our own URL
            return str(answer.read().decode())

    def metric(self, name: str, *labels: str) -> float:
        """Sum of a metric's values over the lines that hold all the labels."""
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in self.metrics().splitlines()
            if line.split("{")[0] == name and all(label in line for label in labels)
        )

    @property
    def server_pid(self) -> int:
        return int(self.status()["server_pid"])

    def stub(self, model: str) -> int:
        return next(s.pid for s in find_stubs(self.server_pid) if s.runs(model))

    def client(self, kind: str) -> Any:
        module = {"grpc": tritonclient.grpc, "http": tritonclient.http}[kind]
        client = module.InferenceServerClient(self.urls[kind])
        self.clients.append(client)
        return client

    def infer(
        self, kind: str, model: str, values: np.ndarray, name: str = "images", output: str | None = None,
        client: Any = None, **options: Any,
    ) -> np.ndarray:  # fmt: skip
        """One request with a new client (or the given one); returns the only output."""
        module = {"grpc": tritonclient.grpc, "http": tritonclient.http}[kind]
        tensor = module.InferInput(name, list(values.shape), tritonclient.utils.np_to_triton_dtype(values.dtype))
        tensor.set_data_from_numpy(values)
        result = (client or self.client(kind)).infer(model, [tensor], **options)
        if output is None:
            response = result.get_response()
            outputs = response["outputs"] if kind == "http" else [{"name": o.name} for o in response.outputs]
            output = str(outputs[0]["name"])
        return np.asarray(result.as_numpy(output))

    def wait_for(self, condition: Callable[[], Any], timeout_s: float = 60.0, what: str = "the condition") -> None:
        deadline = time.monotonic() + timeout_s
        while not _quietly(condition):
            assert self.process.poll() is None, f"serve ended\n{self.tail()}"
            assert time.monotonic() < deadline, f"{what} did not come in {timeout_s} s\n{self.tail()}"
            time.sleep(0.05)

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        self.wait_for(lambda: self.get("/ready")[0] == 200, timeout_s, "readiness")

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 20.0) -> int:
        for client in self.clients:
            client.close()
        self.clients.clear()
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def _quietly(condition: Callable[[], Any]) -> Any:
    try:
        return condition()
    except (OSError, ValueError, KeyError, StopIteration, InferenceServerException):
        return False


@contextlib.contextmanager
def serving(
    repository: Path, *options: str, backend: Path | None = None, environment: Mapping[str, str] | None = None,
    under: Sequence[str] = (),
) -> Iterator[Service]:  # fmt: skip
    """Start the service (``under`` a command that runs it), wait for its word, stop it, check that nothing is left."""
    log = Path(f"{repository}.log")
    command = [*under, sys.executable, "-c", SERVE, "--model-repository", str(repository), "--json"]
    for port in ("http", "grpc", "metrics", "health"):
        command += [f"--{port}-port", "0"]
    if backend is not None:
        command += ["--test-backend", str(backend)]
    with log.open("a") as stream:
        process = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, stderr=stream, text=True,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
    service = Service(process, {}, log, 0.0)
    began = time.monotonic()
    try:
        line = process.stdout.readline() if process.stdout else ""
        assert line, f"serve said nothing\n{service.tail()}"
        service.urls = json.loads(line)
        service.start_s = time.monotonic() - began
        yield service
    finally:
        below = descendants(process.pid)
        try:
            service.stop()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()
    assert not [pid for pid in below if state(pid) not in ("", "Z")], "processes are left"
    assert not leftovers(process.pid), "shared memory is left"


def leftovers(pid: int) -> list[Path]:
    """Shared memory of the servers that process ``pid`` started."""
    return list(SHM.glob(f"tfpga-{pid}-*"))


@dataclass
class Traffic:
    """Clients that ask without pause and keep what they saw."""

    service: Service
    model: str
    kinds: Sequence[str] = ("grpc", "http")
    """Each is a client: by calls over "grpc" or "http", or by one "stream" over gRPC."""
    pause_s: float = 0.01
    values: np.ndarray = field(default_factory=lambda: images())
    name: str = "images"
    answers: list[tuple[float, float, str, np.ndarray | None]] = field(default_factory=list)
    """Time of sending, duration (s), status ("ok" or the error), answer."""

    def __enter__(self) -> Traffic:
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(kind,)) for kind in self.kinds]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(30)

    def _ask(self, kind: str) -> None:
        ask = self._stream() if kind == "stream" else self._calls(kind)
        while not self._end.is_set():
            began = time.monotonic()
            answer = None
            try:
                answer = ask()
                status = "ok"
            except InferenceServerException as error:
                status = str(error.status())
            except Exception as error:  # noqa: BLE001 - what a broken connection looks like differs by client
                status = f"connection: {type(error).__name__}"
            self.answers.append((began, time.monotonic() - began, status, answer))
            self._end.wait(self.pause_s)

    def _calls(self, kind: str) -> Callable[[], np.ndarray]:
        client = self.service.client(kind)
        return lambda: self.service.infer(kind, self.model, self.values, self.name, client=client)

    def _stream(self) -> Callable[[], np.ndarray]:
        """One stream over gRPC for all requests."""
        client = self.service.client("grpc")
        replies: queue.SimpleQueue[Any] = queue.SimpleQueue()
        client.start_stream(lambda result, error: replies.put(error or result))
        tensor = tritonclient.grpc.InferInput(self.name, list(self.values.shape), "FP32")
        tensor.set_data_from_numpy(self.values)

        def ask() -> np.ndarray:
            client.async_stream_infer(self.model, [tensor])
            reply = replies.get(timeout=60)
            if isinstance(reply, InferenceServerException):
                raise reply
            return np.asarray(reply.as_numpy(reply.get_response().outputs[0].name))

        return ask

    def statuses(self) -> set[str]:
        return {status for _, _, status, _ in self.answers}

    def longest_failure(self) -> float:
        return max((duration for _, duration, status, _ in self.answers if status != "ok"), default=0.0)

    def outage(self) -> float:
        """From the first failure to the end of the last."""
        failed = [(began, began + duration) for began, duration, status, _ in self.answers if status != "ok"]
        return failed[-1][1] - failed[0][0] if failed else 0.0


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small quantised ResNet, ``images`` FP32[-1, 3, 32, 32] in, two classes out."""
    folder = tmp_path_factory.mktemp("tiny")
    return quantise(resnet((1,), 16, (3, 32, 32), classes=2, softmax=True), folder / "model.onnx")


@pytest.fixture(scope="session")
def tiny_onnx_2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one, with other answers."""
    folder = tmp_path_factory.mktemp("tiny2")
    return quantise(resnet((1,), 16, (3, 32, 32), classes=2, softmax=True, seed=9), folder / "model.onnx")


@pytest.fixture
def repository(tmp_path: Path, tiny_onnx: Path) -> Path:
    """A repository with one small model, ``tiny``, completely configured."""
    folder = tmp_path / "models"
    write_model(folder, "tiny", tiny_onnx, more=complete(tiny_onnx))
    return folder
