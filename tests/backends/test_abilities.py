"""What a Triton can do is found by looking at it, and what cannot be told counts as absent."""

from __future__ import annotations

import importlib.util
import logging
import re
from pathlib import Path

import pytest

from tests.support.triton_stand_ins import HERE, write_tree
from triton_server import TritonServer
from triton_server.errors import ServerNotFoundError
from triton_server.server import installation as module
from triton_server.server.abilities import SIGNS, Ability, holds_text, knows_numpy_2, look, newer_than_known
from triton_server.server.installation import check_numpy, check_python, find_installation

ROOT = Path(__file__).resolve().parents[2]
EVERY = frozenset(Ability)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where TRITON_SERVER_ROOT points at."""
    monkeypatch.setenv("TRITON_SERVER_ROOT", str(tmp_path / "tritonserver"))
    return tmp_path / "tritonserver"


@pytest.mark.parametrize(
    "abilities", [frozenset(), EVERY, *({ability} for ability in Ability)], ids=["none", "all", *Ability]
)
def test_each_ability_is_found(root: Path, abilities: frozenset[Ability]) -> None:
    write_tree(root, abilities)
    found = find_installation().abilities
    assert found.present == abilities
    assert not found.undetermined
    assert found.as_json() == {str(ability): ability in abilities for ability in Ability}


def test_the_wheels_triton_has_none_and_tells_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """2.51.0 is older than all of them; its files hold every anchor."""
    monkeypatch.delenv("TRITON_SERVER_ROOT", raising=False)
    found = find_installation()
    assert found.kind == "wheel"
    assert found.abilities.present == frozenset()
    assert not found.abilities.undetermined
    check_python(found)


def test_the_sign_of_numpy_2_is_in_what_a_new_pybind11_has_built() -> None:
    spec = importlib.util.find_spec("onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    (extension,) = (Path(spec.origin).parent / "capi").glob("onnxruntime_pybind11_state*.so")
    assert holds_text(extension, SIGNS[Ability.NUMPY_2].text)


def test_a_file_that_tells_nothing_is_named_once(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    paths = write_tree(root, EVERY)
    paths["binary"].write_text('#!/bin/sh\nexec real-tritonserver --allow-client-shm=true "$@"\n')
    paths["python_backend"].write_bytes(b"")
    found = find_installation().abilities
    assert found.present == {Ability.IS_READY, Ability.NUMPY_2}
    assert set(found.undetermined) == EVERY - found.present
    assert "no 'model-control-mode'" in found.undetermined[Ability.CLIENT_SHARED_MEMORY_FLAG]
    server = TritonServer(root.parent)
    with caplog.at_level(logging.DEBUG, "triton_server"):
        server.prepare()
        server.prepare()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 3
    assert all("cannot be told" in warning for warning in warnings)
    assert sum("numpy_2: yes, its stub holds 'NumpyVersion'" in r.getMessage() for r in caplog.records) == 1


@pytest.mark.parametrize("abilities", [frozenset(), EVERY], ids=["old", "new"])
def test_clients_shared_memory_is_asked_for_where_it_must_be(root: Path, abilities: frozenset[Ability]) -> None:
    write_tree(root, abilities)
    server = TritonServer(root.parent)
    command = server._command(server.prepare(), root / "backends")
    assert ("--allow-client-shm=true" in command) is bool(abilities)
    assert server.triton() == {"version": "", "abilities": {str(name): bool(abilities) for name in Ability}}


def test_numpy_2_is_refused_where_the_stub_does_not_know_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.metadata, "version", lambda name: "2.1.0")
    write_tree(root)
    with pytest.raises(ServerNotFoundError, match=r"numpy 2\.1\.0.*corrupts tensors.*expected numpy < 2"):
        check_numpy(find_installation())
    stub = write_tree(root, {Ability.NUMPY_2})["stub"]
    check_numpy(find_installation())
    assert knows_numpy_2(stub)
    assert not knows_numpy_2(root / "missing")


def test_a_stub_for_another_python_is_named(root: Path) -> None:
    write_tree(root, python="3.8")
    with pytest.raises(ServerNotFoundError, match=rf"built for Python 3\.8, and this is Python {re.escape(HERE)}"):
        TritonServer(root.parent).prepare()


def test_a_stub_that_tells_no_python_is_let_through(root: Path) -> None:
    write_tree(root)["stub"].write_bytes(b"InferenceResponse")
    check_python(find_installation())


def test_a_server_without_the_python_backend(root: Path) -> None:
    paths = write_tree(root)
    (root / "backends" / "onnxruntime").mkdir()
    for kind in ("python_backend", "stub", "utils"):
        paths[kind].unlink()
    paths["utils"].parent.rmdir()
    with pytest.raises(ServerNotFoundError) as caught:
        find_installation()
    assert "lacks backends/python/libtriton_python.so" in str(caught.value)
    assert "it has bin/tritonserver (backends: onnxruntime)" in str(caught.value)


def test_a_root_that_is_something_else(root: Path) -> None:
    with pytest.raises(ServerNotFoundError, match="no folder that can be read"):
        find_installation()
    (root / "lib").mkdir(parents=True)
    with pytest.raises(ServerNotFoundError, match=r"TRITON_SERVER_ROOT=.*none of the files of one.*holds: lib"):
        find_installation()


def test_versions_are_compared_as_numbers() -> None:
    assert [newer_than_known(v) for v in ("2.51.0", "2.72.0", "2.9.0", "2.73.0", "2.100.0", "3.0.0", "dev")] == [
        False, False, False, True, True, True, True,
    ]  # fmt: skip


def test_the_documents_have_the_table() -> None:
    text = (ROOT / "docs" / "how-to" / "another-triton.md").read_text()
    for ability, sign in SIGNS.items():
        name = sign.text.strip(b"\0").decode()
        assert re.search(rf"\| `{ability}` \|.*\| {re.escape(sign.since)} \| .*`{re.escape(name)}`", text), ability


def test_looking_takes_every_kind_of_file(tmp_path: Path) -> None:
    files = write_tree(tmp_path, EVERY)
    assert look(files).present == EVERY
