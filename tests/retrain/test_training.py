import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("lightning")

from retrain.errors import CheckpointError, DataError  # noqa: E402
from retrain.images import ImageSettings  # noqa: E402
from retrain.network import build_network, load_checkpoint, transfer  # noqa: E402
from retrain.training import Stage, TrainSettings, batch_order, predict, train  # noqa: E402
from tests.retrain.jets import toy_jets  # noqa: E402

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]

SETTINGS = TrainSettings(
    architecture="resnet18",
    stages=(Stage(32, 128, 16, 1e-3), Stage(48, 64, 16, 5e-4)),
    devices=1,
    accelerator="cpu",
    validation_jets=32,
    validations_per_stage=2,
)
JETS, HELD_OUT = toy_jets(120, seed=1), toy_jets(40, seed=2)


def test_training_learns_reports_and_saves(tmp_path: Path) -> None:
    seen = []
    settings = replace(SETTINGS, stages=(Stage(32, 640, 16, 2e-3),))
    train(JETS, HELD_OUT, settings, tmp_path, report=seen.append)
    assert seen[-1].loss < seen[0].loss
    assert seen[-1].step == 40
    assert [progress.auc is not None for progress in seen].count(True) == 2
    network = build_network("resnet18")
    assert load_checkpoint(network, tmp_path / "stage-32.pt") == []
    assert predict(network, HELD_OUT, ImageSettings(size=32)).shape == (40,)


def test_same_seed_same_weights_and_resuming_changes_nothing(tmp_path: Path) -> None:
    whole = train(JETS, HELD_OUT, SETTINGS, tmp_path / "whole")

    class StoppedError(Exception):
        pass

    def stop(progress) -> None:
        if progress.stage.size == 48 and progress.step == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(JETS, HELD_OUT, SETTINGS, tmp_path / "parts", report=stop)
    resumed = train(JETS, HELD_OUT, SETTINGS, tmp_path / "parts")
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0)


def test_a_training_of_other_settings_is_not_continued(tmp_path: Path) -> None:
    train(JETS, HELD_OUT, replace(SETTINGS, stages=SETTINGS.stages[1:]), tmp_path)
    with pytest.raises(CheckpointError, match="other settings"):
        train(JETS, HELD_OUT, SETTINGS, tmp_path)


def test_one_class_only_does_not_train(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one class only"):
        train(JETS.take(np.flatnonzero(JETS.is_top)), HELD_OUT, SETTINGS, tmp_path)


def test_order_does_not_depend_on_when_it_is_asked_for() -> None:
    order = batch_order(10, Stage(32, 40, 4), seed=1)
    assert order.shape == (10, 4)
    np.testing.assert_array_equal(np.sort(order.ravel()[:10]), np.arange(10))
    np.testing.assert_array_equal(order, batch_order(10, Stage(32, 40, 4), seed=1))


def test_three_plane_checkpoint_sees_one_plane_as_three_equal_ones() -> None:
    import torchvision

    torch.manual_seed(0)
    three = torchvision.models.resnet18(num_classes=2).eval()
    one = build_network("resnet18").eval()
    assert transfer(one, three.state_dict()) == []
    image = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(one(image), three(image.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


def test_head_of_another_number_of_classes_is_left_as_it_is() -> None:
    assert transfer(build_network("resnet18", 5), build_network("resnet18", 2).state_dict()) == ["fc.weight", "fc.bias"]


def test_checkpoints_of_other_architectures(tmp_path: Path) -> None:
    torch.save(build_network("resnet34").state_dict(), tmp_path / "resnet34.pt")
    with pytest.raises(CheckpointError, match="of another architecture"):
        load_checkpoint(build_network("resnet18"), tmp_path / "resnet34.pt")
    (tmp_path / "text.pt").write_text("no checkpoint")
    with pytest.raises(CheckpointError, match="not a readable torch checkpoint"):
        load_checkpoint(build_network("resnet18"), tmp_path / "text.pt")
    with pytest.raises(CheckpointError, match="a ResNet of torchvision"):
        build_network("alexnet")


def test_quantised_taggers_agree_with_the_network(tmp_path: Path) -> None:
    from retrain.quantise import quantised_taggers
    from retrain.scoring import onnx_scores

    network = train(JETS, HELD_OUT, replace(SETTINGS, stages=SETTINGS.stages[:1]), tmp_path)
    image = ImageSettings(size=32)
    files = quantised_taggers(network, JETS, image)
    plain = predict(network, HELD_OUT, image, mixed=False)
    np.testing.assert_allclose(onnx_scores(files["float"], HELD_OUT), plain, atol=1e-4)
    for model in ("top_tagger", "resnet50_top"):
        assert np.abs(onnx_scores(files[model], HELD_OUT, image) - plain).mean() < 0.05


def test_commands_train_and_quantise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import argparse

    from retrain.commands import quantise as quantise_command
    from retrain.commands import train as train_command
    from retrain.data.files import write_jets

    (tmp_path / "data").mkdir()
    write_jets(tmp_path / "data" / "jets.parquet", JETS)

    def run(command, *words: object) -> list[dict]:
        parser = argparse.ArgumentParser()
        command.register(parser)
        assert command.run(parser.parse_args([str(word) for word in words])) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]

    common = ("--architecture", "resnet18", "--json")
    lines = run(
        train_command, tmp_path / "data", "--output", tmp_path / "run", "--stage", "32:64:16:1e-3",
        "--validation", 20, "--devices", 1, "--accelerator", "cpu", *common,
    )  # fmt: skip
    assert lines[-1]["size"] == 32
    assert json.loads((tmp_path / "run" / "training.json").read_text())["training_jets"] == 100
    weights = tmp_path / "run" / "stage-32.pt"
    (written,) = run(quantise_command, weights, tmp_path / "data", "--output", tmp_path / "onnx", "--size", 32, *common)
    assert all(Path(path).stat().st_size > 1e6 for path in written.values())
    assert json.loads((tmp_path / "onnx" / "quantisation.json").read_text())["image"]["size"] == 32
