"""The client with the real Triton server and our backend, on tiny models."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import awkward as ak
import numpy as np
import pytest

import sonic_client
from sonic_client import (
    AsyncClient,
    Client,
    InvalidRequestError,
    JetError,
    LocalModel,
    LocalServer,
    ModelNotFoundError,
    prepare,
)
from tests.clients.jets import random_jets
from tests.clients.models import write_repository
from triton_server import TritonServer

pytestmark = pytest.mark.server
IMAGES = np.random.default_rng(3).random((6, 3, 224, 224), dtype=np.float32)


def test_three_lines(grpc_url: str) -> None:
    jets = random_jets(20)
    events = ak.unflatten(jets, [3, 0, 17])
    client = Client(f"{grpc_url}/top_tagger")
    scores = client.tag(events)
    assert ak.num(scores).to_list() == [3, 0, 17]
    assert np.array_equal(ak.flatten(scores), client.tag(jets))
    assert len(set(np.asarray(ak.flatten(scores)).tolist())) > 10
    assert np.array_equal(sonic_client.tag(jets, f"{grpc_url}/top_tagger"), ak.flatten(scores))
    client.close()


def test_all_ways_give_the_same_bits(grpc_url: str, http_url: str) -> None:
    jets = random_jets(24)
    expected = None
    for url in (grpc_url, http_url):
        for settings in ({}, {"batch_size": 5}, {"compression": "gzip"}, {"shared_memory": True}, {"priority": 1}):
            with Client(f"{url}/top_tagger/1", **settings) as client:
                scores = client.probabilities(jets)
            expected = scores if expected is None else expected
            assert np.array_equal(scores, expected), (url, settings)


@pytest.mark.parametrize("shared", [True, False])
def test_images(grpc_url: str, http_url: str, shared: bool) -> None:
    results = []
    for url in (grpc_url, http_url):
        with Client(f"{url}/resnet50_top", shared_memory=shared) as client:
            results.append(client.tag(IMAGES))
            assert np.array_equal(client.tag(IMAGES[0]), results[-1][0])
            sent = client.statistics().bytes_sent
            assert sent == (0 if shared else 7 * IMAGES[0].nbytes)
            with pytest.raises(JetError, match="images"):
                client.tag(random_jets(2))
    assert np.array_equal(*results)
    assert not list(Path("/dev/shm").glob(f"sonic-{os.getpid()}-*"))  # noqa: S108


def test_shared_memory_is_chosen_by_measurement(grpc_url: str) -> None:
    with Client(f"{grpc_url}/resnet50_top", max_in_flight=2) as client:
        scores = client.tag(np.concatenate([IMAGES] * 6))
        server = next(iter(client.servers().values()))
        assert isinstance(server["shared_memory"], bool)
        assert 0 < client.statistics().bytes_sent <= 36 * IMAGES[0].nbytes
    assert np.array_equal(scores[:6], scores[30:])


def test_asyncio_with_many_clients_at_once(grpc_url: str, http_url: str) -> None:
    jets = random_jets(30)

    async def scenario() -> list[ak.Array]:
        async with AsyncClient(f"{grpc_url}/top_tagger") as one, AsyncClient(f"{http_url}/top_tagger") as two:
            return await asyncio.gather(*(client.tag(jets) for client in (one, two, one, two)))

    results = asyncio.run(scenario())
    assert all(np.array_equal(result, results[0]) for result in results)


def test_the_servers_refusals_are_typed(grpc_url: str, http_url: str) -> None:
    unsorted = np.zeros((1, 200, 4), np.float32)
    unsorted[0, :2] = [[1, 1, 0, 0], [5, 5, 0, 0]]
    for url in (grpc_url, http_url):
        with Client(f"{url}/top_tagger") as client:
            with pytest.raises(InvalidRequestError, match="sorted by falling pT"):
                client.infer({"constituents": unsorted})
            with pytest.raises(InvalidRequestError, match="batch"):
                client.infer({"constituents": np.zeros((9, 200, 4), np.float32)})
        for path in ("no_such_model", "top_tagger/7"):
            with Client(f"{url}/{path}") as client, pytest.raises(ModelNotFoundError, match="does not serve"):
                client.tag(random_jets(1))


def test_where_the_time_goes(grpc_url: str) -> None:
    with Client(f"{grpc_url}/top_tagger") as client:
        tensor = next(prepare(random_jets(1)).chunks(1))
        reply, parts = client.explain({"constituents": tensor})
        assert reply.model_version == "1"
        assert parts.exclusive
        assert parts.compute_infer_ms > 0
        named = (
            parts.client_ms + parts.network_ms + parts.queue_ms
            + parts.compute_input_ms + parts.compute_infer_ms + parts.compute_output_ms
        )  # fmt: skip
        assert named == pytest.approx(parts.total_ms, rel=0.3, abs=0.5)
        client.tag(random_jets(20))
        patience = time.monotonic() + 5  # the server answers first and books it afterwards
        while (server := next(iter(client.server_statistics().values())))["requests"] < 21:
            assert time.monotonic() < patience, server
            time.sleep(0.01)
        assert server["requests"] == 21
        summary = client.statistics().summary()
        assert (summary["requests"], summary["inferences"]) == (21, 21)
        assert summary["bytes_sent"] == 21 * 3200
        assert 0 < summary["p50_ms"] <= summary["p99_ms"]


def test_who_serves_what(grpc_url: str) -> None:
    with Client(f"{grpc_url}/top_tagger") as client:
        (rows,) = client.index().values()
        assert {(row["name"], row["state"]) for row in rows} == {("top_tagger", "READY"), ("resnet50_top", "READY")}
        assert client.config()["backend"] == "fpga"


def _in_another_process(client: Client, seed: int) -> list[float]:
    return [float(score) for score in client.tag(random_jets(5, seed))]


def test_in_worker_processes(grpc_url: str) -> None:
    with Client(f"{grpc_url}/top_tagger") as client:
        expected = [_in_another_process(client, seed) for seed in range(3)]
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            assert list(pool.map(_in_another_process, [client] * 3, range(3))) == expected


def test_a_restarted_server_is_found_again(repository: Path) -> None:
    jets = random_jets(6)
    with TritonServer(repository, auto_complete=None) as server:
        client = Client(f"grpc://{server.grpc_url}/top_tagger", shared_memory=True)
        expected = client.tag(jets)
        server.stop()
        future = client.submit({"constituents": next(prepare(jets).chunks(1))})
        time.sleep(0.5)
        assert not future.done()
        server.start()
        assert float(future.result(60).outputs["probabilities"][0, 1]) == expected[0]
        assert np.array_equal(client.tag(jets), expected)
        client.close()


def test_the_local_fallback_gives_the_same_bits(grpc_url: str, repository: Path) -> None:
    jets = random_jets(8)
    local = LocalModel(repository / "top_tagger" / "1" / "model.onnx", "reference")
    with Client(f"{grpc_url}/top_tagger") as client:
        expected = client.tag(jets)
    with Client("grpc://127.0.0.1:9/top_tagger", fallback=local, fallback_after=0.2) as client:
        began = time.monotonic()
        assert np.array_equal(client.tag(jets), expected)
        assert time.monotonic() - began < 10
        reply = client.infer({"constituents": next(prepare(jets).chunks(1))})
        assert reply.server.startswith("local:")
        assert client.statistics().fallbacks >= 9


def test_a_server_of_our_own_as_fallback(tmp_path: Path) -> None:
    repository = write_repository(tmp_path)
    with Client("grpc://127.0.0.1:9/top_tagger", fallback=LocalServer(repository), fallback_after=0.2) as client:
        assert len(client.tag(random_jets(8))) == 8
        states = [server["state"] for server in client.servers().values()]
        assert states == ["out", "ready"]
