"""The commands of the pages on deployment, as they stand but for the project's name, ports and images of the tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import tritonclient.grpc

from tests.docker.conftest import ROOT, Docker, Stack, until
from tests.docker.traffic import constituents, infer
from tests.docs.pages import DOCS
from tests.docs.running import Reader, read

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

HOW_TO = DOCS / "how-to"
TEST = "tests/docker/test_pages.py"


@pytest.fixture
def project(docker: Docker, environment: dict[str, str]) -> Iterator[Stack]:
    """A project that is not up; gone without a trace afterwards."""
    named = Stack(docker, f"tfpgapage{os.getpid()}", environment)
    try:
        yield named
    finally:
        named.down()
        docker("image", "rm", "--force", next_release(named))
    assert named.leftovers() == []


def next_release(project: Stack) -> str:
    """The image to upgrade to, by a tag of its own, as the page has it."""
    return f"{project.project}:next"


def follow(page: Path, work: Path, project: Stack, *replaced: tuple[str, str]) -> AbstractContextManager[Reader]:
    """Read a page with the engine's environment and the tests' additions to the compose file."""
    files = " ".join(f"-f {file}" for file in project.files)
    engine = {name: value for name, value in project.docker.env.items() if os.environ.get(name) != value}
    path = os.pathsep.join([str(Path(sys.executable).parent), project.docker.env["PATH"]])
    return read(
        page,
        work,
        (*replaced, ("docker compose -f docker/compose.yaml", f"docker compose -p {project.project} {files}")),
        test=TEST,
        environment={**engine, **project.env, "PATH": path},
    )


def test_deploy_upgrade_and_keep(project: Stack, tmp_path: Path) -> None:
    """An upgrade leaves new replicas alone, and the models outlive the service."""
    compose = "docker compose -f docker/compose.yaml"
    look = f"{compose} ps -q server > new; docker inspect -f '{{{{.Config.Image}}}}' $(cat new) > images"
    replaced = (
        ("git pull", f"export SERVER_IMAGE={next_release(project)}"),
        ("for replica in", "echo $old > old; for replica in"),
        (f"{compose} run", f"{look}; {compose} run"),
        ("triton-fpga_models", f"{project.project}_models"),
    )
    with follow(HOW_TO / "deploy-with-compose.md", tmp_path, project, *replaced) as reader:
        old, new, images = ((reader.folder / name).read_text().split() for name in ("old", "new", "images"))
        assert len(old) == len(new) == 2
        assert not set(old) & set(new)
        assert images == [next_release(project)] * 2
        with tarfile.open(reader.folder / "models.tar.gz") as backup:
            assert "./top_tagger/1/model.onnx" in backup.getnames()
    left = project.leftovers()
    assert left
    assert all(one.startswith("volume ") for one in left), left


def test_tls_and_tokens(project: Stack, environment: dict[str, str], tmp_path: Path) -> None:
    with follow(HOW_TO / "tls-and-tokens.md", tmp_path, project):
        for one in (*project.containers("envoy-secure"), *project.containers("server")):
            until(lambda one=one: project.state(one)["Health"]["Status"] == "healthy", 120, f"{one} is healthy")
        script = (sys.executable, ROOT / "docker" / "credentials.py", "--folder", environment["SECRETS"])
        token = subprocess.run([*script, "token", "alice"], capture_output=True, text=True, check=True).stdout.strip()
        address = project.address("envoy-secure", 8444).replace("127.0.0.1", "localhost")
        ca = f"{environment['SECRETS']}/ca.crt"
        with tritonclient.grpc.InferenceServerClient(address, ssl=True, root_certificates=ca) as client:
            headers = {"authorization": f"Bearer {token}"}
            answer = infer(client, "top_tagger", constituents(), headers=headers)
        assert answer.as_numpy("probabilities").shape == (1, 2)


def test_deploy_on_kubernetes_as_far_as_no_cluster_is_needed(kubernetes: dict[str, str], tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), kubernetes["PATH"]])
    page = HOW_TO / "deploy-on-kubernetes.md"
    with read(page, tmp_path, test=TEST, environment={"PATH": path}) as reader:
        kinds = re.findall(r"^kind: (\w+)", (reader.folder / "manifests.yaml").read_text(), re.MULTILINE)
    assert "Deployment" in kinds
