import numpy as np
import onnxruntime
import pytest
from onnx import numpy_helper

from fpga_ops.importer import import_model
from retrain.data.images import ImageSettings, JetImager
from retrain.errors import CheckpointError, DataError
from retrain.evaluation.scoring import onnx_scores
from retrain.quantisation.export import with_constituents, with_images
from retrain.quantisation.quantise import quantise, save_onnx
from tests.retrain.jets import toy_jets
from tests.retrain.tagger import IMAGE, tiny_float, tiny_quantised

JETS = toy_jets(64, seed=4)


@pytest.fixture(scope="module")
def quantised():
    return tiny_quantised()


def test_both_contracts_give_the_same_scores_to_the_bit(quantised) -> None:
    from_constituents = onnx_scores(with_constituents(quantised, IMAGE), JETS)
    from_images = onnx_scores(with_images(quantised, IMAGE), JETS, IMAGE)
    np.testing.assert_array_equal(from_constituents, from_images)
    assert np.ptp(from_constituents) > 0


def test_served_file_makes_the_image_that_training_makes(quantised) -> None:
    """The uint8 that enters the integer network is that of training's image, on 2000 jets."""
    jets = toy_jets(2000, seed=8)
    model = with_constituents(quantised, IMAGE)
    first = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    model.graph.output.add().name = first.output[0]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    served = session.run([first.output[0]], {"constituents": jets.constituents})[0]
    training = JetImager(IMAGE, transformed=True)(jets.constituents)
    np.testing.assert_array_equal(served, np.rint(training * np.float32(255.0)).astype(np.uint8))


def test_head_stays_float_and_the_rest_is_one_integer_network(quantised, tmp_path) -> None:
    save_onnx(with_constituents(quantised, IMAGE), tmp_path / "model.onnx")
    partition = import_model(tmp_path / "model.onnx")
    assert [node.op_type for node in quantised.graph.node if node.op_type == "Gemm"] == ["Gemm"]
    assert len(partition.network.inputs) == len(partition.network.outputs) == 1
    assert partition.network.tensors[partition.network.inputs[0]].channels == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_quantised_is_close_to_float(quantised) -> None:
    plain = onnx_scores(with_constituents(tiny_float(), IMAGE), JETS)
    assert np.abs(plain - onnx_scores(with_constituents(quantised, IMAGE), JETS)).max() < 0.05


@pytest.mark.parametrize(("bits", "largest"), [(7, 64), (8, 127)])
def test_weights_have_the_bits_that_were_asked_for(bits, largest) -> None:
    images = JetImager(IMAGE, transformed=True)(toy_jets(8).constituents)
    model = quantise(tiny_float(), [images[:8]], input_range=(0.0, 1.0), weight_bits=bits)
    weights = [array for array in map(numpy_helper.to_array, model.graph.initializer)
               if array.dtype == np.int8 and array.ndim == 4]  # fmt: skip
    assert weights
    assert {int(np.abs(array.astype(int)).max()) for array in weights} == {largest}


def test_no_calibration_images() -> None:
    with pytest.raises(DataError, match="at least one batch"):
        quantise(tiny_float(), [])


def test_other_files_are_no_taggers(tmp_path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="broken"):
        onnx_scores(tmp_path / "broken.onnx", JETS)
    with pytest.raises(CheckpointError, match="expected input constituents or images"):
        onnx_scores(tiny_float(), JETS)


def test_settings_from_a_record() -> None:
    from retrain.data.images import image_settings

    settings = ImageSettings(size=48, rotate=False)
    assert (
        image_settings({"size": 48, "half_width": 0.8, "rotate": False, "flip": True, "reduce": 1, "more": 1})
        == settings
    )
    with pytest.raises(DataError, match="half_width"):
        image_settings({"size": 48})
