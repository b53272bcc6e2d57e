"""No process of the project reports to anybody: nothing is left in a home that is private to the test."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fpga_ops.runtime.onnxruntime_import import TELEMETRY_VARIABLE, disable_telemetry
from tests.fpga_ops.onnx_models import quantise, resnet
from triton_server.server import launch
from triton_server.server.installation import find_installation

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("fpga_ops", "backends", "clients", "training", "benchmarks", "docker")
THE_ONE = ROOT / "fpga_ops" / "runtime" / "onnxruntime_import.py"
DEVICE_ID = Path(".cache/Microsoft/DeveloperTools/.onnxruntime/deviceid")
# In what looks like continuous integration onnxruntime collects nothing by itself: these are the signs it takes.
SIGNS_OF_CI = {
    "APPVEYOR", "BITBUCKET_BUILD_NUMBER", "BUILDKITE", "CI", "CIRCLECI", "CODEBUILD_BUILD_ID", "GITHUB_ACTIONS",
    "GITLAB_CI", "JENKINS_URL", "TEAMCITY_VERSION", "TF_BUILD", "TRAVIS",
}  # fmt: skip


def files_left(home: Path, program: str, *arguments: str, **variables: str) -> set[Path]:
    """What a Python program leaves in its home."""
    home.mkdir()
    kept_out = {TELEMETRY_VARIABLE, *SIGNS_OF_CI}
    environment = {k: v for k, v in os.environ.items() if k not in kept_out and not k.startswith("XDG_")}
    subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**environment, "HOME": str(home), "PYTHONPATH": str(ROOT), **variables}, check=True,
    )  # fmt: skip
    return {path.relative_to(home) for path in home.rglob("*") if path.is_file()}


def test_onnxruntime_leaves_nothing_in_the_home(tmp_path: Path) -> None:
    program = (
        "from fpga_ops.runtime.onnxruntime_import import import_onnxruntime; import_onnxruntime().InferenceSession"
    )
    assert files_left(tmp_path / "plain", "import onnxruntime") >= {DEVICE_ID}, "onnxruntime no longer does it"
    assert files_left(tmp_path / "ours", program) == set()
    assert DEVICE_ID in files_left(tmp_path / "asked for", program, **{TELEMETRY_VARIABLE: "0"})


def test_an_engine_process_leaves_no_telemetry(tmp_path: Path) -> None:
    program = "import sys, fpga_ops; fpga_ops.load(sys.argv[1], 'reference').close()"
    model = quantise(resnet((1,), 16, (3, 32, 32), classes=2, softmax=True), tmp_path / "model.onnx")
    left = files_left(tmp_path / "home", program, str(model))
    assert not [path for path in left if "Microsoft" in path.parts]


@pytest.mark.server
def test_the_server_and_its_stubs_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TELEMETRY_VARIABLE)
    installation = find_installation()
    assert launch.environment(installation, {})[TELEMETRY_VARIABLE] == "1"
    assert launch.environment(installation, {TELEMETRY_VARIABLE: "0"})[TELEMETRY_VARIABLE] == "0"


def test_who_decided_is_heard() -> None:
    environment = {TELEMETRY_VARIABLE: "0"}
    disable_telemetry(environment)
    assert environment == {TELEMETRY_VARIABLE: "0"}


@pytest.mark.parametrize("file", ["server.Dockerfile", "notebooks.Dockerfile", "apptainer/triton-fpga.def"])
def test_images_have_it(file: str) -> None:
    assert TELEMETRY_VARIABLE + "=" in (ROOT / "docker" / file).read_text()


def test_onnxruntime_is_imported_in_one_place() -> None:
    elsewhere = []
    for path in (file for folder in SOURCES for file in (ROOT / folder).rglob("*.py") if file != THE_ONE):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.split(".")[0] == "onnxruntime" for name in names):
                elsewhere.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert elsewhere == [], "import_onnxruntime() switches its telemetry off"
