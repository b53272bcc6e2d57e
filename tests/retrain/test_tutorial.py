"""The tutorial "retrain and publish", as it stands but for its numbers: from generated jets to a version and back.

And the page on publishing, with what was trained there.
"""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("fastjet")
pytest.importorskip("tritonclient.http")

from retrain.publishing.versions import versions
from tests.docs.pages import DOCS
from tests.docs.running import Reader, read

pytestmark = [pytest.mark.training, pytest.mark.server]

TEST = "tests/retrain/test_tutorial.py"
PAGE = DOCS / "tutorials" / "retrain-and-publish.md"
PUBLISH = DOCS / "how-to" / "publish-and-roll-back.md"
SMALLER = (
    ("--jets 2000", "--jets 200"),
    ("--stage 64:4000:64:2e-3 --validation 400", "--architecture resnet18 --stage 64:160:16:2e-3 --validation 60"),
    ("run/stage-64.pt data/train", "run/stage-64.pt data/train --architecture resnet18"),
)


@pytest.mark.timeout(2400)
def test_from_generated_jets_to_a_version_and_back(tmp_path: Path) -> None:
    with read(PAGE, tmp_path, SMALLER, test=TEST) as reader:
        judged = json.loads((reader.folder / "run" / "judged" / "evaluation.json").read_text())
        assert set(judged["taggers"]) == {"top_tagger", "float"}
        assert list((reader.folder / "run" / "judged").glob("*.png"))
        assert served(reader) == [1], "version 2 was published and rolled back"
        here = (
            ("/models", "models"),
            ("server:8000", "localhost:8000"),
            ("--test-data data/test", "--test-data data/test --force"),
        )
        with read(PUBLISH, reader, here, test=TEST):
            assert served(reader) == [1], "once more"


def served(reader: Reader) -> list[int]:
    return [version.number for version in versions(reader.folder / "models", "top_tagger")]
