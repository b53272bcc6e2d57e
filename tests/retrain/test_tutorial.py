"""The tutorial "retrain and publish", as it stands but for its numbers: from generated jets to a version and back."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("fastjet")
pytest.importorskip("tritonclient.http")

from retrain.publishing.versions import versions
from tests.docs.pages import DOCS
from tests.docs.running import read

pytestmark = [pytest.mark.training, pytest.mark.server]

PAGE = DOCS / "tutorials" / "retrain-and-publish.md"
SMALLER = (
    ("--jets 2000", "--jets 200"),
    ("--stage 64:4000:64:2e-3 --validation 400", "--architecture resnet18 --stage 64:160:16:2e-3 --validation 60"),
    ("run/stage-64.pt data/train", "run/stage-64.pt data/train --architecture resnet18"),
)


@pytest.mark.timeout(2400)
def test_from_generated_jets_to_a_version_and_back(tmp_path: Path) -> None:
    with read(PAGE, tmp_path, SMALLER, test="tests/retrain/test_tutorial.py") as reader:
        judged = json.loads((reader.folder / "run" / "judged" / "evaluation.json").read_text())
        assert set(judged["taggers"]) == {"top_tagger", "float"}
        assert list((reader.folder / "run" / "judged").glob("*.png"))
        numbers = [version.number for version in versions(reader.folder / "models", "top_tagger")]
        assert numbers == [1], "version 2 was published and rolled back"
