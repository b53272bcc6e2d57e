"""Runs a page as a reader would: block by block, in a new folder that holds what the page says one has."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.docs.pages import ROOT, Block, blocks
from triton_server.server.ports import resolve_ports

CHECKOUT = ("model_repository", "training/sample", "docker/credentials.py")
START_S = 120
BLOCK_S = 900
SERVE = Block(
    "bash", "triton-fpga serve --model-repository model_repository\n", {"background until": "Triton is ready"}
)


@dataclass(frozen=True)
class Reader:
    """Who has done all that a page says: the folder, and the ports that stand for the page's."""

    folder: Path
    ports: dict[str, str]


@contextmanager
def read(page: Path, work: Path, smaller: Sequence[tuple[str, str]] = ()) -> Iterator[Reader]:
    """Run every block of a page that runs; what goes on in the background ends with the context.

    Args:
        page: The page.
        work: An empty folder.
        smaller: What of the blocks is replaced so that it takes minutes less, and by what; each must be there.
    """
    shown = [block for block in blocks(page) if block.runs]
    assert shown, f"{page}: nothing to run"
    for long, _ in smaller:
        assert any(long in block.text for block in shown), f"{page.name} no longer says {long!r}"
    numbers = [*resolve_ports("127.0.0.1", (0, 0, 0)), *resolve_ports("127.0.0.1", (0, 0, 0))[:1]]
    ports = dict(zip(("8000", "8001", "8002", "8003"), map(str, numbers), strict=True))
    reader, environment = Reader(_checkout(work), ports), _environment(work)
    with ExitStack() as running:
        if any("needs" in block.notes for block in shown):
            shown.insert(0, SERVE)
        for block in shown:
            command = _command(block, ports, smaller)
            if words := block.notes.get("background until"):
                running.enter_context(_background(command, reader.folder, environment, words))
                continue
            done = subprocess.run(
                command,
                cwd=reader.folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=BLOCK_S,
                check=False,
            )
            assert done.returncode == 0, f"{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        yield reader


def _checkout(work: Path) -> Path:
    folder = work / "checkout"
    for name in CHECKOUT:
        source, copy = ROOT / name, folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
    return folder


def _environment(work: Path) -> dict[str, str]:
    """The caller's, with this Python's commands first and a home of its own; compiled kernels are shared."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    kept = {name: value for name, value in os.environ.items() if name != "XDG_CONFIG_HOME"}
    return {**kept, "PATH": path, "HOME": str(work / "home"), "XDG_CACHE_HOME": cache, "XDG_DATA_HOME": data}


def _command(block: Block, ports: dict[str, str], smaller: Sequence[tuple[str, str]]) -> list[str]:
    """The block's command line, with free ports for the usual ones."""
    text = block.text
    for long, short in smaller:
        text = text.replace(long, short)
    text = re.sub(r"\b800[0-3]\b", lambda found: ports[found.group()], text)
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

        def collect() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if until in line:
                    seen.set()

        reader = threading.Thread(target=collect, daemon=True)
        reader.start()
        try:
            assert seen.wait(START_S), "".join(lines[-40:])
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            reader.join(10)
