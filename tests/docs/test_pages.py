"""Every code block of the tutorials and how-tos runs, as the page has it, in a new folder with the checkout's files."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, USED, Block, blocks, paragraphs
from triton_server.server.ports import resolve_ports

KINDS = ("", "needs", "background until", "run by", "shown, not run")
SHIPPED = ("model_repository", "training/sample")
START_S = 120


@pytest.mark.parametrize("page", USED, ids=lambda page: page.stem)
def test_each_block_says_what_it_is(page: Path) -> None:
    for block in blocks(page):
        assert block.language in ("bash", "python", "text"), f"a block begins with {block.text[:40]!r}"
        assert block.kind in KINDS, f"<!-- {block.note} --> is none of {KINDS}"
        if block.kind == "run by":
            assert (ROOT / block.detail).is_file(), block.detail
        assert block.kind != "needs" or block.detail == "a server"


@pytest.mark.parametrize("page", USED, ids=lambda page: page.stem)
def test_no_paragraph_is_long(page: Path) -> None:
    for paragraph in paragraphs(page):
        assert len(paragraph.split()) <= 90, paragraph


RUN = [page for page in USED if any(block.runs for block in blocks(page))]


@pytest.mark.server
@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_what_a_page_shows_runs(page: Path, tmp_path: Path) -> None:
    shown = [block for block in blocks(page) if block.runs]
    environment = _environment(tmp_path)
    numbers = [*resolve_ports("127.0.0.1", (0, 0, 0)), *resolve_ports("127.0.0.1", (0, 0, 0))[:1]]
    ports = dict(zip(("8000", "8001", "8002", "8003"), map(str, numbers), strict=True))
    folder = _checkout(tmp_path)
    with ExitStack() as running:
        if any(block.kind == "needs" for block in shown):
            serve = Block("bash", "triton-fpga serve --model-repository model_repository\n", "")
            running.enter_context(_background(_command(serve, ports), folder, environment, "Triton is ready"))
        for block in shown:
            command = _command(block, ports)
            if block.kind == "background until":
                running.enter_context(_background(command, folder, environment, block.detail))
                continue
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
            )
            assert done.returncode == 0, f"{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def _checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    for name in SHIPPED:
        shutil.copytree(ROOT / name, folder / name)
    return folder


def _environment(tmp_path: Path) -> dict[str, str]:
    """The caller's, with this Python's commands first and a home of its own."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "XDG_CONFIG_HOME": str(tmp_path / "config")}


def _command(block: Block, ports: dict[str, str]) -> list[str]:
    """The block's command line, with free ports for the usual ones."""
    text = re.sub(r"\b800[0-3]\b", lambda found: ports[found.group()], block.text)
    names = zip(("http", "grpc", "metrics", "health"), ports.values(), strict=True)
    options = " ".join(f"--{name}-port {port}" for name, port in names)
    text = re.sub(r"^triton-fpga serve", f"exec triton-fpga serve {options}", text, flags=re.MULTILINE)
    return ["bash", "-euo", "pipefail", "-c", text] if block.language == "bash" else [sys.executable, "-c", text]


@contextmanager
def _background(command: list[str], folder: Path, environment: dict[str, str], until: str) -> Iterator[None]:
    """Run a command beside the next ones, from when it has printed the words; it is stopped at the end."""
    seen, lines = threading.Event(), []
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if until in line:
                    seen.set()

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            assert seen.wait(START_S), "".join(lines[-40:])
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            reader.join(10)
