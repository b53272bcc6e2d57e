"""Faults in the repository that cost one model at the most, while the others, and the versions before, serve on."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.conftest import COMPLETE, Service, Traffic, complete, images, serving, write_model
from triton_server.repository.model_version import describe_onnx

pytestmark = pytest.mark.server


@pytest.fixture
def service(repository: Path, tiny_onnx: Path) -> Iterator[Service]:
    write_model(repository, "other", tiny_onnx, more=complete(tiny_onnx))
    with serving(repository, COMPLETE) as started:
        yield started


def restart(service: Service) -> None:
    """As after a fault that has nothing to do with the repository."""
    before = service.restarts()
    os.kill(service.server_pid, signal.SIGKILL)
    service.wait_for(lambda: service.restarts() > before)
    service.wait_ready()


def state(service: Service, model: str) -> tuple[str, str]:
    """Version and state of a model, empty when it is not supervised."""
    found = [entry for entry in service.status()["models"] if entry["model"] == model]
    return (found[0]["version"], found[0]["state"]) if found else ("", "")


def test_the_version_before_serves_over_a_restart(service: Service, tiny_onnx: Path) -> None:
    expected = service.infer("grpc", "tiny", images())
    tiny = service.repository / "tiny"
    shutil.copytree(tiny / "1", tiny / ".2")
    (tiny / ".2" / "model.onnx").write_bytes(b"junk")
    (tiny / ".2").rename(tiny / "2")
    service.wait_for(lambda: "version 2" in service.status()["refused"].get("tiny", ""))
    for _ in range(2):
        assert state(service, "tiny") == ("1", "serving")
        np.testing.assert_array_equal(service.infer("grpc", "tiny", images()), expected)
        restart(service)
        assert "version 2" in service.status()["refused"]["tiny"], "it is told on"
    write_model(service.repository, "tiny", tiny_onnx, version=3)
    service.wait_for(lambda: state(service, "tiny") == ("3", "serving") and not service.status()["refused"])


def write_sequences(repository: Path, onnx_file: Path) -> None:
    """A model that wants to know which sequence a request belongs to."""
    option = "sequence_batching { max_sequence_idle_microseconds: 5000000 }"
    write_model(repository, "odd", onnx_file, more=complete(onnx_file) + option)


def write_wrong_ensemble(repository: Path, onnx_file: Path) -> None:
    """An ensemble with a known answer that its model never gives."""
    (score,) = describe_onnx(onnx_file)[1]
    version = write_model(repository, "odd", None, config=f"""
        platform: "ensemble" max_batch_size: 8
        input [ {{ name: "x" data_type: TYPE_FP32 dims: [ 3, 32, 32 ] }} ]
        output [ {{ name: "y" data_type: TYPE_FP32 dims: [ 2 ] }} ]
        ensemble_scheduling {{ step [ {{
            model_name: "tiny" model_version: -1
            input_map {{ key: "images" value: "x" }} output_map {{ key: "{score.name}" value: "y" }}
        }} ] }}
    """)  # fmt: skip
    np.savez(version / "golden.npz", input=images(), y=np.array([[2.0, -1.0]], np.float32))


@pytest.mark.parametrize(
    ("write", "reason", "restarts"),
    [
        (write_sequences, "known answer cannot be asked", {}),
        (write_wrong_ensemble, "wrong after 2 restarts", {"wrong": 2}),
    ],
    ids=["refused", "wrong"],
)
def test_a_model_that_cannot_be_right_does_not_take_the_others_with_it(
    repository: Path, tiny_onnx: Path, write: Callable[[Path, Path], None], reason: str, restarts: dict[str, int]
) -> None:
    write(repository, tiny_onnx)
    with serving(repository, COMPLETE, "--probe-interval", "0.2") as service:
        service.wait_for(lambda: reason in service.status()["refused"].get("odd", ""))
        asked = answered(service, "tiny")
        service.wait_for(lambda: answered(service, "tiny") > asked + 10, what="ten more rounds of known answers")
        assert reason in service.status()["refused"]["odd"]
        assert service.status()["restarts"] == restarts
        assert service.get("/ready")[0] == 200
        service.infer("grpc", "tiny", images())


@pytest.mark.parametrize("name", ["with space", 'it\'s \u00fcber "$HOME";&'])
def test_a_repository_may_have_any_path(tmp_path: Path, tiny_onnx: Path, name: str) -> None:
    repository = tmp_path / name / "models"
    write_model(repository, "tiny", tiny_onnx, more=complete(tiny_onnx))
    with serving(repository, COMPLETE) as service:
        assert state(service, "tiny") == ("1", "serving")
        write_model(repository, "tiny", tiny_onnx, version=2)
        service.wait_for(lambda: state(service, "tiny") == ("2", "serving"))
        assert service.infer("grpc", "tiny", images()).shape == (1, 2)
        assert not service.restarts()


def test_a_damaged_known_answer_hides_nothing(service: Service, tiny_onnx: Path) -> None:
    (service.repository / "tiny" / "1" / "golden.npz").write_bytes(b"PK\x03\x04" + b"junk" * 100)
    write_model(service.repository, "third", tiny_onnx, more=complete(tiny_onnx))
    service.wait_for(lambda: state(service, "third") == ("1", "serving"))
    assert state(service, "tiny") == ("1", "serving")
    restart(service)
    assert "golden.npz" in service.status()["refused"]["tiny"]
    assert state(service, "third") == ("1", "serving")


def test_a_link_that_leads_nowhere_is_refused_alone(service: Service, tiny_onnx: Path) -> None:
    (service.repository / "link").symlink_to(service.repository / "nowhere")
    service.wait_for(lambda: "link" in service.status()["refused"])
    write_model(service.repository, "third", tiny_onnx, more=complete(tiny_onnx))
    service.wait_for(lambda: state(service, "third") == ("1", "serving"))
    restart(service)
    assert {entry["model"] for entry in service.status()["models"]} == {"tiny", "other", "third"}


def test_a_folder_that_triton_takes_for_a_huge_version_ends_nobody(service: Service) -> None:
    (service.repository / "other" / ("9" * 20)).mkdir()
    service.wait_for(lambda: "counts as version" in service.status()["refused"].get("other", ""))
    restart(service)
    service.wait_for(lambda: state(service, "tiny") == ("1", "serving"))
    assert service.restarts() == 1


def test_a_publication_is_never_unready(service: Service, tiny_onnx: Path) -> None:
    write_model(service.repository, "tiny", tiny_onnx, version=2)
    seen = set()
    until = time.monotonic() + 30
    while state(service, "tiny") != ("2", "serving"):
        seen.add(service.get("/ready")[0])
        assert time.monotonic() < until
    assert seen == {200}
    assert told_versions(service, "tiny") == ["2"]
    shutil.rmtree(service.repository / "tiny" / "2")  # the roll-back
    service.wait_for(lambda: state(service, "tiny") == ("1", "serving"))
    assert told_versions(service, "tiny") == ["1"]


def answered(service: Service, model: str) -> float:
    """Requests of a model that were answered, known answers among them."""
    return service.metric("nv_inference_request_success", f'model="{model}"')


def told_versions(service: Service, model: str) -> list[str]:
    """The versions that the server's own metrics name as answering, once those that ended have taken back their word.

    Triton 2.51 keeps a version loaded that a gRPC stream has asked first, so this holds without streams.
    """

    def values(version: str) -> float:
        return service.metric("fpga_model_info", f'model="{model}"', f'version="{version}"')

    service.wait_for(lambda: values("1") + values("2") == 1, what="one version that answers")
    return [version for version in ("1", "2") if values(version)]


def test_files_replaced_one_by_one_are_served_when_they_fit(
    service: Service, tiny_onnx_2: Path, tmp_path: Path
) -> None:  # fmt: skip
    """Not as it should be done; what was loaded serves until then, and is judged by its own known answer."""
    before = service.infer("grpc", "tiny", images())
    new = write_model(tmp_path / "elsewhere", "tiny", tiny_onnx_2)
    with Traffic(service, "tiny") as traffic:
        for number, name in enumerate(("golden.npz", "model_card.json", "model.onnx"), 1):
            shutil.copy(new / name, service.repository / "tiny" / "1" / name)
            service.wait_for(lambda n=number: service.log.read_text().count("model 'tiny' changed and") == n)
            asked = len(traffic.answers)
            service.wait_for(lambda n=asked: len(traffic.answers) > n + 10)
    assert {status for _, _, status, _ in traffic.answers} == {"ok"}
    assert not service.restarts()
    assert not np.array_equal(service.infer("grpc", "tiny", images()), before)
