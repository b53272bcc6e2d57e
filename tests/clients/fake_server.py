"""A Triton gRPC server that misbehaves on demand: what the client does then cannot be tried on a real one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

Behaviour = Callable[[int, Any, grpc.ServicerContext], Any]


def score(rows: np.ndarray) -> np.ndarray:
    """What the fake model computes: a number that depends on every input value of the row."""
    first = 1.0 / (1.0 + np.exp(-rows.reshape(len(rows), -1).astype(np.float64).mean(axis=1) / 10.0))
    return np.stack([1.0 - first, first], axis=1).astype(np.float32)


@dataclass
class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Serves `top_tagger` (constituents -> probabilities); `behaviour(number, request, context)` may interfere."""

    behaviour: Behaviour | None = None
    ready: bool = True
    state: str = "READY"
    reason: str = ""
    known: bool = True
    delay: float = 0.0
    token: str | None = None
    absent_is_not_found: bool = False
    """As Triton since mid-2026 answers ModelReady for a model that it does not have."""
    parameters: dict[str, str] = field(default_factory=dict)
    """Response parameters of every answer."""
    output: tuple[str, str, tuple[int, ...]] = ("probabilities", "FP32", (-1, 2))
    requests: list[Any] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    peers: list[str] = field(default_factory=list)
    cancelled: int = 0
    under_way: int = 0
    most_under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def _admit(self, context: grpc.ServicerContext) -> None:
        given = dict(context.invocation_metadata())
        if self.token is not None and given.get("authorization") != f"Bearer {self.token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "a valid bearer token is needed")

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._admit(context)
        if self.absent_is_not_found and not self.known:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        return pb.ModelReadyResponse(ready=self.ready and self.known)

    def RepositoryIndex(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        rows = [
            pb.RepositoryIndexResponse.ModelIndex(name="top_tagger", version="1", state=self.state, reason=self.reason)
        ]
        return pb.RepositoryIndexResponse(models=rows if self.known else [])

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        name, dtype, shape = self.output
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name=request.name, versions=["1"], platform="fake",
            inputs=[tensor(name="constituents", datatype="FP32", shape=[-1, 200, 4])],
            outputs=[tensor(name=name, datatype=dtype, shape=shape)],
        )  # fmt: skip

    def ModelStatistics(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return pb.ModelStatisticsResponse()

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._admit(context)
        with self.lock:
            self.requests.append(request)
            self.metadata.append(dict(context.invocation_metadata()))
            self.peers.append(context.peer())
            number = len(self.requests)
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.behaviour is not None:
                answer = self.behaviour(number, request, context)
                if answer is not None:
                    return answer
            end = time.monotonic() + self.delay
            while time.monotonic() < end:
                if not context.is_active():
                    with self.lock:
                        self.cancelled += 1
                    break
                time.sleep(0.002)
            answer = answer_to(request)
            for name, value in self.parameters.items():
                answer.parameters[name].string_param = value
            return answer
        finally:
            with self.lock:
                self.under_way -= 1


def answer_to(request: Any, rows: np.ndarray | None = None, name: str = "probabilities") -> Any:
    """The right answer, or one with other rows or another name."""
    shape = list(request.inputs[0].shape)
    if rows is None:
        rows = score(np.frombuffer(request.raw_input_contents[0], np.float32).reshape(shape))
    response = pb.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
    response.outputs.add(name=name, datatype="FP32", shape=list(rows.shape))
    response.raw_output_contents.append(rows.tobytes())
    return response


@contextmanager
def serving(
    fake: FakeTriton, port: int = 0, credentials: grpc.ServerCredentials | None = None
) -> Iterator[tuple[grpc.Server, str]]:
    """Run a fake; yields the server (`stop(0)` is a crash) and its `host:port`."""
    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(64), options=options)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(fake, server)
    if credentials is None:
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
    else:
        bound = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    server.start()
    try:
        yield server, f"{'127.0.0.1' if credentials is None else 'localhost'}:{bound}"
    finally:
        server.stop(0).wait(5)
