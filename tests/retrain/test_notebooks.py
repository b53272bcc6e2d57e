"""The notebooks, executed in their order at small settings, beside a real service that follows their repository."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

papermill = pytest.importorskip("papermill")
pytest.importorskip("torch")
pytest.importorskip("fastjet")
pytest.importorskip("tritonclient.http")

from retrain.publishing.versions import versions  # noqa: E402
from tests.e2e.conftest import MODEL_REPOSITORY, Service, serving  # noqa: E402

pytestmark = [pytest.mark.training, pytest.mark.server, pytest.mark.filterwarnings("ignore")]

NOTEBOOKS = Path(__file__).resolve().parents[2] / "training" / "notebooks"
ORDER = ("1-jets", "2-retrain-and-publish", "3-neutrinos", "4-compare-versions")
TIMEOUT = 240  # s a notebook


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notebooks")
    for model in ("top_tagger", "resnet50_top"):
        shutil.copytree(MODEL_REPOSITORY / model, folder / "models" / model)
    return folder


@pytest.fixture(scope="module")
def service(work: Path) -> Iterator[Service]:
    with serving(work / "models") as running:
        yield running


def execute(name: str, work: Path, **parameters: Any) -> str:
    """Run a notebook in the folder; returns what it printed."""
    done = papermill.execute_notebook(
        str(NOTEBOOKS / f"{name}.ipynb"),
        str(work / f"{name}.ipynb"),
        parameters,
        cwd=str(work),
        kernel_name="python3",
        progress_bar=False,
        execution_timeout=TIMEOUT,
    )
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    return "".join(output["text"] for output in outputs if output["output_type"] == "stream")


@pytest.mark.timeout(900)
def test_from_generated_jets_to_a_rollback(work: Path, service: Service) -> None:
    repository = work / "models"
    at = {"repository": str(repository), "server": service.urls["http"].removeprefix("http://")}
    printed = execute(ORDER[0], work, jets=120, test_jets=60)
    assert "jets made" in printed

    small = {"architecture": "resnet18"}
    printed = execute(ORDER[1], work, **at, **small, images=640, validation=60)
    assert [version.number for version in versions(repository, "top_tagger")] == [1, 2]
    assert "top_tagger version 2" in printed

    start = "data/run-top/stage-32.pt"
    execute(ORDER[2], work, **at, **small, maps=150, test_maps=20, images=320, size=25, initial=start)
    assert [version.number for version in versions(repository, "resnet50_neutrino")] == [1]
    service.wait_for(lambda: service.get("/ready/resnet50_neutrino")[0] == 200)

    printed = execute(ORDER[3], work, **at, jets=60)
    assert "served: 1" in printed
    assert [version.number for version in versions(repository, "top_tagger")] == [1]


@pytest.mark.parametrize("name", ORDER)
def test_shipped_with_what_it_showed(name: str) -> None:
    import nbformat

    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output.output_type == "error" for output in outputs)
    assert any("parameters" in cell.metadata.get("tags", []) for cell in code)
