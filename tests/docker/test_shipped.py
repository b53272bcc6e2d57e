"""The shipped models in the stack, and the capacity plan against what they do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from tests.benchmarks.test_capacity import capacity
from tests.docker.conftest import Docker, Stack
from tests.docker.models import MODELS, SHIPPED
from tests.docker.traffic import Traffic, constituents, infer

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def stack(docker: Docker, environment: dict[str, str]) -> Iterator[Stack]:
    """One replica with the models of this checkout."""
    shipped = {**environment, "MODEL_SOURCE": str(SHIPPED), "REPLICAS": "1"}
    running = Stack(docker, f"tfpga{os.getpid()}shipped", shipped)
    try:
        running.up("envoy", "server")
        yield running
    finally:
        running.down()
    assert running.leftovers() == []


def test_known_answers_come_through_the_proxy(stack: Stack) -> None:
    with (
        tritonclient.grpc.InferenceServerClient(stack.address("envoy", 8001)) as by_grpc,
        tritonclient.http.InferenceServerClient(stack.address("envoy", 8000)) as by_http,
    ):
        for model in MODELS:
            versions = (path for path in (SHIPPED / model).iterdir() if path.name.isdigit())
            newest = max(versions, key=lambda path: int(path.name))
            golden = np.load(newest / "golden.npz", allow_pickle=False)
            for client in (by_grpc, by_http):
                scores = infer(client, model, golden["input"][:2]).as_numpy("probabilities")
                np.testing.assert_allclose(scores, golden["probabilities"][:2], atol=1e-6)


def test_the_queueing_simulation_agrees_with_this_node(stack: Stack, note: Callable[[str], None]) -> None:
    """The curve of one replica, measured and simulated from its own statistics.

    Clients, proxy and replica share this machine's cores here, which the simulation does not know, so only the shape is
    asked for; docs/benchmarks/capacity-node.md has a measurement on a quiet machine.
    """
    addresses = stack.address("envoy", 8001), stack.address("envoy", 8000)
    rates: dict[int, float] = {}
    for count in (1, 4, 16):
        with Traffic(*addresses, "top_tagger", constituents(), clients=("grpc",) * count) as traffic:
            traffic.run(10 * count)
            began, first = time.monotonic(), traffic.answered
            traffic.run(300 + 100 * count)  # some seconds: a hiccup of the host is a small part of them
            rates[count] = (traffic.answered - first) / (time.monotonic() - began)
        assert traffic.failures == []
    service = capacity.read_statistics(f"http://{addresses[1]}", "top_tagger")
    node = capacity.Node(service, capacity.overhead_ms(service, rates[1]))
    for row in capacity.compare(node, rates):
        told = (
            f"{row['clients']} clients: measured {row['measured']:.0f}/s, {row['measured_ms']:.1f} ms; "
            f"simulated {row['simulated']:.0f}/s ({row['deviation']:+.0%}), {row['simulated_ms']:.1f} ms"
        )
        note(told)
        assert 0.5 < 1 + row["deviation"] < 2.0, told
