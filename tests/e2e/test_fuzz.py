"""Nonsense in every shape: a typed error each, no crash, no hang, and the next sound request is answered."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.e2e.conftest import Service, images, serving, write_model
from tests.e2e.fuzzing import (
    ANSWERED,
    OURS,
    GrpcCase,
    HttpCase,
    config_texts,
    corpus,
    grpc_bodies,
    grpc_corpus,
    http_cases,
    send_grpc,
    send_http,
    send_stream,
)
from tests.e2e.long import mutated_loads
from triton_server.repository.admission import refusal

pytestmark = pytest.mark.server

MORE = 'max_batch_size: 8\nparameters { key: "contract" value { string_value: "images" } }'


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_onnx: Path) -> Service:
    repository = tmp_path_factory.mktemp("fuzz") / "models"
    write_model(repository, "tiny", tiny_onnx, more=MORE)
    with serving(repository) as running:
        yield running


@pytest.fixture(autouse=True)
def _serves_on(service: Service) -> None:
    before = service.server_pid, service.stub("tiny")
    expected = service.infer("grpc", "tiny", images())
    yield
    np.testing.assert_array_equal(service.infer("http", "tiny", images()), expected)
    assert (service.server_pid, service.stub("tiny")) == before, "something was restarted"


@pytest.mark.parametrize("case", corpus(), ids=lambda case: case.name.replace(" ", "-"))
def test_the_corpus(service: Service, case: HttpCase) -> None:
    status, body = send_http(service, case)
    if case.name in ("sound", "all denormal", "all largest"):
        assert status == 200
    else:
        assert 400 <= status <= 500, "an error"
        assert json.loads(body)["error"], "with a reason"
        assert not any(word in body for word in OURS)
    if case.name in ("all nan", "all inf"):
        assert status == 400


def test_mutated_http(service: Service) -> None:
    for case in itertools.islice(http_cases(seed=1), 300):
        _, body = send_http(service, case)
        assert not any(word in body for word in OURS), case


@pytest.fixture(scope="module")
def channel(service: Service) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(service.urls["grpc"]) as opened:
        yield opened


@pytest.mark.parametrize("case", grpc_corpus(), ids=lambda case: case.name.replace(" ", "-"))
def test_the_grpc_corpus(channel: grpc.Channel, case: GrpcCase) -> None:
    status, reason = send_grpc(channel, case.body)
    if case.name in ANSWERED:
        assert status is grpc.StatusCode.OK, reason
        return
    theirs = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
    if case.name in ("no message", "half a message"):
        theirs = {grpc.StatusCode.INTERNAL}  # gRPC itself says so
    assert status in theirs, reason
    assert reason or grpc.StatusCode.INTERNAL in theirs
    assert not any(word in reason for word in OURS)


def test_the_grpc_corpus_in_one_stream(channel: grpc.Channel) -> None:
    """Each gets its own answer, and the sound ones between them theirs."""
    cases = [case for case in grpc_corpus() if case.name not in ("no message", "half a message")]
    sound = cases[0].body
    replies = send_stream(channel, itertools.chain.from_iterable((case.body, sound) for case in cases))
    assert len(replies) == 2 * len(cases)
    for case, (reply, after) in zip(cases, zip(replies[::2], replies[1::2], strict=True), strict=True):
        assert bool(reply.error_message) == (case.name not in ANSWERED), case.name
        assert not after.error_message, case.name


def test_mutated_grpc(channel: grpc.Channel) -> None:
    for body in itertools.islice(grpc_bodies(seed=1), 300):
        status, reason = send_grpc(channel, body)
        assert status not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED), body[:200]
        assert not any(word in reason for word in OURS), body[:200]


def test_mutated_configurations(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    for text in itertools.islice(config_texts(seed=1), 300):
        (folder / "config.pbtxt").write_bytes(text)
        refusal(folder)  # a sentence or None, never an exception


def test_mutated_models(tiny_onnx: Path) -> None:
    """In a process of its own, so that a crash in a library is a failure and not the end of the tests."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.e2e.long", "models", "--onnx", str(tiny_onnx), "--count", "60"],
        capture_output=True, text=True, timeout=250, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]


def test_mutated_versions_come_into_a_running_server() -> None:
    """Models and configurations that the server itself loads: a reason each, and the others serve on."""
    assert mutated_loads(16, seed=1) == 0
