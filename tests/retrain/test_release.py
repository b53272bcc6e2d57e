"""Publishing what a training left: both taggers, or neither."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from retrain.errors import PublishError
from retrain.evaluation.judging import Judged
from retrain.publishing.card import BASELINE, FLOAT, SERVED
from retrain.publishing.release import Candidate, publish_taggers
from retrain.publishing.versions import versions, write_version
from retrain.quantisation.export import CONTRACTS
from retrain.quantisation.quantise import save_onnx
from tests.retrain.jets import toy_jets
from tests.retrain.tagger import IMAGE, tiny_quantised


def candidate(folder: Path) -> Candidate:
    """What `quantise` and `train` leave, with a tiny network."""
    network = tiny_quantised()
    for model, complete in CONTRACTS.items():
        save_onnx(complete(network, IMAGE), folder / f"{model}.onnx")
    record = {"calibration": "minmax", "image": asdict(IMAGE)}
    (folder / "quantisation.json").write_text(json.dumps(record))
    (folder / "training.json").write_text(json.dumps({"training_examples": 10}))
    return Candidate(folder, folder / "training.json", folder / "train", folder / "test")


def judged() -> Judged:
    """Scores as good as guessing."""
    jets = toy_jets(60, seed=4)
    rng = np.random.default_rng(5)
    return Judged(jets, {name: rng.random(len(jets)) for name in (SERVED, FLOAT, BASELINE)})


def test_both_taggers_are_published(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    published = publish_taggers(candidate(tmp_path), judged(), repository)
    assert [(version.model, version.number) for version in published] == [("top_tagger", 1), ("resnet50_top", 1)]


def test_where_one_of_both_is_worse_neither_is_published(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    network = CONTRACTS["resnet50_top"](tiny_quantised(), IMAGE)
    images = np.zeros((1, 3, IMAGE.size, IMAGE.size), np.float32)
    images[:, :, 3, 4] = 1.0
    write_version(repository, "resnet50_top", network, images, {"metrics": {"auc": 0.98, "auc_err": 0.001}})
    left = candidate(tmp_path)
    with pytest.raises(PublishError, match=r"worse than version 1's 0\.98"):
        publish_taggers(left, judged(), repository)
    assert versions(repository, "top_tagger") == []
    assert [version.number for version in versions(repository, "resnet50_top")] == [1]
    assert len(publish_taggers(left, judged(), repository, force=True)) == 2
