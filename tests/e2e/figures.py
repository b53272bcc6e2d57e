"""Figures of the service's endurance that need a quiet machine: `python -m tests.e2e.long recover` and `goodput`."""

from __future__ import annotations

import os
import queue
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from tests.e2e.conftest import COMPLETE, MODEL_REPOSITORY, Service, Traffic, complete, images, serving, write_model

BACKEND = Path(__file__).parent / "faulty_backend"
INPUTS = {"top_tagger": "constituents", "resnet50_top": "images"}
POLICY = """
max_batch_size: 1
dynamic_batching {
  priority_levels: 2
  default_priority_level: 2
  default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 1000000 allow_timeout_override: true
                         max_queue_size: 2048 }
}
"""


def golden(model: str) -> np.ndarray:
    """One known input of a shipped model."""
    version = max((path for path in (MODEL_REPOSITORY / model).glob("[0-9]*")), key=lambda path: int(path.name))
    with np.load(version / "golden.npz", allow_pickle=False) as archive:
        return np.ascontiguousarray(archive["input"][:1].astype(np.float32))


def recovery(count: int) -> dict[str, Any]:
    """Kill a stub of the shipped models ``count`` times under traffic: how long until it answers rightly again."""
    rounds: list[dict[str, Any]] = []
    with serving(MODEL_REPOSITORY, "--no-watch") as service:
        for number in range(count):
            model = list(INPUTS)[number % 2]
            service.wait_ready()
            values = golden(model)
            expected = service.infer("grpc", model, values, INPUTS[model])
            with Traffic(service, model, ("grpc", "http"), 0.05, values, INPUTS[model]) as traffic:
                time.sleep(1.0)
                os.kill(service.stub(model), signal.SIGKILL)
                struck = time.monotonic()
                service.wait_for(lambda number=number: service.restarts() > number and service.get("/ready")[0] == 200)
                time.sleep(1.5)
            back = min(
                began + took for began, took, status, answer in traffic.answers
                if status == "ok" and began > struck and answer is not None and np.array_equal(answer, expected)
            )  # fmt: skip
            rounds.append({
                "model": model, "killed_to_right_answer_s": round(back - struck, 3),
                "longest_refusal_s": round(traffic.longest_failure(), 3),
                "statuses": dict(Counter(status for *_, status, _ in traffic.answers)),
            })  # fmt: skip
    return {"worst_s": max(entry["killed_to_right_answer_s"] for entry in rounds), "rounds": rounds}


def goodput(seconds: float, service_ms: float | None) -> dict[str, float]:
    """The most answers per second that were had, those at 3 times that rate in an open loop, and at half of it after.

    ``service_ms`` is the time of a pretended device that leaves the processor alone; None takes the shipped tagger.
    """
    with tempfile.TemporaryDirectory() as folder:
        if service_ms is None:
            return _goodput(MODEL_REPOSITORY, "top_tagger", golden("top_tagger"), seconds)
        from tests.fpga_ops.onnx_models import quantise, resnet

        source = quantise(resnet((1,), 16, (3, 32, 32), classes=2, softmax=True), Path(folder) / "tiny.onnx")
        write_model(
            Path(folder) / "models", "tiny", source, device="first", more=POLICY + complete(source, None)
        )  # fmt: skip
        fault = Path(folder) / "fault"
        fault.write_text(f"sleep {service_ms / 1e3}")
        environment = {"TRITON_FPGA_TEST_FAULT": str(fault)}
        return _goodput(Path(folder) / "models", "tiny", images(), seconds, BACKEND, environment)


def _goodput(
    repository: Path, model: str, values: np.ndarray, seconds: float, backend: Path | None = None,
    environment: dict[str, str] | None = None,
) -> dict[str, float]:  # fmt: skip
    with serving(repository, COMPLETE, "--no-watch", backend=backend, environment=environment) as service:
        load = Load(service, model, values)
        load.closed(16, 1.0)
        rate = most = load.closed(16, seconds)
        for _ in range(5):  # clients that wait for their answers need not reach what can be served
            rate *= 1.6
            good = load.offer(rate, seconds)["ok"] / seconds
            most = max(most, good)
            if good < 0.9 * rate:
                break
        flooded = load.offer(3 * most, seconds)
        after = load.offer(0.5 * most, seconds / 2)
        good = flooded["ok"] / seconds
        return {
            "most_per_s": most, "offered_per_s": 3 * most, "goodput_per_s": good, "goodput_over_most": good / most,
            "refused": flooded["StatusCode.UNAVAILABLE"],
            "failed_otherwise": sum(flooded.values()) - flooded["ok"] - flooded["StatusCode.UNAVAILABLE"],
            "answered_at_half_the_load_after": after["ok"] / sum(after.values()), "restarts": service.restarts(),
        }  # fmt: skip


class Load:
    """Requests of batch one over one connection."""

    def __init__(self, service: Service, model: str, values: np.ndarray) -> None:
        self.client, self.model = service.client("grpc"), model
        self.tensor = tritonclient.grpc.InferInput(INPUTS.get(model, "images"), list(values.shape), "FP32")
        self.tensor.set_data_from_numpy(values)
        self.results: queue.SimpleQueue[str] = queue.SimpleQueue()

    def _send(self) -> None:
        self.client.async_infer(self.model, [self.tensor], self._done)

    def _done(self, result: object, error: InferenceServerException | None) -> None:
        self.results.put("ok" if error is None else str(error.status()))

    def closed(self, in_flight: int, seconds: float) -> float:
        """Answers per second when each answer makes the next request."""
        for _ in range(in_flight):
            self._send()
        began, answered = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            answered += self.results.get(timeout=30) == "ok"
            self._send()
        rate = answered / (time.monotonic() - began)
        for _ in range(in_flight):
            self.results.get(timeout=30)
        return rate

    def offer(self, rate: float, seconds: float) -> Counter[str]:
        """Requests at a rate, whatever becomes of them: how many ended how."""
        sent, began = 0, time.monotonic()
        while (now := time.monotonic() - began) < seconds:
            while sent < now * rate:
                self._send()
                sent += 1
            time.sleep(0.005)
        return Counter(self.results.get(timeout=60) for _ in range(sent))
