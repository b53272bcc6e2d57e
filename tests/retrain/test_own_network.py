"""The tutorial "a network of your own", as it stands: from a torch module to answers of the real server."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
grpc = pytest.importorskip("tritonclient.grpc")

import fpga_ops  # noqa: E402
from fpga_ops.importer import import_model  # noqa: E402
from tests.docs.pages import DOCS  # noqa: E402
from tests.docs.running import read  # noqa: E402

pytestmark = [pytest.mark.training, pytest.mark.server]


@pytest.mark.timeout(600)
def test_from_a_torch_module_to_a_served_model(tmp_path: Path) -> None:
    page = DOCS / "tutorials" / "a-network-of-your-own.md"
    with read(page, tmp_path, test="tests/retrain/test_own_network.py") as reader:
        file = reader.folder / "models" / "my_network" / "1" / "model.onnx"
        partition = import_model(file)
        assert not partition.before.nodes
        assert "Gemm" not in {node.operator for node in partition.graph.nodes if node.name in partition.after.nodes}
        images = np.random.default_rng(5).normal(size=(2, 3, 64, 64)).astype(np.float32)
        with fpga_ops.load(file, "reference") as network:
            expected = network.run({"images": images})["probabilities"]
        assert np.ptp(expected) > 0
        with grpc.InferenceServerClient(f"localhost:{reader.ports['8001']}") as client:
            given = grpc.InferInput("images", list(images.shape), "FP32")
            given.set_data_from_numpy(images)
            got = client.infer("my_network", [given]).as_numpy("probabilities")
    np.testing.assert_array_equal(got, expected)
