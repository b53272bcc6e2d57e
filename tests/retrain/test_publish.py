import argparse
import errno
import fcntl
import json
import socket
from pathlib import Path
from typing import IO

import numpy as np
import onnx
import pytest

from fpga_ops.ir.network import INTEGER_RULE
from retrain.commands import renew_answers as renew_command
from retrain.commands import rollback as rollback_command
from retrain.commands import versions as versions_command
from retrain.errors import PublishError
from retrain.publishing import publish as publishing
from retrain.publishing.publish import publish, rollback
from retrain.publishing.versions import MODEL_NAME, damaged_files, renew_answers, versions, write_version
from retrain.quantisation.export import with_constituents
from tests.retrain.tagger import IMAGE, golden_jets, tiny_quantised
from triton_server.repository import admission

MODEL = "top_tagger"


@pytest.fixture(scope="module")
def network():
    return with_constituents(tiny_quantised(), IMAGE)


def card(auc: float = 0.98, error: float = 0.001) -> dict:
    return {"metrics": {"auc": auc, "auc_err": error, "rejection_30": 900.0, "rejection_30_err": 50.0}}


def test_a_version_is_complete_and_sound(tmp_path: Path, network) -> None:
    version = write_version(tmp_path, MODEL, network, golden_jets(), card())
    assert version.number == 1
    assert sorted(path.name for path in version.folder.iterdir()) == ["golden.npz", "model.onnx", "model_card.json"]
    assert (tmp_path / MODEL / "labels.txt").read_text().split() == ["qcd", "top"]
    assert damaged_files(version) == []
    with np.load(version.folder / "golden.npz", allow_pickle=False) as golden:
        assert golden["features"].dtype == np.uint8
        assert golden["probabilities"].shape == (3, 2)
    (version.folder / "golden.npz").write_bytes(b"other")
    assert damaged_files(version) == ["golden.npz"]


def test_answers_are_renewed_in_place(tmp_path: Path, network, capsys) -> None:
    version = write_version(tmp_path, MODEL, network, golden_jets(), card())
    golden, model = version.folder / "golden.npz", version.folder / "model.onnx"
    with np.load(golden) as archive:
        answers = dict(archive)
    np.savez(golden, input=answers["input"], features=answers["features"] ^ 1, probabilities=answers["probabilities"])
    content = model.read_bytes()
    assert renew_command.run(argparse.Namespace(versions=[version.folder])) == 0
    with np.load(golden) as archive:
        assert archive["rule"] == INTEGER_RULE
        for name in ("input", "features", "probabilities"):
            np.testing.assert_array_equal(archive[name], answers[name])
    assert damaged_files(version) == []
    assert model.read_bytes() == content
    assert len(list(version.folder.iterdir())) == 3
    model.write_bytes(content[:-1])
    before = golden.read_bytes()
    with pytest.raises(PublishError, match="not what the model card says"):
        renew_answers(version)
    assert golden.read_bytes() == before


def test_versions_count_up_and_a_failure_leaves_nothing(tmp_path: Path, network) -> None:
    publish(tmp_path, MODEL, network, golden_jets(), card())

    def refuse(*_: object) -> None:
        raise PublishError("verification failed")

    with pytest.raises(PublishError, match="verification failed"):
        write_version(tmp_path, MODEL, network, golden_jets(), card(), refuse)
    assert [entry.name for entry in (tmp_path / MODEL).iterdir() if entry.is_dir()] == ["1"]
    assert publish(tmp_path, MODEL, network, golden_jets(), card()).number == 2


def test_worse_is_refused_unless_forced(tmp_path: Path, network) -> None:
    publish(tmp_path, MODEL, network, golden_jets(), card(0.98))
    publish(tmp_path, MODEL, network, golden_jets(), card(0.9795))  # within the error
    with pytest.raises(PublishError, match=r"auc is 0\.97, worse than version 2's"):
        publish(tmp_path, MODEL, network, golden_jets(), card(0.97))
    assert publish(tmp_path, MODEL, network, golden_jets(), card(0.97), force=True).number == 3


def test_rollback_goes_back_and_the_number_is_not_used_again(tmp_path: Path, network) -> None:
    for _ in range(2):
        publish(tmp_path, MODEL, network, golden_jets(), card())
    assert rollback(tmp_path, MODEL).number == 1
    assert [version.number for version in versions(tmp_path, MODEL)] == [1]
    with pytest.raises(PublishError, match="none to go back to"):
        rollback(tmp_path, MODEL)
    assert publish(tmp_path, MODEL, network, golden_jets(), card()).number == 3


def test_what_was_never_published_leaves_no_folder(tmp_path: Path, network) -> None:
    """The server takes every folder for a model."""
    with pytest.raises(PublishError, match="0 version"):
        rollback(tmp_path, "tager")
    with pytest.raises(PublishError, match="no server answers"):
        publish(tmp_path, "tagger", network, golden_jets(2), card(), server="127.0.0.1:1")
    with pytest.raises(ValueError, match="finite"):
        publish(tmp_path, "tagger", network, golden_jets(2) * np.float32("nan"), card())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../elsewhere", "with space", ".hidden", "", "a/b", "-x"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, network, name: str) -> None:
    repository = tmp_path / "models"
    for change in (
        lambda: publish(repository, name, network, golden_jets(2), card()),
        lambda: rollback(repository, name),
    ):
        with pytest.raises(PublishError, match="is not a model name"):
            change()
    assert not list(tmp_path.iterdir())


def test_a_name_is_what_the_server_takes_for_one() -> None:
    """Publishing must run where no server is installed, so the pattern stands in both."""
    assert MODEL_NAME.pattern == admission._MODEL_NAME.pattern


