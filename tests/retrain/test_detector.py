import numpy as np
import pytest

from retrain.data.detector import (
    ECAL,
    HCAL,
    FlowObjects,
    Particles,
    deposited_fractions,
    detect,
    log_normal,
    track_resolution,
    tracking_efficiency,
)

PHOTON, PION, MUON, ELECTRON, NEUTRINO, NEUTRON = 22, 211, 13, 11, 12, 2112


def beam(pdg_id: int, charge: float, energy: float, count: int, eta: float = 0.3) -> Particles:
    """`count` events of one particle each, spread in azimuth."""
    phi = np.linspace(-3.0, 3.0, count)
    pt = energy / np.cosh(eta)
    return Particles(
        np.arange(count),
        np.full(count, pdg_id),
        np.full(count, charge),
        pt * np.cos(phi),
        pt * np.sin(phi),
        np.full(count, pt * np.sinh(eta)),
        np.full(count, energy),
    )


def event_energies(objects: FlowObjects, count: int) -> np.ndarray:
    return np.bincount(objects.event, objects.energy, count)


@pytest.mark.parametrize(
    ("pdg_id", "charge", "energy", "expected_width"),
    [
        (PHOTON, 0.0, 50.0, 0.0144),  # ECAL: sqrt(0.0017^2 + 0.101^2 / E)
        (NEUTRON, 0.0, 50.0, 0.0856),  # HCAL: sqrt(0.0302^2 + 0.5205^2 / E + 1.59^2 / E^2)
    ],
)
def test_calorimeters_measure_energy_with_the_card_s_resolution(
    pdg_id: int, charge: float, energy: float, expected_width: float
) -> None:
    count = 4000
    measured = event_energies(detect(np.random.default_rng(1), beam(pdg_id, charge, energy, count)), count)
    assert measured.mean() == pytest.approx(energy, rel=0.01)
    assert measured.std() / energy == pytest.approx(expected_width, rel=0.1)


def test_a_track_and_its_tower_are_not_counted_twice() -> None:
    count = 4000
    measured = event_energies(detect(np.random.default_rng(2), beam(PION, 1.0, 20.0, count)), count)
    assert measured.mean() == pytest.approx(20.0, rel=0.05)


def test_neutrinos_and_forward_particles_are_not_seen() -> None:
    rng = np.random.default_rng(3)
    assert len(detect(rng, beam(NEUTRINO, 0.0, 50.0, 10)).event) == 0
    assert len(detect(rng, beam(PHOTON, 0.0, 500.0, 10, eta=3.5)).event) == 0


def test_soft_charged_particles_curl_up_before_the_calorimeter() -> None:
    objects = detect(np.random.default_rng(4), beam(PION, 1.0, 0.3, 2000, eta=0.0))
    assert len(objects.event) / 2000 == pytest.approx(0.70, abs=0.05)  # tracks alone


def test_same_seed_same_objects_sorted_by_event() -> None:
    particles = beam(PION, -1.0, 5.0, 300)
    one, two = (detect(np.random.default_rng(5), particles) for _ in range(2))
    np.testing.assert_array_equal(one.pt, two.pt)
    assert np.all(np.diff(one.event) >= 0)


def test_efficiencies_and_resolutions_of_the_card() -> None:
    kinds = np.array([PION, PION, PION, ELECTRON, ELECTRON, MUON, MUON])
    pt = np.array([0.5, 5.0, 0.05, 5.0, 200.0, 5.0, 0.5])
    eta = np.array([0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 2.0])
    np.testing.assert_array_equal(tracking_efficiency(kinds, pt, eta), [0.70, 0.85, 0.0, 0.95, 0.99, 0.99, 0.70])
    one = np.ones(1)
    assert track_resolution(np.array([PION]), 100 * one, 0 * one)[0] == pytest.approx(np.hypot(0.06, 0.13))
    ecal, hcal = deposited_fractions(np.array([PHOTON, PION, MUON, 310]))
    np.testing.assert_array_equal(ecal, [1.0, 0.0, 0.0, 0.3])
    np.testing.assert_array_equal(hcal, [0.0, 1.0, 0.0, 0.7])


def test_log_normal_has_the_mean_and_width_asked_for() -> None:
    drawn = log_normal(np.random.default_rng(6), np.full(200_000, 10.0), np.full(200_000, 2.0))
    assert drawn.mean() == pytest.approx(10.0, rel=0.005)
    assert drawn.std() == pytest.approx(2.0, rel=0.02)


def test_grids_cover_the_detector() -> None:
    for calorimeter in (ECAL, HCAL):
        assert calorimeter.phi_bins * calorimeter.delta_eta > 0
        assert calorimeter.resolution(np.zeros(1), np.full(1, 10.0))[0] > 0
