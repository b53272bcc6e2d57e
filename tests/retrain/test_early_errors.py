"""What is wrong with the files of a long command is said before its data is read: here there is none to read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fpga_ops.cli import USER_ERROR, main
from retrain.quantisation.export import with_images
from retrain.quantisation.quantise import save_onnx
from tests.retrain.tagger import IMAGE, tiny_quantised

NOWHERE = "no-such-folder"


def publish(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    (folder / "training.json").write_text("{}")
    paths = ["--repository", folder / "models", "--training", folder / "training.json"]
    code = main(["publish", str(folder), *map(str, paths), "--training-data", NOWHERE, "--test-data", NOWHERE])
    assert code == USER_ERROR
    assert not (folder / "models").exists()
    return capsys.readouterr().err


@pytest.mark.parametrize(("task", "missing"), [("neutrinos", "size"), ("taggers", "image")])
def test_publish_names_what_quantise_did_not_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str, missing: str
) -> None:
    (tmp_path / "quantisation.json").write_text(json.dumps({"task": task, "calibration": "minmax"}))
    assert f"'{missing}' is missing; run quantise again" in publish(tmp_path, capsys)


def test_publish_asks_the_networks_for_pixel_maps_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "quantisation.json").write_text(json.dumps({"task": "neutrinos", "calibration": "minmax", "size": 25}))
    assert "resnet50_neutrino.onnx" in publish(tmp_path, capsys)
    save_onnx(with_images(tiny_quantised(0), IMAGE), tmp_path / "resnet50_neutrino.onnx")
    assert "pixel_maps" in publish(tmp_path, capsys)


@pytest.mark.training
@pytest.mark.parametrize(
    ("options", "said"),
    [(["no-such.pt"], "no-such.pt"), (["no-such.pt", "--reduce", "3"], "reduce: expected a divisor")],
)
def test_precision_looks_at_checkpoint_and_image_first(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["precision", *options, "--training-data", NOWHERE, "--test-data", NOWHERE]) == USER_ERROR
    assert said in capsys.readouterr().err
