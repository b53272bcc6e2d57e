import numpy as np
import onnxruntime
import pytest

from retrain.data.files import read_all_maps, read_maps, write_maps
from retrain.data.images import JetImager
from retrain.data.jet_table import Jets
from retrain.data.neutrinos import chunk_seeds, generate_maps
from retrain.data.pixelmaps import CELLS, CLASSES, PLANES, VIEWS, PixelMaps, network_inputs, pixel_map_graph, reduction
from retrain.data.production import neutrino_production
from retrain.data.scintillator import Detector, Showers, Tracks
from retrain.errors import DataError
from retrain.quantisation.export import with_pixel_maps
from tests.retrain.jets import toy_maps


def muons(energy: float, count: int = 50) -> Tracks:
    """Straight into the detector, from the front."""
    along = np.tile([0.0, 0.0, 1.0], (count, 1))
    index = np.arange(count)
    return Tracks(index, np.full(count, 13), np.zeros((count, 3)), along, np.full(count, energy), np.zeros(count, int))


def length(charge: np.ndarray) -> np.ndarray:
    """The last plane that was hit, in either view."""
    hit = charge.any(axis=(1, 3))
    return PLANES - hit[:, ::-1].argmax(axis=1)


def test_a_muon_goes_as_far_as_bethe_says() -> None:
    reached = []
    for energy in (0.5, 1.0, 2.0):
        detector = Detector(50, np.random.default_rng(1))
        detector.transport(muons(energy), Showers.none())
        reached.append(np.median(length(detector.charge())) * 2 * 6.65)  # cm
    # About 1.8 MeV a cm: 2.8 m, 5.5 m, 11 m.
    np.testing.assert_allclose(reached, [270.0, 550.0, 1100.0], rtol=0.15)


def test_a_shower_is_shorter_and_wider_than_a_muon() -> None:
    along = np.tile([0.0, 0.0, 1.0], (50, 1))
    shower = Showers(np.arange(50), np.zeros((50, 3)), along, np.full(50, 2.0), np.zeros(50))
    detector = Detector(50, np.random.default_rng(2))
    detector.transport(muons(0.0), shower)
    electron = detector.charge()
    detector = Detector(50, np.random.default_rng(2))
    detector.transport(muons(2.0), Showers.none())
    muon = detector.charge()
    assert np.median(length(electron)) < 0.6 * np.median(length(muon))
    width = [np.count_nonzero(maps, axis=3)[maps.any(axis=3)].mean() for maps in (electron, muon)]  # cells a plane
    assert width[0] > width[1]


def test_energy_is_conserved_but_for_what_leaves() -> None:
    shower = Showers(np.zeros(1, int), np.zeros((1, 3)), np.array([[0.0, 0.0, 1.0]]), np.array([2.0]), np.zeros(1))
    detector = Detector(1, np.random.default_rng(3))
    detector.transport(muons(0.0, 1), shower)
    assert detector.energy.sum() == pytest.approx(2.0, rel=0.02)