def test_rollback_refuses_a_damaged_version(tmp_path: Path, network) -> None:
    for _ in range(2):
        publish(tmp_path, MODEL, network, golden_jets(), card())
    (tmp_path / MODEL / "1" / "model.onnx").write_bytes(b"other")
    with pytest.raises(PublishError, match=r"model\.onnx is not what the model card says"):
        rollback(tmp_path, MODEL)
    assert [version.number for version in versions(tmp_path, MODEL)] == [1, 2]


def test_two_publishers_at_once(tmp_path: Path, network) -> None:
    (tmp_path / MODEL).mkdir()
    with (tmp_path / MODEL / ".publish.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(PublishError, match="another publish"):
            publish(tmp_path, MODEL, network, golden_jets(), card())


def test_a_lock_whose_folder_another_publisher_removed_is_none(
    tmp_path: Path, network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first publication that failed takes its folder away, while the next has opened the lock that lay there."""
    folder = tmp_path / MODEL
    flock, held = fcntl.flock, []

    def late(file: IO[str], flags: int) -> None:
        flock(file, flags)
        held.append(file.name)
        if len(held) == 1:
            (folder / ".publish.lock").unlink()
            folder.rmdir()

    monkeypatch.setattr(publishing.fcntl, "flock", late)
    assert publish(tmp_path, MODEL, network, golden_jets(), card()).number == 1
    assert len(held) == 2
    with publishing._lock(folder), pytest.raises(PublishError, match="another publish"), publishing._lock(folder):
        pass


def test_a_server_that_is_down_stops_it_before_anything_is_written(tmp_path: Path, network) -> None:
    pytest.importorskip("tritonclient.http")
    with pytest.raises(PublishError, match="nothing was published"):
        publish(tmp_path, MODEL, network, golden_jets(), card(), server="127.0.0.1:9")
    assert versions(tmp_path, MODEL) == []


def test_every_replica_behind_a_name_is_asked(tmp_path: Path, network, monkeypatch: pytest.MonkeyPatch) -> None:
    def two(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        assert (host, port) == ("server", 8000)
        found = [(socket.AF_INET, f"10.0.0.{i}") for i in (2, 1, 1)] + [(socket.AF_INET6, "fd00::1")]
        return [(kind, 1, 6, "", (address, port)) for kind, address in found]

    asked: list[str] = []

    def confirm(server: str, *_: object) -> None:
        asked.append(server)
        if server == wrong:
            raise PublishError("wrong")

    monkeypatch.setattr(publishing.socket, "getaddrinfo", two)
    monkeypatch.setattr(publishing, "_require_server", lambda _: None)
    monkeypatch.setattr(publishing, "confirm_served", confirm)
    wrong = ""
    publish(tmp_path, MODEL, network, golden_jets(), card(), server="server:8000")
    assert asked == ["10.0.0.1:8000", "10.0.0.2:8000"]
    wrong = "10.0.0.2:8000"
    with pytest.raises(PublishError, match="wrong"):
        publish(tmp_path, MODEL, network, golden_jets(), card(), server="server:8000")
    assert [version.number for version in versions(tmp_path, MODEL)] == [1]


@pytest.mark.parametrize("server", ["server", "http://server", ":8000", "no-such-host.invalid:8000"])
def test_a_server_that_is_no_address_changes_nothing(tmp_path: Path, network, server: str) -> None:
    with pytest.raises(PublishError, match="nothing was changed"):
        publish(tmp_path, MODEL, network, golden_jets(), card(), server=server)
    assert versions(tmp_path, MODEL) == []


def test_commands_print_json(tmp_path: Path, network, capsys: pytest.CaptureFixture[str]) -> None:
    for auc in (0.97, 0.98):
        publish(tmp_path, MODEL, network, golden_jets(), card(auc))

    def arguments(command, *words: str) -> argparse.Namespace:
        parser = argparse.ArgumentParser()
        command.register(parser)
        return parser.parse_args([*words, "--repository", str(tmp_path), "--json"])

    assert versions_command.run(arguments(versions_command)) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["model"], row["version"], row["served"]) for row in rows] == [(MODEL, 1, False), (MODEL, 2, True)]
    assert rows[1]["metrics"]["auc"] == 0.98
    assert rollback_command.run(arguments(rollback_command, MODEL)) == 0
    assert json.loads(capsys.readouterr().out) == {"model": MODEL, "version": 1}


def test_a_card_that_is_missing(tmp_path: Path, network) -> None:
    version = write_version(tmp_path, MODEL, network, golden_jets(), card())
    (version.folder / "model_card.json").unlink()
    with pytest.raises(PublishError, match="not a readable model card"):
        _ = version.card


@pytest.mark.parametrize("file", ["model.onnx", "golden.npz", "model_card.json"])
def test_a_full_disk_leaves_no_half_version(
    tmp_path: Path, network, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    publish(tmp_path, MODEL, network, golden_jets(), card())

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if file == "model.onnx":
        monkeypatch.setattr(onnx, "save", full)
    elif file == "golden.npz":
        monkeypatch.setattr(np, "savez_compressed", full)
    else:
        monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(PublishError, match="No space left"):
        publish(tmp_path, MODEL, network, golden_jets(), card())
    monkeypatch.undo()
    assert [entry.name for entry in (tmp_path / MODEL).iterdir() if entry.is_dir()] == ["1"]
    assert publish(tmp_path, MODEL, network, golden_jets(), card()).number == 2


def test_a_card_that_lies_is_told(tmp_path: Path, network) -> None:
    version = publish(tmp_path, MODEL, network, golden_jets(), card())
    content = version.card
    content["files"]["model.onnx"] = "0" * 64
    (version.folder / "model_card.json").write_text(json.dumps(content))
    assert damaged_files(version) == ["model.onnx"]
