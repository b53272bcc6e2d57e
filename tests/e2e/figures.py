"""Figures of the service's endurance that need a quiet machine: `python -m tests.e2e.long recover` and `goodput`."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from tests.e2e.conftest import COMPLETE, MODEL_REPOSITORY, Traffic, complete, images, serving, write_model
from tests.e2e.soak import PAGE
from triton_fpga_bench.service.inputs import encode
from triton_fpga_bench.service.light_load import Generator, Job, Result
from triton_server.supervisor.processes import find_stubs

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


def goodput(rounds: int, service_ms: float | None, instances: int) -> dict[str, Any]:
    """Answers per second at 3 times the most that can be had, against that most.

    A round measures one after the other, since a machine's speed changes over minutes: clients that wait for their
    answers; an open loop a little above what can be had, which a climb finds; an open loop at 3 times the best of both.
    Medians are compared.
    ``service_ms`` is the time of a pretended device that leaves the processor alone; None takes the shipped tagger,
    with so many ``instances``.
    """
    with tempfile.TemporaryDirectory() as folder:
        if service_ms is None:
            shutil.copytree(MODEL_REPOSITORY / "top_tagger", Path(folder) / "models" / "top_tagger")
            config = Path(folder) / "models" / "top_tagger" / "config.pbtxt"
            config.write_text(config.read_text().replace("count: 1", f"count: {instances}"))
            return _goodput(Path(folder) / "models", "top_tagger", golden("top_tagger"), rounds)
        from tests.fpga_ops.onnx_models import quantise, resnet

        source = quantise(resnet((1,), 16, (3, 32, 32), classes=2, softmax=True), Path(folder) / "tiny.onnx")
        write_model(
            Path(folder) / "models", "tiny", source, device="first", more=POLICY + complete(source, None)
        )  # fmt: skip
        fault = Path(folder) / "fault"
        fault.write_text(f"sleep {service_ms / 1e3}")
        environment = {"TRITON_FPGA_TEST_FAULT": str(fault)}
        return _goodput(Path(folder) / "models", "tiny", images(), rounds, BACKEND, environment)


def _goodput(
    repository: Path, model: str, values: np.ndarray, rounds: int, backend: Path | None = None,
    environment: dict[str, str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    with (
        serving(repository, COMPLETE, "--no-watch", backend=backend, environment=environment) as service,
        Generator(service.urls["grpc"], encode(model, INPUTS.get(model, "images"), values)) as load,
    ):
        stubs = [stub for stub in find_stubs(service.server_pid) if stub.runs(model)]
        rate = load.run(WAITING).answers_per_s
        while (reached := load.run(Job(2.0, 1.0, rate=rate)).answers_per_s) > 0.9 * rate:
            rate *= 1.4
        pairs: list[Result] = []
        closed: list[Result] = []
        above: list[Result] = []
        flooded: list[Result] = []
        for _ in range(rounds):
            pairs.append(load.run(Job(2.0, 0.5, in_flight=2)))
            closed.append(load.run(WAITING))
            above.append(load.run(Job(3.0, 1.5, rate=1.3 * max(reached, _median(closed), _median(above)))))
            flooded.append(load.run(Job(4.0, 1.5, rate=3.0 * max(_median(closed), _median(above)))))
        most = max(_median(closed), _median(above))
        resident = sum(int(Path(f"/proc/{stub.pid}/statm").read_text().split()[1]) for stub in stubs) * PAGE
        after = load.run(Job(4.0, 0.5, rate=0.5 * most))
        ended: Counter[str] = Counter()
        for result in flooded:
            ended.update(result.ended)
        return {
            "most_per_s": most, "goodput_per_s": _median(flooded), "goodput_over_most": _median(flooded) / most,
            "offered_over_most": float(np.median([result.sent_per_s for result in flooded])) / most,
            "rounds": {
                "2 under way": [result.answers_per_s for result in pairs],
                "16 under way": [result.answers_per_s for result in closed],
                "open, 1.3 times": [result.answers_per_s for result in above],
                "open, 3 times": [result.answers_per_s for result in flooded],
            },
            "at_3_times": dict(ended),
            "sent_late_by_s": max(result.latest_s for result in flooded),
            "generator_cores": max(result.cpu_share for result in flooded),
            "stubs_mb": resident / 1e6,
            "longest_without_an_answer_s": {
                "2 under way": max(result.longest_gap_s for result in pairs),
                "16 under way": max(result.longest_gap_s for result in closed),
                "at 3 times": max(result.longest_gap_s for result in flooded),
            },
            "answered_at_half_the_load_after": after.ended.get("ok", 0) / after.sent, "restarts": service.restarts(),
        }  # fmt: skip


WAITING = Job(3.0, 0.5, in_flight=16)


def _median(results: list[Result]) -> float:
    return float(np.median([result.answers_per_s for result in results] or [0.0]))
