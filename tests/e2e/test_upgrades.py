"""New versions, bad versions, roll-backs and changed configurations under traffic: no request fails."""

from __future__ import annotations

import contextlib
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.e2e.conftest import COMPLETE, CONFIG, Traffic, complete, images, serving, write_model

pytestmark = pytest.mark.server


def test_versions_come_and_go_under_traffic(tmp_path: Path, tiny_onnx: Path, tiny_onnx_2: Path) -> None:
    repository = tmp_path / "models"
    write_model(repository, "tiny", tiny_onnx, more=complete(tiny_onnx))
    with serving(repository, COMPLETE) as service:
        first = service.infer("grpc", "tiny", images())

        def answers(expected: np.ndarray) -> bool:
            return np.array_equal(service.infer("grpc", "tiny", images()), expected)

        with Traffic(service, "tiny", ("grpc", "http", "stream"), pause_s=0.02) as traffic:
            write_model(repository, "tiny", tiny_onnx_2, version=2)
            service.wait_for(lambda: not answers(first), what="version 2")
            second = service.infer("grpc", "tiny", images())
            service.wait_for(lambda: [entry["version"] for entry in service.status()["models"]] == ["2"])

            bad = tmp_path / "bad.onnx"
            bad.write_bytes(tiny_onnx.read_bytes()[:3000])
            write_model(repository, "tiny", bad, version=3, golden=False)
            service.wait_for(lambda: "tiny" in service.log.read_text() and "does not load" in service.log.read_text())
            assert answers(second), "the old version serves on"
            shutil.rmtree(repository / "tiny" / "3")

            config = CONFIG.format(device="reference", more=complete(tiny_onnx, 4))
            (repository / "tiny" / "config.pbtxt").write_text(config)
            service.wait_for(lambda: service.client("grpc").get_model_config("tiny").config.max_batch_size == 4)

            shutil.rmtree(repository / "tiny" / "2")  # the roll-back
            service.wait_for(lambda: answers(first), what="version 1")
            service.wait_for(lambda: [entry["version"] for entry in service.status()["models"]] == ["1"])
        assert traffic.statuses() == {"ok"}
        assert len(traffic.answers) > 20
        for _, _, _, answer in traffic.answers:
            assert answer is not None
            assert np.array_equal(answer, first) or np.array_equal(answer, second), "an answer of neither version"


def test_version_policy(tmp_path: Path, tiny_onnx: Path, tiny_onnx_2: Path) -> None:
    repository = tmp_path / "models"
    policy = CONFIG.format(device="reference", more="version_policy { all {} }\n" + complete(tiny_onnx))
    write_model(repository, "tiny", tiny_onnx, config=policy)
    write_model(repository, "tiny", tiny_onnx_2, version=2)
    with serving(repository, COMPLETE, "--no-watch") as service:
        states = {entry["version"]: entry["state"] for entry in service.status()["models"]}
        assert states == {"1": "serving", "2": "serving"}, "each version is probed by itself"
        both = [service.infer("grpc", "tiny", images(), model_version=version) for version in ("1", "2")]
        assert not np.array_equal(*both)
        np.testing.assert_array_equal(service.infer("http", "tiny", images()), both[1])


def test_what_a_user_unloads_stays_unloaded(repository: Path, tiny_onnx: Path) -> None:
    write_model(repository, "other", tiny_onnx, more=complete(tiny_onnx))
    with serving(repository, COMPLETE, "--probe-interval", "0.3") as service:
        service.client("http").unload_model("other", headers=service.admin)
        service.wait_for(lambda: [entry["model"] for entry in service.status()["models"]] == ["tiny"])
        service.wait_ready()
        service.client("grpc").load_model("other", headers=service.admin)
        service.wait_for(lambda: len(service.status()["models"]) == 2)
        assert service.infer("grpc", "other", images()).shape == (1, 2)
        assert not service.restarts(), "nothing of this was a failure"


def test_two_operators_load_and_unload_at_once(repository: Path, tiny_onnx: Path) -> None:
    """Over HTTP and gRPC, without end, while clients ask another model: they notice nothing."""
    write_model(repository, "other", tiny_onnx, more=complete(tiny_onnx))
    with serving(repository, COMPLETE) as service:
        expected = service.infer("grpc", "tiny", images())

        def operate(kind: str) -> None:
            client = service.client(kind)
            for _ in range(4):
                with contextlib.suppress(InferenceServerException):  # the other has just unloaded it
                    client.unload_model("other", headers=service.admin)
                    client.load_model("other", headers=service.admin)

        with Traffic(service, "tiny", ("grpc", "http", "stream"), pause_s=0.02) as traffic:
            operators = [threading.Thread(target=operate, args=(kind,)) for kind in ("http", "grpc")]
            for operator in operators:
                operator.start()
            for operator in operators:
                operator.join(60)
        assert not any(operator.is_alive() for operator in operators)
        assert traffic.statuses() == {"ok"}
        assert all(np.array_equal(answer, expected) for *_, answer in traffic.answers)
        service.client("http").load_model("other", headers=service.admin)
        assert service.infer("grpc", "other", images()).shape == (1, 2)
        assert not service.restarts(), "nothing of this was a failure"
