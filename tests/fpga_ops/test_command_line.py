"""What the command says when the system refuses: one line with the file, its notes, and no traceback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "model_repository" / "top_tagger" / "1" / "model.onnx"
COMMAND = [sys.executable, "-m", "fpga_ops.cli"]


def run(arguments: list[str], folder: Path, **environment: str) -> tuple[int, str]:
    """Exit code and standard error of a command, by one whom permissions bind, also root."""
    command = [*COMMAND, *arguments]
    if os.geteuid() == 0:
        rights = "-dac_override,-dac_read_search"
        command = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", *command]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stderr


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0)
    return folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tag", "{locked}/in.root", "--out", "out.root"], "Permission denied"),
        (["tag", "in.root", "--out", "{locked}/out.root"], "Permission denied"),
        (["tag", "in.root", "--out", f"{'a' * 300}.root"], "File name too long"),
        (["tag", f"{'a' * 300}.root", "--out", "out.root"], "File name too long"),
        (["tag", "--finish", "{locked}/out.parts", "--out", "out.root"], "Permission denied"),
        (["tag", "in.root", "--out", "out.root", "--ca", "{locked}/ca.pem"], "TLS file .* cannot be read: Permission"),
        pytest.param(["serve", "--model-repository", "{locked}"], "cannot read", marks=pytest.mark.server),
        (["models", "{locked}/models"], "Permission denied"),
        (["inspect", "{locked}/model.onnx"], "Permission denied"),
        (["versions", "--repository", "{locked}"], "Permission denied"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_may_not_be_read_or_written_is_one_line(
    tmp_path: Path, locked: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "in.root").touch()
    code, error = run([argument.format(locked=locked) for argument in arguments], tmp_path)
    assert code == 2, error
    assert "Traceback" not in error
    last = error.strip().splitlines()[-1]
    assert last.startswith(f"triton-fpga {arguments[0]}: ")
    assert re.search(words, last)


def test_a_triton_root_of_somebody_else_is_named(tmp_path: Path, locked: Path) -> None:
    code, error = run(["serve", "--model-repository", "."], tmp_path, TRITON_SERVER_ROOT=str(locked))
    assert code == 2
    assert f"TRITON_SERVER_ROOT={locked} is no Triton server" in error
    assert "no folder that can be read (Permission denied)" in error


def test_the_runtime_folder_of_somebody_else_holds_no_token(tmp_path: Path, locked: Path) -> None:
    code, error = run(["tag", "none.root", "--out", "out.root"], tmp_path, XDG_RUNTIME_DIR=str(locked))
    assert (code, error) == (2, "triton-fpga tag: none.root: no such file\n")


def test_notes_of_an_error_are_said(tmp_path: Path) -> None:
    program = (
        "import sys, fpga_ops.cli as cli\n"
        "from fpga_ops.errors import ModelError\n"
        "def fail(args):\n"
        "    error = ModelError('it failed')\n"
        "    error.add_note('what is done is kept')\n"
        "    raise error\n"
        "import fpga_ops.commands.inspect as inspect\n"
        "inspect.run = fail\n"
        "sys.exit(cli.main(['inspect', 'x']))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (
        2, "triton-fpga inspect: it failed\ntriton-fpga inspect: what is done is kept\n",
    )  # fmt: skip


def test_a_reader_that_goes_away_is_no_fault(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m fpga_ops.cli inspect {MODEL} | head -c 1; exit ${{PIPESTATUS[0]}}"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode in (0, 1, 141)


def test_a_reader_that_goes_away_during_a_long_print_is_no_fault(tmp_path: Path) -> None:
    """The write that fails leaves nothing behind that a flush would fail on again."""
    program = tmp_path / "command.py"
    program.write_text(
        "import sys, fpga_ops.cli as cli\n"
        "import fpga_ops.commands.inspect as inspect\n"
        "def run(_):\n"
        "    for _ in range(100):\n"
        "        print('x' * 10_000, flush=True)\n"
        "inspect.run = run\n"
        "sys.exit(cli.main(['inspect', 'x']))\n"
    )
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} {program} | head -c 1; exit ${{PIPESTATUS[0]}}"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (141, "")


def test_a_full_disc_is_one_line(tmp_path: Path) -> None:
    """The limit of a file's size stands for it: EFBIG, as the signal is ignored in Python."""
    done = subprocess.run(
        ["prlimit", "--fsize=100000", *COMMAND, "models", str(tmp_path / "models")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("triton-fpga models: cannot copy the models")
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "models").iterdir()) == []
