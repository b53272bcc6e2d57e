"""Training goes on from a served file: its weights, and batch normalisations that give the same outputs."""

from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("lightning")

from retrain.data.examples import as_examples  # noqa: E402
from retrain.data.images import ImageSettings  # noqa: E402
from retrain.errors import CheckpointError  # noqa: E402
from retrain.network.resnet import build_network, load_checkpoint  # noqa: E402
from retrain.network.served import load_served  # noqa: E402
from retrain.network.settings import Stage, TrainSettings  # noqa: E402
from retrain.network.training import run_training  # noqa: E402
from retrain.quantisation.quantise import quantised_network  # noqa: E402
from tests.docs.pages import ROOT  # noqa: E402
from tests.retrain.jets import toy_jets  # noqa: E402

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]

SIZE = 32
EXAMPLES = as_examples(toy_jets(64, seed=5), ImageSettings())
SHIPPED = ROOT / "model_repository" / "resnet50_top" / "1" / "model.onnx"


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.from_numpy(EXAMPLES.inputs(SIZE))


def trained(architecture: str) -> torch.nn.Module:
    """A network whose batch normalisations do something."""
    torch.manual_seed(1)
    network = build_network(architecture)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network.eval()


def logits(network: torch.nn.Module, inputs: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return network.eval()(inputs).numpy()


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_a_served_network_is_what_was_quantised(architecture: str, inputs: torch.Tensor, tmp_path: Path) -> None:
    network = trained(architecture)
    onnx.save(quantised_network(network, EXAMPLES, SIZE, "minmax").rounded, tmp_path / "model.onnx")
    again = build_network(architecture)
    assert load_served(again, tmp_path / "model.onnx", inputs) == []
    before, after = logits(network, inputs), logits(again, inputs)
    assert np.abs(after - before).max() < 0.1 * before.std()  # weights of 8 bits
    again.train()
    with torch.no_grad():
        in_training = again(inputs).numpy()  # with the batch's own statistics, which are those it was given
    np.testing.assert_allclose(in_training, after, atol=1e-3 * before.std())


def test_another_head_is_left_as_is(inputs: torch.Tensor, tmp_path: Path) -> None:
    onnx.save(quantised_network(trained("resnet18"), EXAMPLES, SIZE, "minmax").rounded, tmp_path / "model.onnx")
    five = build_network("resnet18", classes=5)
    head = five.fc.weight.clone()
    assert load_served(five, tmp_path / "model.onnx", inputs) == ["fc.weight", "fc.bias"]
    assert torch.equal(five.fc.weight, head)


def test_training_goes_on_from_the_shipped_file(tmp_path: Path) -> None:
    settings = TrainSettings(
        stages=(Stage(SIZE, 16, 16, 1e-5),), devices=1, accelerator="cpu", precision="32-true", validation_jets=16
    )
    examples = as_examples(toy_jets(80, seed=6), ImageSettings())
    record = run_training(examples, 16, settings, tmp_path / "run", SHIPPED)
    assert record["initial"] == {"file": "model.onnx", "model": "resnet50_top", "version": 1}
    tuned, served = build_network(), build_network()
    load_checkpoint(tuned, tmp_path / "run" / f"stage-{SIZE}.pt")
    load_served(served, SHIPPED, torch.from_numpy(EXAMPLES.inputs(SIZE)))
    own, its = tuned.state_dict()["layer4.2.conv3.weight"], served.state_dict()["layer4.2.conv3.weight"]
    assert 0 < (own - its).abs().max() < 1e-3


def test_what_is_no_such_file(inputs: torch.Tensor, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"\x00no model")
    with pytest.raises(CheckpointError, match="not a readable ONNX file"):
        load_served(build_network("resnet18"), tmp_path / "broken.onnx", inputs)
    with pytest.raises(
        CheckpointError, match=r"another architecture, expected conv1|another architecture, expected layer1"
    ):
        load_served(build_network("resnet18"), SHIPPED, inputs)
