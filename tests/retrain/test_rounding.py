from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("lightning")

from retrain.data.examples import as_examples  # noqa: E402
from retrain.data.images import ImageSettings  # noqa: E402
from retrain.network.resnet import build_network, load_checkpoint  # noqa: E402
from retrain.network.rounding import LEVELS, RoundedConv2d, emulated_rounding  # noqa: E402
from retrain.network.settings import Stage, TrainSettings  # noqa: E402
from retrain.network.training import train  # noqa: E402
from retrain.quantisation.quantise import quantised_network  # noqa: E402
from tests.retrain.jets import toy_jets  # noqa: E402

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]

SIZE = 32
EXAMPLES = as_examples(toy_jets(64, seed=5), ImageSettings())


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.from_numpy(EXAMPLES.inputs(SIZE))


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_outputs_of_layers_lie_on_256_levels_and_all_is_as_before_afterwards(architecture: str, inputs) -> None:
    torch.manual_seed(1)
    network = build_network(architecture).eval()
    for module in network.modules():  # an untrained block adds nothing to its shortcut
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    names = list(network.state_dict())
    with torch.no_grad():
        plain = network(inputs)
        seen: list[torch.Tensor] = []
        with emulated_rounding(network, inputs):
            assert list(network.state_dict()) == names
            handle = network.layer2[0].register_forward_hook(lambda *given: seen.append(given[-1]))
            rounded = network(inputs)
            again = network(inputs)
            handle.remove()
        assert 1 < len(np.unique(seen[0].numpy())) <= LEVELS + 1
        assert not torch.equal(rounded, plain)
        assert torch.equal(rounded, again)
        assert (rounded - plain).abs().max() < 0.5 * plain.std()
        assert torch.equal(network(inputs), plain)


def test_weights_are_rounded_as_the_quantiser_rounds_them(inputs) -> None:
    """Though the quantiser sees them multiplied by the batch normalisation's factors."""
    torch.manual_seed(2)
    network = build_network("resnet18").eval()
    torch.nn.init.uniform_(network.bn1.weight, 0.5, 1.5)
    stored = quantised_network(network, EXAMPLES, SIZE, "minmax").rounded
    initializers = {tensor.name: tensor for tensor in stored.graph.initializer}
    first = next(node for node in stored.graph.node if node.op_type == "Conv")
    source = next(node for node in stored.graph.node if first.input[1] in node.output)
    wanted = numpy_helper.to_array(initializers[source.input[0]])
    taken: list[torch.Tensor] = []
    with emulated_rounding(network, inputs):
        assert isinstance(network.conv1, RoundedConv2d)
        forward = network.conv1._conv_forward
        network.conv1._conv_forward = lambda x, weight, bias: (taken.append(weight), forward(x, weight, bias))[1]
        network(inputs)
    scale = network.conv1.weight.detach().abs().amax(dim=(1, 2, 3), keepdim=True) / 127.0
    integers = (taken[0].detach() / scale).round().numpy()
    assert np.abs(integers - wanted).max() <= 1
    assert np.mean(integers == wanted) > 0.999


def test_training_with_rounding_moves_weights_and_not_the_statistics(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = build_network("resnet18")
    torch.save(network.state_dict(), tmp_path / "initial.pt")
    settings = TrainSettings(
        architecture="resnet18", stages=(Stage(SIZE, 64, 16, 1e-4),), devices=1, accelerator="cpu",
        precision="32-true", validation_jets=16, rounding=True,
    )  # fmt: skip
    jets = toy_jets(64, seed=6)
    train(jets, toy_jets(16, seed=7), settings, tmp_path / "run", tmp_path / "initial.pt")
    tuned = build_network("resnet18")
    assert load_checkpoint(tuned, tmp_path / "run" / f"stage-{SIZE}.pt") == []
    before, after = network.state_dict(), tuned.state_dict()
    assert not torch.equal(before["layer1.0.conv1.weight"], after["layer1.0.conv1.weight"])
    assert torch.equal(before["bn1.running_mean"], after["bn1.running_mean"])


def test_no_inputs(inputs) -> None:
    with pytest.raises(ValueError, match="at least one"), emulated_rounding(build_network("resnet18"), inputs[:0]):
        pass
