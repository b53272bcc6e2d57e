"""What is wrong is said before anything long begins, and without a progress bar of nothing before it."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path

import pytest

from retrain.commands import evaluate, publish
from retrain.commands.progress import progress_bar
from retrain.data.files import write_jets
from retrain.errors import CheckpointError, DataError, PublishError
from tests.retrain.jets import toy_jets

MODELS = Path(__file__).resolve().parents[2] / "model_repository"


@pytest.mark.parametrize(("items", "shown"), [(0, False), (1, True)])
def test_no_bar_before_an_error_at_the_start(items: int, shown: bool, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with progress_bar("jets", 3) as advance:
            if items:
                advance(items)
            raise DataError("too few")

    with pytest.raises(DataError, match="too few"):
        work()
    assert ("1/3" in capsys.readouterr().err) is shown


@pytest.mark.parametrize("device", [(), ("--device", "cpu")])
def test_every_model_is_looked_at_before_one_is_scored(
    device: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jets(tmp_path / "jets.parquet", toy_jets(8))
    sound, other = (next((MODELS / name).glob("*/model.onnx")) for name in ("top_tagger", "resnet50_neutrino"))
    parser = argparse.ArgumentParser()
    evaluate.register(parser)
    args = parser.parse_args([str(sound), str(other), "--data", str(tmp_path / "jets.parquet"), *device])
    with pytest.raises(CheckpointError, match=f"{other}: expected input constituents"):
        evaluate.run(args)
    assert capsys.readouterr().err == ""


def test_publish_asks_for_the_server_before_it_judges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is read for that, not even the events."""
    for name in ("training.json", "quantisation.json"):
        (tmp_path / name).write_text('{"calibration": "percentile", "image": {}}')
    with socket.create_server(("127.0.0.1", 0)) as free:
        server = f"127.0.0.1:{free.getsockname()[1]}"
    folders = ("--repository", "models", "--training-data", "none", "--test-data", "none")
    parser = argparse.ArgumentParser()
    publish.register(parser)
    args = parser.parse_args(
        [str(tmp_path), "--training", str(tmp_path / "training.json"), *folders, "--server", server]
    )
    with pytest.raises(PublishError, match=f"no server answers at {server} .*; nothing was published"):
        publish.run(args)
    assert capsys.readouterr().err == ""
