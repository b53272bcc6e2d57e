import numpy as np
import pytest

from retrain.data.images import ImageSettings, JetImager
from retrain.data.jet_table import MAX_CONSTITUENTS
from retrain.errors import DataError
from tests.retrain.jets import toy_jets

JETS = toy_jets(400, seed=3)


def numpy_images(constituents: np.ndarray, settings: ImageSettings) -> np.ndarray:
    """The definition in float64, written independently of the graph."""
    images = np.zeros((len(constituents), settings.size, settings.size))
    for image, jet in zip(images, constituents.astype(np.float64), strict=True):
        energy_px_py_pz = jet[np.hypot(jet[:, 1], jet[:, 2]) > 0]
        _, px, py, pz = energy_px_py_pz.T
        pt = np.hypot(px, py)
        eta, phi = np.arcsinh(pz / pt), np.arctan2(py, px)
        axis = np.arctan2(py.sum(), px.sum())
        phi = (phi - axis + np.pi) % (2 * np.pi) - np.pi
        w = pt / pt.sum()
        x, y = eta - w @ eta, phi - w @ phi
        if settings.rotate:
            tensor = np.array([[w @ (x * x), w @ (x * y)], [w @ (x * y), w @ (y * y)]])
            major = np.linalg.eigh(tensor)[1][:, 1]
            major *= np.copysign(1.0, major[0])
            x, y = x * major[1] - y * major[0], x * major[0] + y * major[1]
        if settings.flip:
            x, y = (v if w @ np.sign(v) >= 0 else -v for v in (x, y))
        scale = settings.size / (2 * settings.half_width)
        column, row = (np.floor((v + settings.half_width) * scale).astype(int) for v in (x, y))
        inside = (column >= 0) & (column < settings.size) & (row >= 0) & (row < settings.size)
        np.add.at(image, (row[inside], column[inside]), pt[inside] / pt[inside].sum())
    return images[:, None]


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("flip", [False, True])
def test_graph_is_the_definition(rotate: bool, flip: bool) -> None:
    settings = ImageSettings(size=32, rotate=rotate, flip=flip)
    images = JetImager(settings)(JETS.constituents)
    expected = numpy_images(JETS.constituents, settings)
    # float32 may put a constituent that lies on a pixel's edge into the next pixel, and mirror a balanced jet.
    wrong = np.abs(images - expected).sum(axis=(1, 2, 3)) > 1e-4
    assert wrong.mean() < 0.06
    assert np.median(np.abs(images - expected).max(axis=(1, 2, 3))) < 1e-6


def test_pixels_are_fractions_of_pt() -> None:
    images = JetImager()(JETS.constituents[:50])
    assert images.shape == (50, 1, 224, 224)
    assert images.dtype == np.float32
    assert images.min() == 0.0
    np.testing.assert_allclose(images.sum(axis=(1, 2, 3)), 1.0, atol=1e-5)


def test_image_is_the_same_in_any_batch_and_with_any_number_of_threads() -> None:
    one_thread = JetImager(threads=1)
    together = one_thread(JETS.constituents)
    apart = np.concatenate([one_thread(JETS.constituents[i : i + 1]) for i in range(100)])
    np.testing.assert_array_equal(together[:100], apart)
    np.testing.assert_array_equal(together, JetImager(threads=2)(JETS.constituents))


def test_image_does_not_know_where_the_jet_is() -> None:
    """Rotating in azimuth and boosting along the beam moves no constituent by more than rounding."""
    settings = ImageSettings(size=16)
    angle, rapidity = 2.8, 0.7
    e, px, py, pz = (JETS.constituents[..., i].astype(np.float64) for i in range(4))
    cos, sin, ch, sh = np.cos(angle), np.sin(angle), np.cosh(rapidity), np.sinh(rapidity)
    moved = np.stack([ch * e + sh * pz, cos * px - sin * py, sin * px + cos * py, ch * pz + sh * e], axis=2)
    imager = JetImager(settings)
    difference = np.abs(imager(JETS.constituents) - imager(moved.astype(np.float32))).sum(axis=(1, 2, 3))
    assert np.mean(difference > 1e-3) < 0.05


def test_constituents_outside_the_window_are_left_out() -> None:
    jet = np.zeros((1, MAX_CONSTITUENTS, 4), np.float32)
    for row, (pt, eta, phi) in enumerate([(300.0, 0.0, 3.1), (300.0, 0.0, -3.1), (1.0, 1.5, 3.1), (1.0, 0.0, 0.0)]):
        jet[0, row] = pt * np.cosh(eta), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
    image = JetImager(ImageSettings(size=8, rotate=False, flip=False))(jet)[0, 0]
    np.testing.assert_allclose(image.sum(), 1.0, rtol=1e-6)
    assert np.count_nonzero(image) <= 2
    np.testing.assert_allclose(image[3:5, 3:5].sum(), 1.0, rtol=1e-6)


def test_reduced_is_the_coarser_image() -> None:
    fine = JetImager(ImageSettings(size=64, reduce=2), transformed=True)(JETS.constituents)
    coarse = JetImager(ImageSettings(size=32), transformed=True)(JETS.constituents)
    np.testing.assert_allclose(fine, coarse, atol=1e-5)
    with pytest.raises(DataError, match="divisor"):
        ImageSettings(size=224, reduce=3)


def test_transformed_is_the_square_root() -> None:
    settings = ImageSettings(size=64)
    images = JetImager(settings)(JETS.constituents)
    np.testing.assert_array_equal(JetImager(settings, transformed=True)(JETS.constituents), np.sqrt(images))


@pytest.mark.parametrize(("size", "half_width"), [(0, 0.8), (224, 0.0), (224, 1.6)])
def test_impossible_settings_are_refused(size: int, half_width: float) -> None:
    with pytest.raises(DataError):
        ImageSettings(size, half_width)
