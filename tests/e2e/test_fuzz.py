"""Nonsense in every shape: a typed error each, no crash, no hang, and the next sound request is answered."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.e2e.conftest import Service, images, serving, write_model
from tests.e2e.fuzzing import OURS, HttpCase, config_texts, corpus, grpc_bodies, http_cases, send_grpc, send_http
from triton_server.verify import refusal

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


def test_mutated_grpc(service: Service) -> None:
    with grpc.insecure_channel(service.urls["grpc"]) as channel:
        for body in itertools.islice(grpc_bodies(seed=1), 300):
            status = send_grpc(channel, body)
            assert status not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED), body[:200]


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
