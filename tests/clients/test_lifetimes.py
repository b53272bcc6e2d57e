"""Event loops that end, servers that cannot be asked for a moment, and fallbacks that fail."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpga_ops
from fpga_ops.errors import DeviceError
from sonic_client import (
    AsyncClient,
    Client,
    ConfigurationError,
    DeadlineError,
    JetError,
    LocalModel,
    LocalServer,
    ModelNotFoundError,
    Options,
    Retry,
    ServerFaultError,
    Tls,
)
from sonic_client.core.fallback import LocalTransport, OwnServer
from sonic_client.core.faults import Fault, Kind
from sonic_client.core.transports.base import Call
from tests.clients.fake_server import FakeTriton, serving
from tests.clients.jets import random_jets
from tests.clients.models import write_repository
from tests.clients.test_session import FAST, INPUT, wait_for

NOBODY = "grpc://127.0.0.1:9/top_tagger"


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("local")) / "top_tagger" / "1" / "model.onnx"


# ---- absent models


@pytest.mark.parametrize("not_found", [True, False])
def test_an_absent_model_is_told_at_once(not_found: bool) -> None:
    fake = FakeTriton(known=False, absent_is_not_found=not_found)
    began = time.monotonic()
    with (
        serving(fake) as (_, address),
        Client(address, "top_tagger", warm_up=100) as client,
        pytest.raises(ModelNotFoundError, match="does not serve model 'top_tagger'"),
    ):
        client.infer(INPUT)
    assert time.monotonic() - began < 50  # and not the 100 s that a server would be waited for
    assert not fake.requests


def test_a_model_that_comes_later_is_used_after_not_found() -> None:
    without, having = FakeTriton(known=False, absent_is_not_found=True), FakeTriton()
    with (
        serving(without) as (_, first),
        serving(having) as (_, second),
        Client([first, second], "top_tagger") as client,
    ):
        assert len(client.tag(random_jets(3))) == 3
        assert client.servers()[f"grpc://{first}"]["state"] == "absent"
        assert not without.requests


# ---- the pool goes on


def test_a_token_that_is_away_for_a_moment_costs_no_server(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret")
    fake = FakeTriton(token="s3cret")  # noqa: S106
    with serving(fake) as (_, address):
        client = Client(address, "top_tagger", token=token, retry=FAST, eject_for=0.01)
        client.infer(INPUT)
    with pytest.raises(Exception, match="top_tagger"):
        client.infer(INPUT, deadline=0.3)
    name = f"grpc://{address}"
    token.unlink()
    wait_for(lambda: "token file cannot be read" in client.servers()[name]["reason"])
    token.write_text("s3cret")
    with serving(FakeTriton(token="s3cret"), int(address.rpartition(":")[2])):  # noqa: S106
        wait_for(lambda: client.servers()[name]["state"] != "out", 20.0)
        assert client.infer(INPUT).outputs["probabilities"].shape == (1, 2)
    client.close()


# ---- statistics


def test_statistics_stay_as_they_are() -> None:
    with serving(FakeTriton()) as (_, address), Client(address, "top_tagger") as client:
        client.infer(INPUT)
        before = client.statistics()
        kept = dataclasses.replace(before, latencies_ms=before.latencies_ms.copy())
        reading = threading.Event()
        failures: list[BaseException] = []

        def read() -> None:
            while not reading.is_set():
                try:
                    client.statistics().summary()
                except RuntimeError as error:
                    failures.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(300):
            client.infer(INPUT)
        reading.set()
        reader.join()
        assert not failures
        assert before == kept
        assert client.statistics().requests == 301


# ---- fallbacks


class _Network:
    """What `fpga_ops.load` gives, with a device that fails or takes its time."""

    def __init__(self, network: Any, error: Exception | None, until: threading.Event | None) -> None:
        self._network = network
        self._error = error
        self._until = until

    def run(self, inputs: Mapping[str, Any]) -> Any:
        if self._error is not None:
            raise self._error
        if self._until is not None:
            self._until.wait(30)
        return self._network.run(inputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)


def _call() -> Call:
    tensor = np.zeros((1, 200, 4), np.float32)
    tensor[0, 0] = [5, 3, 0, 4]
    return Call("top_tagger", "", {"constituents": tensor}, "1")


def test_a_failing_device_of_the_fallback_is_a_server_fault(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = fpga_ops.load
    monkeypatch.setattr(fpga_ops, "load", lambda *a: _Network(load(*a), DeviceError("the card fell off"), None))
    local = LocalModel(model_file, "reference")
    retry = Retry(0.001, 0.01, attempts=2)
    with (
        Client(NOBODY, fallback=local, fallback_after=0.1, retry=retry) as client,
        pytest.raises(ServerFaultError, match="the card fell off"),
    ):
        client.infer(INPUT)


def test_the_fallback_keeps_to_the_deadline(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, until = fpga_ops.load, threading.Event()
    monkeypatch.setattr(fpga_ops, "load", lambda *a: _Network(load(*a), None, until))
    local = LocalModel(model_file, "reference")
    with Client(NOBODY, fallback=local, fallback_after=0.1) as client:
        with pytest.raises(DeadlineError):
            client.infer(INPUT, deadline=0.5)
        until.set()
        assert client.infer(INPUT).server.startswith("local:")


def test_the_transport_itself(model_file: Path) -> None:
    async def scenario() -> tuple[Kind, Any]:
        transport = LocalTransport(LocalModel(model_file, "reference"), "top_tagger")
        reply = await transport.infer(_call(), 30.0)
        wrong = dataclasses.replace(_call(), inputs={"constituents": np.zeros((1, 3, 4), np.float32)})
        with pytest.raises(Fault) as caught:
            await transport.infer(wrong, 30.0)
        await transport.close()
        return caught.value.kind, reply.parameters

    kind, parameters = asyncio.run(scenario())
    assert kind is Kind.CALLER
    assert (parameters["device"], parameters["precision"], parameters["version"]) == ("reference", "int8", "1")
    assert parameters["kernel"]


@pytest.mark.parametrize("fallback", ["model", pytest.param("server", marks=pytest.mark.server)])
def test_a_fallback_that_cannot_start_says_so_each_time(tmp_path: Path, fallback: str) -> None:
    wanted = LocalModel(tmp_path / "none.onnx") if fallback == "model" else LocalServer(tmp_path / "none")
    with Client(NOBODY, fallback=wanted, fallback_after=0.1) as client:
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="none"):
                client.infer(INPUT)


def test_an_own_server_that_does_not_start_leaves_nothing(tmp_path: Path) -> None:
    own = OwnServer(LocalServer(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="local server does not start"):
        own.start()
    own.stop()


# ---- strings for paths


def test_strings_are_paths(model_file: Path) -> None:
    with Client(NOBODY, fallback=LocalModel(str(model_file), "reference"), fallback_after=0.1) as client:
        assert client.infer(INPUT).server == f"local:{model_file}"
    assert LocalServer("models").model_repository == Path("models")
    tls = Tls(ca=str(model_file))
    assert tls.ca == model_file
    assert tls.contents()[0] == model_file.read_bytes()
    with pytest.raises(ConfigurationError, match="cannot be used"):
        tls.context()
    with pytest.raises(ConfigurationError, match="does not exist"):
        Tls(ca="no/such/file.pem")


@pytest.mark.parametrize(
    "setting",
    [
        {"deadline": "3"}, {"deadline": math.nan}, {"deadline": 0}, {"deadline": True}, {"eject_for": None},
        {"warm_up": -1}, {"warm_up": math.nan}, {"fallback_after": "x"}, {"hedge_after": "1"},
        {"attempt_timeout": math.nan}, {"max_in_flight": True}, {"batch_size": 2.5}, {"priority": -1},
        {"priority": "1"},
        {"labels": "top"}, {"labels": ()}, {"labels": ("a", "a")}, {"labels": ("", "top")}, {"labels": None},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_make_no_sense_are_named(setting: dict[str, Any]) -> None:
    """One string of classes, above all: its letters were taken for classes, and the first one's score for the top's."""
    with pytest.raises(ConfigurationError, match=f"^{next(iter(setting))}: expected"):
        Options(**setting)


def test_settings_at_their_limits() -> None:
    made = Options(deadline=math.inf, warm_up=0, hedge_after=None, priority=0, labels=["qcd", "top"])  # type: ignore[arg-type]
    assert made.labels == ("qcd", "top")
    for wrong in ({"cap": 0.01}, {"attempts": 1.5}, {"attempts": 0}, {"base": math.nan}, {"base": "1"}):
        with pytest.raises(ConfigurationError):
            Retry(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("inputs", [[INPUT], np.zeros((1, 200, 4), np.float32), None, "constituents"])
def test_inputs_that_have_no_names_are_refused(inputs: Any) -> None:
    with serving(FakeTriton()) as (_, address), Client(address, "top_tagger") as client:
        with pytest.raises(JetError, match="inputs: expected a dictionary of tensors by name, got"):
            client.infer(inputs)
        assert client.infer(INPUT).outputs


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LocalModel(3), "LocalModel.path: expected a path"),
        (lambda: LocalServer(None), "LocalServer.model_repository: expected a path"),
        (lambda: Tls(ca=b"pem"), "Tls.ca: expected a path"),
        (lambda: Options(fallback="model.onnx"), "fallback: expected LocalModel"),
        (lambda: Options(tls="ca.pem"), "tls: expected Tls"),
        (lambda: Options(retry=3), "retry: expected Retry"),
    ],
)
def test_what_is_no_path_is_refused(make: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make()


# ---- event loops


@pytest.fixture
def address() -> Iterator[str]:
    with serving(FakeTriton()) as (_, address):
        yield address


@pytest.mark.parametrize("shared", [True, None])
def test_a_second_asyncio_run_connects_anew(address: str, shared: bool | None) -> None:
    client = AsyncClient(address, "top_tagger", shared_memory=shared)
    for _ in range(3):
        reply = asyncio.run(client.infer(INPUT))
        assert reply.attempts == 1
    asyncio.run(client.close())
    assert asyncio.run(client.infer(INPUT)).attempts == 1


@pytest.mark.server
def test_a_second_asyncio_run_over_http(http_url: str, grpc_url: str) -> None:
    jets = random_jets(4)
    for url in (http_url, grpc_url):
        client = AsyncClient(f"{url}/top_tagger", shared_memory=True)
        scores = [asyncio.run(client.tag(jets)) for _ in range(3)]
        assert np.array_equal(scores[0], scores[2])
        assert not list(Path("/dev/shm").glob(f"sonic-{os.getpid()}-*"))  # noqa: S108


def test_a_loop_that_was_closed_without_its_generators(address: str) -> None:
    client = AsyncClient(address, "top_tagger")
    for _ in range(2):
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(client.infer(INPUT)).attempts == 1
        loop.close()


def test_two_loops_at_once_are_refused(address: str) -> None:
    client = AsyncClient(address, "top_tagger")

    async def outer() -> None:
        await client.infer(INPUT)
        inner = asyncio.to_thread(asyncio.run, client.infer(INPUT))
        with pytest.raises(ConfigurationError, match="another event loop"):
            await inner
        assert (await client.infer(INPUT)).attempts == 1

    asyncio.run(outer())
