"""Following a repository, without a server: its control API is replaced, the files are real."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backends.supervisor.conftest import Clock, health
from triton_server.errors import ControlError, ServerStartError
from triton_server.repository.admission import Verdict
from triton_server.server.control_api import Control
from triton_server.server.server import TritonServer
from triton_server.supervisor.limits import Limits
from triton_server.supervisor.models import ModelTable
from triton_server.supervisor.repository_files import fingerprints
from triton_server.supervisor.repository_watch import RepositoryWatch, clean_reason
from triton_server.supervisor.restarts import Request, Restarts


@pytest.fixture
def models(clock: Clock) -> ModelTable:
    return ModelTable(clock)


@pytest.fixture
def watch(tmp_path: Path, models: ModelTable, restarts: Restarts, clock: Clock) -> RepositoryWatch:
    return RepositoryWatch(
        TritonServer(tmp_path), models, restarts, Limits(), probe=lambda new: None, describe=lambda served: None,
        pause=lambda seconds: False, clock=clock,
    )  # fmt: skip


def test_a_server_that_falls_silent_at_its_start_has_not_started(
    watch: RepositoryWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: object, **__: object) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(Control, "index", silent)
    with pytest.raises(ServerStartError, match="did not answer for its models: timed out"):
        watch.take_over(Verdict())


def test_what_triton_refuses_is_tried_again_more_and_more_rarely(
    watch: RepositoryWatch, models: ModelTable, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = clock.now
    tried: list[tuple[float, str]] = []

    def load(control: Control, model: str) -> None:
        tried.append((clock.now - began, model))
        raise ControlError("no such device", 400)

    monkeypatch.setattr(Control, "load", load)
    tiny = health("tiny")
    refused = {"absent": "no device", "swapped": "other SHA-256", "tiny": "version 2 is faulty, 1 serves"}
    models.replace({tiny.key: tiny}, refused, {tiny.key}, ())
    verdict = Verdict(refused={"swapped": "other SHA-256"})
    while clock.now < began + 4000:
        watch.load_later(verdict)
        clock.now += 1.0
    assert tried == [(at, "absent") for at in (5, 15, 35, 75, 155, 315, 635, 1235, 1835, 2435, 3035, 3635)]


def test_a_model_that_never_answers_before_it_ends_is_left_out_for_a_while(
    watch: RepositoryWatch, models: ModelTable, clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("tiny", "other"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "config.pbtxt").write_text('backend: "fpga"')
    loaded: list[str] = []
    monkeypatch.setattr(Control, "load", lambda control, model: loaded.append(model))
    watch.prepare()
    healths = {one.key: one for one in (health("tiny"), health("other"))}
    models.replace(healths, {}, set(healths), ())

    def dies(instance: str = "tiny_0_0") -> list[str]:
        watch.blame(Request("dead", f"the stub of {instance} has ended", instance))
        return watch.prepare().accepted

    for answered in (True, False, False):
        healths["tiny", "1"].answered = answered
        assert dies() == ["other", "tiny"]
    assert dies("") == ["other", "tiny"], "the server itself"
    assert dies("other_0") == ["other", "tiny"], "another one's first"
    assert dies() == ["other"]
    reason = watch.prepare().refused["tiny"]
    assert reason.startswith("it does not survive its first request, after 2 restarts")
    clock.now += 599
    watch.load_later(watch.prepare())
    assert not loaded
    clock.now += 1
    watch.load_later(watch.prepare())
    assert loaded == ["tiny"]
    for _ in range(3):
        dies()
    assert "tiny" in watch.prepare().refused
    (tmp_path / "tiny" / "config.pbtxt").write_text('backend: "fpga" max_batch_size: 2')
    assert watch.prepare().accepted == ["other", "tiny"], "its files have changed"


def test_a_refused_model_whose_load_stalls_is_acted_on(
    watch: RepositoryWatch, models: ModelTable, restarts: Restarts, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(control: Control, model: str) -> None:
        raise TimeoutError

    monkeypatch.setattr(Control, "load", load)
    models.replace({}, {"absent": "no device"}, set(), ())
    watch.load_later(Verdict())
    clock.now += 6.0
    with pytest.raises(TimeoutError):  # which ends this look at the repository
        watch.load_later(Verdict())
    assert [request.cause for request in restarts.requests] == ["stalled"]


def test_reasons_lose_their_wrapping() -> None:
    reason = (
        "Internal: TritonModelException: tiny version 1: node 'x' (Sigmoid): unsupported\n\nAt:\n  model.py(3): f\n"
    )
    assert clean_reason(reason) == "tiny version 1: node 'x' (Sigmoid): unsupported"
    assert clean_reason("unable to open") == "unable to open"


def test_fingerprints_see_what_decides_and_nothing_hidden(tmp_path: Path) -> None:
    version = tmp_path / "tiny" / "1"
    version.mkdir(parents=True)
    (tmp_path / "tiny" / "config.pbtxt").touch()
    (version / "model.onnx").touch()
    before = fingerprints(tmp_path)
    (tmp_path / "tiny" / ".2").mkdir()
    (tmp_path / "tiny" / ".2" / "model.onnx").touch()
    (tmp_path / "@eaDir" / "1").mkdir(parents=True)
    (tmp_path / "@eaDir" / "1" / "thumb").touch()
    assert fingerprints(tmp_path) == before
    (version / "model.onnx").write_text("x")
    assert fingerprints(tmp_path) != before