def test_cosmic_muons_come_from_above_and_a_seed_decides_them() -> None:
    maps = generate_maps("cosmic", 40, seed=3, chunk=0)
    np.testing.assert_array_equal(maps.charge, generate_maps("cosmic", 40, seed=3, chunk=0).charge)
    assert not np.array_equal(maps.charge, generate_maps("cosmic", 40, seed=3, chunk=1).charge)
    assert (maps.label == CLASSES.index("cosmic")).all()
    assert np.count_nonzero(maps.charge, axis=(1, 2, 3)).min() >= 10
    assert maps.charge[:, 1, :, CELLS // 2 :].sum() > maps.charge[:, 1, :, : CELLS // 2].sum()


def test_seeds_differ_for_every_chunk() -> None:
    seeds = {chunk_seeds(seed, label, chunk)[0] for seed in range(3) for label in CLASSES for chunk in range(20)}
    assert len(seeds) == 300


@pytest.mark.training
def test_neutrinos_of_every_class_look_their_part() -> None:
    pytest.importorskip("pythia8mc")
    maps = {label: generate_maps(label, 60, seed=4, chunk=0) for label in CLASSES}
    np.testing.assert_array_equal(maps["nc"].charge, generate_maps("nc", 60, seed=4, chunk=0).charge)
    hits = {label: np.median(np.count_nonzero(m.charge, axis=(1, 2, 3))) for label, m in maps.items()}
    assert hits["nc"] < hits["numu_cc"] < hits["nutau_cc"]
    lengths = {label: np.median(length(m.charge)) for label, m in maps.items()}
    assert lengths["numu_cc"] > lengths["nue_cc"]
    assert np.median(maps["nutau_cc"].energy) > 2 * np.median(maps["numu_cc"].energy)


@pytest.mark.parametrize("suffix", [".parquet", ".root"])
def test_files_hold_every_cell(tmp_path, suffix: str) -> None:
    maps = toy_maps(30)
    write_maps(tmp_path / f"maps{suffix}", maps)
    back = read_all_maps([tmp_path])
    for name in ("charge", "label", "energy"):
        np.testing.assert_array_equal(getattr(back, name), getattr(maps, name))


def test_files_that_are_none(tmp_path) -> None:
    (tmp_path / "maps.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="not a readable file of pixel_maps"):
        read_maps(tmp_path / "maps.parquet")
    with pytest.raises(DataError, match="no pixel maps at all"):
        read_all_maps([])


def test_what_the_network_sees_is_what_numpy_makes() -> None:
    maps = toy_maps(20)
    wide = np.concatenate([maps.charge[:, 0], maps.charge[:, 1]], axis=2).astype(np.float64)
    coarse = wide.reshape(20, 50, 2, 80, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(maps.inputs(50)[:, 0], np.sqrt(coarse / 255), atol=1e-6)
    np.testing.assert_allclose(maps.inputs(100)[:, 0], np.sqrt(wide / 255), atol=1e-6)


def test_served_file_makes_the_input_that_training_makes() -> None:
    """Bit for bit, on 1000 maps, one at a time or in batches."""
    maps = toy_maps(1000, seed=5)
    session = onnxruntime.InferenceSession(pixel_map_graph(50).SerializeToString(), providers=["CPUExecutionProvider"])
    served = np.concatenate(
        [session.run(None, {"pixel_maps": row[None].astype(np.float32)})[0] for row in maps.charge[:100]]
    )
    np.testing.assert_array_equal(served, network_inputs(maps.charge, 2)[:100])
    assert with_pixel_maps.__module__ == "retrain.quantisation.export"


@pytest.mark.parametrize("size", [0, 3, 40, 101])
def test_sizes_that_do_not_divide(size: int) -> None:
    with pytest.raises(DataError, match="size of a pixel map"):
        reduction(size)


def test_bad_maps() -> None:
    maps = toy_maps(10)
    with pytest.raises(DataError, match="expected uint8"):
        PixelMaps(maps.charge.astype(np.float32), maps.label, maps.energy)
    with pytest.raises(DataError, match="entries for"):
        PixelMaps(maps.charge, maps.label[:5], maps.energy)
    with pytest.raises(DataError, match="label: expected 0 to 4"):
        PixelMaps(maps.charge, maps.label + 1, maps.energy)
    with pytest.raises(DataError, match="NaN"):
        PixelMaps(maps.charge, maps.label, np.full(10, np.nan, np.float32))
    with pytest.raises(DataError, match=r"\[N, 2, 100, 80\]"):
        PixelMaps(maps.charge[:, :, :50], maps.label, maps.energy)
    with pytest.raises(DataError, match="without nue_cc"):
        maps.take(np.flatnonzero(maps.label == 0)).require_all_classes()


def test_production_names_what_it_makes(tmp_path) -> None:
    production = neutrino_production(tmp_path, 30, seed=7, maps_per_chunk=20)
    production.claim_folder()
    assert len(production.missing()) == 10
    assert {chunk.process for chunk in production.chunks()} == set(CLASSES)
    with pytest.raises(DataError, match="another seed"):
        neutrino_production(tmp_path, 30, seed=8, maps_per_chunk=20).claim_folder()


def test_shape_of_a_map() -> None:
    assert toy_maps(5).charge.shape == (5, VIEWS, PLANES, CELLS)


def test_hidden_values_are_not_used() -> None:
    maps = toy_maps(4)
    charge = np.ma.array(maps.charge, mask=False)
    charge[1] = np.ma.masked
    with pytest.raises(DataError, match="no masked values"):
        network_inputs(charge, reduction(50))
    with pytest.raises(DataError, match="charge: expected no masked values"):
        PixelMaps(charge, maps.label, maps.energy)
    constituents = np.ma.zeros((2, 200, 4), np.float32)
    constituents[0] = np.ma.masked
    with pytest.raises(DataError, match="without masked values"):
        JetImager()(constituents)
    columns = (np.ones(2, bool), *(np.ones(2, np.float32) for _ in range(4)))
    with pytest.raises(DataError, match="constituents: expected no masked values"):
        Jets(constituents, *columns)
