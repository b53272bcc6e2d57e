"""Clients that ask without pause and count what they get, with no retry of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import tritonclient.grpc
import tritonclient.http

Batch = npt.NDArray[np.float32]


def constituents(rows: int = 1, seed: int = 0) -> Batch:
    """Jets of 40 massless constituents at central rapidity, by falling pT, padded with zeros: float32[rows, 200, 4]."""
    random = np.random.default_rng(seed)
    pt = np.sort(random.exponential(15.0, (rows, 40)), axis=1)[:, ::-1] + 0.5
    eta, phi = random.normal(0.0, 0.3, (rows, 40)), random.normal(0.0, 0.3, (rows, 40))
    jets = np.zeros((rows, 200, 4), np.float32)
    jets[:, :40] = np.stack([pt * np.cosh(eta), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], axis=-1)
    return jets


def image(rows: int = 1, seed: int = 0) -> Batch:
    """Sparse images with sum 1 on each of three equal planes: float32[rows, 3, 224, 224]."""
    random = np.random.default_rng(seed)
    plane = np.where(random.random((rows, 1, 224, 224)) < 1e-3, random.exponential(1.0, (rows, 1, 224, 224)), 0.0)
    plane /= plane.sum(axis=(2, 3), keepdims=True)
    return np.repeat(plane, 3, axis=1).astype(np.float32)


def infer(client: Any, model: str, values: Batch, *, headers: dict[str, str] | None = None, version: str = "") -> Any:
    """One request by tritonclient's gRPC or HTTP client; the result."""
    module = tritonclient.grpc if "grpc" in type(client).__module__ else tritonclient.http
    tensor = module.InferInput("images" if model == "resnet50_top" else "constituents", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values)
    return client.infer(model, [tensor], headers=headers, model_version=version)


class Traffic:
    """Threads that send one request after another until the block ends; equal requests must get equal answers."""

    def __init__(
        self, grpc: str, http: str, model: str, values: Batch, clients: Sequence[str] = ("grpc", "grpc", "http")
    ) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self.slowest = 0.0
        self.versions: dict[str, int] = {}
        self._addresses = {"grpc": grpc, "http": http}
        self._model, self._values = model, values
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(kind,), daemon=True) for kind in clients]
        self._expected: npt.NDArray[np.float32] | None = None

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(70)

    def run(self, count: int, timeout: float = 60) -> None:
        """Wait until so many more answers came."""
        goal, deadline = self.answered + count, time.monotonic() + timeout
        while self.answered < goal and time.monotonic() < deadline:
            time.sleep(0.02)
        assert self.answered >= goal, (
            f"only {self.answered - goal + count} of {count} answers; failures: {self.failures[:3]}"
        )

    def _ask(self, kind: str) -> None:
        module = tritonclient.grpc if kind == "grpc" else tritonclient.http
        client = module.InferenceServerClient(self._addresses[kind])
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                result = infer(client, self._model, self._values)
                scores = result.as_numpy("probabilities")
                response = result.get_response()
                version = response.model_version if kind == "grpc" else response["model_version"]
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a failed request
                with self._lock:
                    self.failures.append(f"{kind} after {time.monotonic() - began:.2f} s: {error}")
                continue
            with self._lock:
                self.answered += 1
                self.slowest = max(self.slowest, time.monotonic() - began)
                self.versions[version] = self.versions.get(version, 0) + 1
                if version == min(self.versions):
                    self._expected = scores if self._expected is None else self._expected
                    if not np.array_equal(scores, self._expected):
                        self.failures.append(f"{kind}: {scores} instead of {self._expected}")
        client.close()
