"""An installed wheel works like a checkout: the demo runs anywhere, and `serve` tells how to get models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from triton_server.errors import RepositoryError
from triton_server.repository import shipped

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the project's packages as the wheel brings them; their dependencies are this environment's."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def triton_fpga(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "fpga_ops.cli", *arguments], cwd=folder, capture_output=True, text=True, timeout=250,
        env={**os.environ, "PYTHONPATH": str(installed)}, check=False,
    )  # fmt: skip


@pytest.mark.server
def test_the_demo_runs_anywhere(installed: Path, tmp_path: Path) -> None:
    ended = triton_fpga(installed, tmp_path, "demo", "--limit", "20", "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["jets"] == 20
    assert (tmp_path / "demo-output").is_dir()


def test_models_are_copied_whole_and_never_over_others(installed: Path, tmp_path: Path) -> None:
    ended = triton_fpga(installed, tmp_path, "models", "mine")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("top_tagger in mine; serve with: triton-fpga serve --model-repository mine")
    copied, source = tmp_path / "mine" / "top_tagger", ROOT / "model_repository" / "top_tagger"
    files = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    assert {path.relative_to(copied) for path in copied.rglob("*") if path.is_file()} == files
    assert all((copied / path).read_bytes() == (source / path).read_bytes() for path in files)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["top_tagger"]
    again = triton_fpga(installed, tmp_path, "models", "mine")
    assert again.returncode == 2
    assert "has top_tagger already: nothing was copied" in again.stderr


def test_serve_without_a_repository_tells_how_to_get_one(installed: Path, tmp_path: Path) -> None:
    key = tmp_path / "admin-key"
    ended = triton_fpga(installed, tmp_path, "serve", "--admin-key-file", str(key))
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()  # nothing was begun, so nothing is told but this
    assert f"no model repository at {tmp_path}/model_repository" in line
    assert "triton-fpga models" in line
    assert list(tmp_path.iterdir()) == []


def test_the_version_is_told(installed: Path, tmp_path: Path) -> None:
    ended = triton_fpga(installed, tmp_path, "--version")
    assert (ended.returncode, ended.stdout) == (0, f"triton-fpga {version('triton-fpga')}\n")


def test_an_installation_without_models_says_where_it_looked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shipped, "_PLACES", ((tmp_path / "a", tmp_path / "b"), (tmp_path / "c", tmp_path / "d")))
    with pytest.raises(RepositoryError, match=r"comes without jets\.root: looked in .*/b and .*/d"):
        shipped.shipped_jets()
    with pytest.raises(RepositoryError, match="top_tagger"):
        shipped.copy_models(tmp_path / "mine")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RepositoryError, match=r"cannot copy the models to .*file.*"):
        shipped.copy_models(tmp_path / "file" / "models")
