import numpy as np
import onnx
import pytest

from retrain.errors import CheckpointError
from retrain.evaluation.scoring import engine_features, engine_probabilities, onnx_scores
from retrain.quantisation.export import with_constituents
from retrain.quantisation.quantise import save_onnx
from retrain.quantisation.refit import GLOBALS, head_inputs, jet_globals, logits_output
from tests.retrain.jets import toy_jets
from tests.retrain.tagger import IMAGE, tiny_float, tiny_quantised

JETS = toy_jets(40, seed=3)


def test_globals_are_those_of_the_jet() -> None:
    values = jet_globals(JETS.constituents)
    assert values.shape == (40, len(GLOBALS))
    np.testing.assert_allclose(values[:, 0], JETS.mass, rtol=1e-3, atol=0.05)
    np.testing.assert_allclose(values[:, 1], JETS.pt, rtol=1e-5)
    np.testing.assert_array_equal(values[:, 2], JETS.multiplicity)


def test_globals_do_not_depend_on_the_batch() -> None:
    alone = np.concatenate([jet_globals(row[None]) for row in JETS.constituents])
    np.testing.assert_array_equal(alone, jet_globals(JETS.constituents))


def test_the_head_is_found() -> None:
    assert logits_output(with_constituents(tiny_quantised(), IMAGE))
    with pytest.raises(CheckpointError, match="do not come from a Softmax"):
        logits_output(onnx.ModelProto())


def test_logits_of_the_device_are_those_of_its_probabilities(tmp_path) -> None:
    model = with_constituents(tiny_quantised(), IMAGE)
    save_onnx(model, tmp_path / "model.onnx")
    rows = head_inputs(tmp_path / "model.onnx", JETS.constituents)
    assert rows.shape == (40, 2 + len(GLOBALS))
    scores = engine_probabilities(tmp_path / "model.onnx", JETS.constituents)
    np.testing.assert_allclose(np.exp(rows[:, 1] - rows[:, 0]), scores[:, 1] / scores[:, 0], rtol=1e-3)


@pytest.mark.training
@pytest.mark.filterwarnings("ignore")
def test_a_refitted_head_is_served_as_it_was_fitted(tmp_path) -> None:
    pytest.importorskip("torch")
    from retrain.network.head import HeadSettings, fit_head, head_probabilities
    from retrain.quantisation.refit import with_head

    path = tmp_path / "model.onnx"
    for quantised, name in ((tiny_quantised(), "model"), (tiny_float(), "float")):
        save_onnx(with_constituents(quantised, IMAGE), tmp_path / f"{name}.onnx")
    rows = head_inputs(path, JETS.constituents)
    head = fit_head(rows, JETS.labels, 2, HeadSettings((16,), 0.0, 20, 8))
    wanted = head_probabilities(head, rows)
    assert ((wanted[:, 1] > 0.5) == JETS.is_top).mean() > 0.7
    for name in ("model", "float"):
        save_onnx(with_head(onnx.load(tmp_path / f"{name}.onnx"), head), tmp_path / f"{name}-refitted.onnx")
    refitted = tmp_path / "model-refitted.onnx"
    for device in ("reference", None):
        np.testing.assert_allclose(engine_probabilities(refitted, JETS.constituents, device), wanted, atol=1e-4)
    np.testing.assert_array_equal(
        engine_features(refitted, JETS.constituents, "reference"), engine_features(path, JETS.constituents, "reference")
    )
    assert np.abs(onnx_scores(tmp_path / "float-refitted.onnx", JETS) - wanted[:, 1]).max() < 0.2


@pytest.mark.training
@pytest.mark.filterwarnings("ignore")
def test_a_head_that_is_fitted_again_takes_the_place_of_the_first(tmp_path) -> None:
    pytest.importorskip("torch")
    from retrain.network.head import HeadSettings
    from retrain.quantisation.refit import refit_tagger

    for quantised, name in ((tiny_quantised(), "top_tagger"), (tiny_float(), "float")):
        save_onnx(with_constituents(quantised, IMAGE), tmp_path / f"{name}.onnx")
    (tmp_path / "quantisation.json").write_text("{}")
    settings = HeadSettings((16,), 0.0, 20, 8)
    first = refit_tagger(tmp_path, JETS, settings)
    made = [onnx.load(tmp_path / f"{name}.onnx") for name in ("top_tagger", "float")]
    refit_tagger(tmp_path, JETS, HeadSettings((8, 8), 0.0, 1, 8))
    assert refit_tagger(tmp_path, JETS, settings) == first
    for before, name in zip(made, ("top_tagger", "float"), strict=True):
        after = onnx.load(tmp_path / f"{name}.onnx")
        assert [node.op_type for node in after.graph.node] == [node.op_type for node in before.graph.node]
        save_onnx(before, tmp_path / "before.onnx")
        scores = [onnx_scores(file, JETS) for file in (tmp_path / "before.onnx", tmp_path / f"{name}.onnx")]
        np.testing.assert_allclose(scores[0], scores[1], rtol=1e-6)
