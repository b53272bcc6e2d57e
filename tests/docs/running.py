"""Runs a page as a reader would: block by block, in a new folder that holds what the page says one has.

What a reader has and a test cannot have is replaced in the commands: the usual ports by free ones, a Triton of one's
own by this environment's in the same layout, and the index, which does not have this project, by the checkout.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.docs.pages import EVERY_DAY, ROOT, Block, blocks
from triton_server.server.installation import ROOT_VARIABLE, SYSTEM_ROOT, find_installation
from triton_server.server.ports import resolve_ports

CHECKOUT = ("model_repository", "training/sample", "docker/credentials.py", "docker/kubernetes", "constraints.txt")
START_S = 120
BLOCK_S = 900
_INSTALL = re.compile(r"^pip install (?:-e )?'(?:triton-fpga|\.)\[(?P<extras>[\w,]+)\]'", re.MULTILINE)
_SERVE = re.compile(r"^((?:\w+=\S+ )*)triton-fpga serve", re.MULTILINE)
SERVE = Block(
    "bash", "triton-fpga serve --model-repository model_repository\n", {"background until": "Triton is ready"}
)


@dataclass(frozen=True)
class Reader:
    """Who has done all that a page says: the folder, and the ports that stand for the page's."""

    folder: Path
    ports: dict[str, str]


@contextmanager
def read(
    page: Path,
    work: Path | Reader,
    replaced: Sequence[tuple[str, str]] = (),
    *,
    test: str = EVERY_DAY,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Reader]:
    """Run the blocks of a page that a test runs, in order; what goes on in the background ends with the context.

    Args:
        page: The page.
        work: An empty folder, or who has read another page and goes on there, with its servers.
        replaced: What of the blocks is replaced, so that it takes minutes less or reaches what the test has, and by
            what; each must be there.
        test: The file of the test, from the root, as the blocks' notes have it.
        environment: Added to the reader's environment.
    """
    shown = [block for block in blocks(page) if block.run_by == test]
    assert shown, f"{page}: nothing to run"
    for words, _ in replaced:
        assert any(words in block.text for block in shown), f"{page.name} no longer says {words!r}"
    reader = work if isinstance(work, Reader) else _new_reader(work)
    work = reader.folder.parent
    surroundings = {**_environment(work), **(environment or {})}
    with ExitStack() as running:
        if any("needs" in block.notes for block in shown):
            shown.insert(0, SERVE)
        for block in shown:
            command = _command(block, work, reader.ports, replaced)
            if words := block.notes.get("background until"):
                running.enter_context(_background(command, reader.folder, surroundings, words))
                continue
            done = subprocess.run(
                command,
                cwd=reader.folder,
                env=surroundings,
                capture_output=True,
                text=True,
                timeout=BLOCK_S,
                check=False,
            )
            assert done.returncode == 0, f"{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        yield reader


def _new_reader(work: Path) -> Reader:
    folder = work / "checkout"
    for name in CHECKOUT:
        source, copy = ROOT / name, folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
    numbers = [*resolve_ports("127.0.0.1", (0, 0, 0)), *resolve_ports("127.0.0.1", (0, 0, 0))[:1]]
    return Reader(folder, dict(zip(("8000", "8001", "8002", "8003"), map(str, numbers), strict=True)))


def _environment(work: Path) -> dict[str, str]:
    """The caller's, with this Python's commands first and a home of its own; compiled kernels are shared."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    kept = {name: value for name, value in os.environ.items() if name != "XDG_CONFIG_HOME"}
    return {**kept, "PATH": path, "HOME": str(work / "home"), "XDG_CACHE_HOME": cache, "XDG_DATA_HOME": data}


def _command(block: Block, work: Path, ports: dict[str, str], replaced: Sequence[tuple[str, str]]) -> list[str]:
    """The block's command line, with what this machine has for what the page's reader has."""
    text = block.text
    for words, others in replaced:
        text = text.replace(words, others)
    text = re.sub(r"\b800[0-3]\b", lambda found: ports[found.group()], text)
    names = zip(("http", "grpc", "metrics", "health"), ports.values(), strict=True)
    options = " ".join(f"--{name}-port {port}" for name, port in names)
    text = _SERVE.sub(rf"exec env \1triton-fpga serve {options}", text)
    text = _INSTALL.sub(lambda found: shlex.join(resolving(found["extras"])), text)
    if str(SYSTEM_ROOT) in text:
        text = text.replace(str(SYSTEM_ROOT), str(_triton_root(work)))
    return ["bash", "-euo", "pipefail", "-c", text] if block.language == "bash" else [sys.executable, "-c", text]


def resolving(extras: str) -> list[str]:
    """The command that finds a version of all that the project needs with some extras; fails where one is missing."""
    asked = [word for extra in extras.split(",") for word in ("--extra", extra)]
    uv = Path(sys.executable).with_name("uv")
    return [
        str(uv), "pip", "compile", "--quiet", str(ROOT / "pyproject.toml"), *asked, "--python", sys.executable,
        "--output-file", os.devnull,
    ]  # fmt: skip


def _triton_root(work: Path) -> Path:
    """The Triton that serves here, as an installation under a root of its own has its files."""
    if root := os.environ.get(ROOT_VARIABLE):
        return Path(root)
    triton, root = find_installation(), work / "tritonserver"
    python = root / "backends" / "python"
    places = {
        root / "bin" / "tritonserver": triton.binary,
        python / "libtriton_python.so": triton.python_backend,
        python / "triton_python_backend_stub": triton.stub,
        python / "triton_python_backend_utils.py": triton.utils,
        root / "caches": triton.caches,
        root / "lib": Path(triton.library_path[-1]),
    }
    for place, found in places.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        if found.is_dir():
            place.symlink_to(found)
        else:  # Triton takes no link that leads out of a backend's folder
            shutil.copy(found, place)
    return root


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
