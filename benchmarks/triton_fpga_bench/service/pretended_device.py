"""What the service makes of a device that leaves the processor alone, as an FPGA does; this one is only pretended."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sonic_client.errors import ClientError
from triton_fpga_bench.service.light_load import Generator, Job

_MODEL = Path(__file__).with_name("pretended_device_model.py")
CONNECTIONS = (1, 2, 8)
WAYS = {"one batch at a time": "false", "overlapped": "true"}
"""How the plugin gives the device its batches, and the model's parameter `overlap` for it."""


@contextmanager
def serving(folder: Path, model: Path, device_ms: float, host_ms: float, overlap: str) -> Iterator[str]:
    """A server of a model on a pretended device, while it is needed.

    Args:
        folder: A model repository is made in it.
        model: The model's folder in another repository, with its configuration and one version or more.
        device_ms: Milliseconds that the device takes for an image.
        host_ms: Milliseconds that the processor works for an image before.
        overlap: The model's parameter `overlap`.

    Yields:
        host:port of its gRPC.
    """
    from triton_server import TritonServer

    with tempfile.TemporaryDirectory(dir=folder) as repository:
        copy = Path(repository) / model.name
        # No known answers: the device gives others. No card either, which names them.
        shutil.copytree(model, copy, ignore=shutil.ignore_patterns("golden.npz", "model_card.json"))
        for file in copy.glob("*/model.onnx"):
            shutil.copy(_MODEL, file.with_name("model.py"))
        config = (copy / "config.pbtxt").read_text().replace('backend: "fpga"', 'backend: "python"')
        config += f'\nparameters {{ key: "overlap" value {{ string_value: "{overlap}" }} }}\n'
        (copy / "config.pbtxt").write_text(config)
        environment = {"TRITON_FPGA_PRETENDED_MS": str(device_ms), "TRITON_FPGA_PRETENDED_HOST_MS": str(host_ms)}
        with TritonServer(repository, auto_complete=None, environment=environment) as server:
            yield server.grpc_url


def rates(
    folder: Path, model: Path, body: bytes, *, device_ms: float, host_ms: float, seconds: float, turns: int
) -> dict[str, Any]:
    """Answers per second of the light generator, by way and connections, of servers that take turns.

    Args:
        folder: For files.
        model: The model's folder in a repository.
        body: An encoded request of one image.
        device_ms: Milliseconds that the pretended device takes for an image.
        host_ms: Milliseconds that the processor works for an image before.
        seconds: Length of one run.
        turns: Runs of each; their median counts.

    Raises:
        ClientError: Something else than an answer came.
    """
    runs: dict[str, dict[int, list[float]]] = {way: {n: [] for n in CONNECTIONS} for way in WAYS}
    with ExitStack() as stack:
        urls = {way: stack.enter_context(serving(folder, model, device_ms, host_ms, key)) for way, key in WAYS.items()}
        for _ in range(turns):
            for connections in CONNECTIONS:
                for way, url in urls.items():
                    with Generator(url, body, connections) as generator:
                        done = generator.run(Job(seconds, 0.5, in_flight=connections))
                    if done.ended.keys() - {"ok"}:
                        raise ClientError(f"{connections} requests at once: expected answers alone, got {done.ended}")
                    runs[way][connections].append(done.answers_per_s)
    medians = {way: {n: float(np.median(values)) for n, values in by.items()} for way, by in runs.items()}
    return {"device_ms": device_ms, "host_ms": host_ms, "per_s": medians, "runs": runs, "most_per_s": 1e3 / device_ms}
