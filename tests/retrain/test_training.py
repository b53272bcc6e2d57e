import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("lightning")

from retrain.data.examples import as_examples  # noqa: E402
from retrain.data.images import ImageSettings  # noqa: E402
from retrain.errors import CheckpointError, DataError  # noqa: E402
from retrain.network.resnet import build_network, load_checkpoint, transfer  # noqa: E402
from retrain.network.settings import Stage, TrainSettings  # noqa: E402
from retrain.network.training import (  # noqa: E402
    Teacher,
    batch_order,
    features,
    predict,
    probabilities,
    run_training,
    train,
)
from tests.retrain.jets import toy_jets, toy_maps  # noqa: E402

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


def test_a_training_of_other_examples_or_another_start_is_not_continued(tmp_path: Path) -> None:
    """It was: nothing was left to do, and the weights of the first examples were those of the others."""
    settings = replace(SETTINGS, stages=SETTINGS.stages[1:])
    train(JETS, HELD_OUT, settings, tmp_path / "run")
    others = toy_jets(120, seed=3)
    with pytest.raises(CheckpointError, match="other examples; use another folder or --no-resume"):
        train(others, HELD_OUT, settings, tmp_path / "run")
    with pytest.raises(CheckpointError, match="other initial weights"):
        train(JETS, HELD_OUT, settings, tmp_path / "run", tmp_path / "run" / "stage-48.pt")
    with pytest.raises(CheckpointError, match="other teacher"):
        train(JETS, HELD_OUT, settings, tmp_path / "run", teacher=Teacher(build_network("resnet18"), 32))
    train(others, HELD_OUT, settings, tmp_path / "run", resume=False)


def test_a_resumed_training_records_all_of_it(tmp_path: Path) -> None:
    examples = as_examples(toy_jets(160, seed=1), ImageSettings())
    whole = run_training(examples, 40, SETTINGS, tmp_path / "whole")

    class StoppedError(Exception):
        pass

    def stop(progress, _) -> None:
        if progress.stage.size == 48 and progress.step == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        run_training(examples, 40, SETTINGS, tmp_path / "parts", report=stop)
    resumed = run_training(examples, 40, SETTINGS, tmp_path / "parts")
    again = run_training(examples, 40, SETTINGS, tmp_path / "parts")  # nothing is left to do
    timed = {"seconds", "images_per_s"}
    for record in (resumed, again):
        assert [{name: value for name, value in entry.items() if name not in timed} for entry in record["history"]] == [
            {name: value for name, value in entry.items() if name not in timed} for entry in whole["history"]
        ]
    assert again["seconds"] == resumed["seconds"] > 0
    assert json.loads((tmp_path / "parts" / "training.json").read_text()) == again


def test_a_stage_that_was_given_up_is_not_taken_up_again(tmp_path: Path) -> None:
    settings = replace(SETTINGS, stages=(Stage(32, 640, 16, 0.5),), validations_per_stage=8, patience=1)
    told: list[int] = []
    first = train(JETS, HELD_OUT, settings, tmp_path, report=lambda progress: told.append(progress.step))
    assert told[-1] < 40
    steps = len(told)
    again = train(JETS, HELD_OUT, settings, tmp_path, report=lambda progress: told.append(progress.step))
    assert len(told) == steps
    for name, value in first.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)


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
    from retrain.evaluation.scoring import onnx_scores
    from retrain.quantisation.quantise import quantised_taggers

    network = train(JETS, HELD_OUT, replace(SETTINGS, stages=SETTINGS.stages[:1]), tmp_path)
    image = ImageSettings(size=32)
    files = quantised_taggers(network, JETS, image)
    plain = predict(network, HELD_OUT, image, mixed=False)
    np.testing.assert_allclose(onnx_scores(files["float"], HELD_OUT), plain, atol=1e-4)
    for model in ("top_tagger", "resnet50_top"):
        assert np.abs(onnx_scores(files[model], HELD_OUT, image) - plain).mean() < 0.05


def run(capsys: pytest.CaptureFixture[str], command, *words: object) -> list:
    """A command with --json, as a user gives it; returns what it printed."""
    parser = argparse.ArgumentParser()
    command.register(parser)
    assert command.run(parser.parse_args([*(str(word) for word in words), "--json"])) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line[:1] in "{["]


SMALL = ("--architecture", "resnet18")
HERE = ("--devices", 1, "--accelerator", "cpu")


def test_two_processes_share_each_batch(tmp_path: Path) -> None:
    """As on a machine with several GPUs; Fabric starts the command once more for each further process."""
    from retrain.data.files import write_jets

    data, output = tmp_path / "jets.parquet", tmp_path / "run"
    write_jets(data, JETS)
    command = [Path(sys.executable).with_name("triton-fpga"), "train", data, *SMALL, "--output", output, "--json"]
    options = ["--devices", "2", "--accelerator", "cpu", "--stage", "32:64:16:1e-3", "--validation", "20"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [entry["step"] for entry in told] == [1, 2, 3, 4]  # 64 images in batches of 16, told by the first process
    record = json.loads((output / "training.json").read_text())
    assert record["history"] == told
    network = build_network("resnet18")
    load_checkpoint(network, output / "stage-32.pt")
    assert np.isfinite(predict(network, HELD_OUT, ImageSettings(size=32))).all()


def test_commands_train_quantise_and_publish(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fastjet")
    from retrain.commands import evaluate as evaluate_command
    from retrain.commands import publish as publish_command
    from retrain.commands import quantise as quantise_command
    from retrain.commands import refit as refit_command
    from retrain.commands import train as train_command
    from retrain.data.files import write_jets

    for name, jets in (("data", JETS), ("test", HELD_OUT)):
        (tmp_path / name).mkdir()
        write_jets(tmp_path / name / "jets.parquet", jets)
    data, test, output = tmp_path / "data", tmp_path / "test", tmp_path / "onnx"
    stage = ("--stage", "32:64:16:1e-3", "--validation", 20)
    lines = run(capsys, train_command, data, "--output", tmp_path / "run", *stage, *SMALL, *HERE)
    assert lines[-1]["size"] == 32
    assert json.loads((tmp_path / "run" / "training.json").read_text())["training_examples"] == 100
    weights = tmp_path / "run" / "stage-32.pt"
    image = ("--size", 224, "--reduce", 7)
    (written,) = run(capsys, quantise_command, weights, data, "--output", output, *image, *SMALL)
    assert set(written) == {"top_tagger", "resnet50_top", "float"}
    assert json.loads((output / "quantisation.json").read_text())["image"]["reduce"] == 7
    (numbers,) = run(capsys, evaluate_command, *written.values(), "--data", test, "--baseline-data", data)
    assert set(numbers["taggers"]) == {"top_tagger", "resnet50_top", "float", "baseline"}
    told = ("--training", tmp_path / "run" / "training.json", "--training-data", data, "--test-data", test)
    (published,) = run(capsys, publish_command, output, "--repository", tmp_path / "models", *told)
    assert [(row["model"], row["version"]) for row in published] == [("top_tagger", 1), ("resnet50_top", 1)]
    assert {"auc", "auc_float", "auc_baseline", "rejection_30_err"} <= set(published[0]["metrics"])
    assert "backend" in (tmp_path / "models" / "top_tagger" / "config.pbtxt").read_text()

    (record,) = run(capsys, refit_command, output, data, "--epochs", 2)
    assert record["head"]["globals"] == ["mass", "pt", "multiplicity"]
    judged = {}
    for device in ((), ("--device", "cpu")):
        folder = tmp_path / f"judged{len(device)}"
        (numbers,) = run(
            capsys, evaluate_command, output / "top_tagger.onnx", *device, "--data", test, "--output", folder
        )
        assert json.loads((folder / "evaluation.json").read_text()) == numbers
        with np.load(folder / "scores.npz") as scores:
            judged[device] = scores["top_tagger"]
            assert scores["is_top"].sum() == numbers["jets"]["top"] == HELD_OUT.is_top.sum()
    np.testing.assert_allclose(*judged.values(), atol=0.01)  # onnxruntime rounds differently
    served = tmp_path / "models" / "top_tagger" / "1" / "model.onnx"
    (numbers,) = run(capsys, evaluate_command, served, output / "float.onnx", "--data", test)
    assert list(numbers["taggers"]) == ["top_tagger-1", "float"]
    with pytest.raises(DataError, match="a second model called float"):
        run(capsys, evaluate_command, output / "float.onnx", output / "float.onnx", "--data", test)
    (published,) = run(capsys, publish_command, output, "--repository", tmp_path / "models", *told, "--force")
    assert [(row["model"], row["version"]) for row in published] == [("top_tagger", 2)]
    assert {"auc_minus_baseline", "rejection_30_over_float_err"} <= set(published[0]["metrics"])


def test_a_teacher_softens_the_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from retrain.commands import train as train_command
    from retrain.data.files import write_jets

    write_jets(tmp_path / "jets.parquet", JETS)
    torch.save(build_network("resnet18").state_dict(), tmp_path / "teacher.pt")
    wanted = (tmp_path / "jets.parquet", "--stage", "48:32:16:1e-3", "--validation", 20, *SMALL, *HERE)
    teacher = ("--teacher", f"{tmp_path / 'teacher.pt'}:32")
    taught = run(capsys, train_command, *wanted, "--output", tmp_path / "taught", *teacher)
    alone = run(capsys, train_command, *wanted, "--output", tmp_path / "alone")
    assert taught[-1]["loss"] != alone[-1]["loss"]
    assert json.loads((tmp_path / "taught" / "training.json").read_text())["teacher"] == "teacher.pt:32"
    with pytest.raises(DataError, match="CHECKPOINT:SIZE"):
        run(capsys, train_command, *wanted, "--output", tmp_path / "bad", "--teacher", "teacher.pt")
    with pytest.raises(DataError, match="SIZE:IMAGES:BATCH:RATE"):
        run(capsys, train_command, tmp_path / "jets.parquet", "--output", tmp_path / "bad", "--stage", "48")


def test_teacher_s_targets_are_probabilities() -> None:
    teacher = Teacher(build_network("resnet18"), 32)
    targets = teacher.targets(as_examples(JETS, ImageSettings()).take(slice(0, 6))).numpy()
    np.testing.assert_allclose(targets.sum(axis=1), 1.0, rtol=1e-5)
    assert np.all(targets[np.arange(6), JETS.labels[:6]] > 0.5)


def test_pixel_maps_train_transfer_and_quantise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from retrain.commands import publish as publish_command
    from retrain.commands import quantise as quantise_command
    from retrain.commands import train as train_command
    from retrain.data.files import write_maps

    for name, seed in (("data", 1), ("test", 2)):
        (tmp_path / name).mkdir()
        write_maps(tmp_path / name / "maps.parquet", toy_maps(120, seed))
    data, test, output = tmp_path / "data", tmp_path / "test", tmp_path / "onnx"
    torch.save(build_network("resnet18").state_dict(), tmp_path / "jets.pt")
    task = ("--task", "neutrinos", *SMALL)
    stage = ("--stage", "25:320:16:2e-3", "--validation", 30, "--initial", tmp_path / "jets.pt")
    lines = run(capsys, train_command, data, "--output", tmp_path / "run", *stage, *task, *HERE)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert 0.0 < lines[-1]["validation_accuracy"] <= 1.0
    assert "validation_auc" not in lines[-1]
    weights = tmp_path / "run" / "stage-25.pt"
    (written,) = run(capsys, quantise_command, weights, data, "--output", output, "--size", 25, *task)
    assert set(written) == {"resnet50_neutrino", "float"}
    told = ("--training", tmp_path / "run" / "training.json", "--training-data", data, "--test-data", test)
    ((published,),) = run(capsys, publish_command, output, "--repository", tmp_path / "models", *told)
    metrics = published["metrics"]
    assert abs(metrics["accuracy"] - metrics["accuracy_float"]) < 0.3
    assert list(metrics["recall"]) == ["numu_cc", "nue_cc", "nutau_cc", "nc", "cosmic"]
    folder = tmp_path / "models" / "resnet50_neutrino"
    assert (folder / "labels.txt").read_text().split() == list(metrics["recall"])
    assert 'string_value: "images"' in (folder / "config.pbtxt").read_text()


def test_a_head_learns_on_frozen_features() -> None:
    from retrain.network.head import HeadSettings, fit_head, head_probabilities

    maps, unseen = toy_maps(300, seed=1), toy_maps(100, seed=2)
    network = build_network("resnet18", 5)
    known, new = features(network, maps, 25), features(network, unseen, 25)
    assert known.shape == (300, 512)
    settings = HeadSettings((64,), epochs=30, batch_size=32)
    head = fit_head(known, maps.labels, 5, settings)
    scores = head_probabilities(head, new)
    assert (scores.argmax(axis=1) == unseen.labels).mean() > 0.5
    np.testing.assert_allclose(scores, head_probabilities(fit_head(known, maps.labels, 5, settings), new))
    network.fc = head  # the standardisation is inside
    np.testing.assert_allclose(probabilities(network, unseen, 25, mixed=False), scores, atol=0.1)
    with pytest.raises(DataError, match="NaN"):
        fit_head(np.full((4, 3), np.nan, np.float32), np.zeros(4, np.int64), 2)
    with pytest.raises(DataError, match="labels for"):
        fit_head(known, maps.labels[:5], 5)


def test_a_missing_class_does_not_train(tmp_path: Path) -> None:
    maps = toy_maps(40)
    with pytest.raises(DataError, match="without cosmic"):
        train(maps.take(np.flatnonzero(maps.label < 4)), maps, SETTINGS, tmp_path)
