"""The checks of request values: each fault is found, named with tensor and row, and good input passes."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpga_ops.errors import InputError
from triton_server.plugin.input_checks import contract


def jets(rows: int = 3, constituents: int = 50, seed: int = 7) -> np.ndarray:
    rng = np.random.default_rng(seed)
    result = np.zeros((rows, 200, 4), np.float32)
    pt = np.sort(rng.exponential(20, (rows, constituents)), axis=1)[:, ::-1] + 0.1
    eta, phi = rng.normal(0, 1, (2, rows, constituents))
    result[:, :constituents, 1] = pt * np.cos(phi)
    result[:, :constituents, 2] = pt * np.sin(phi)
    result[:, :constituents, 3] = pt * np.sinh(eta)
    result[:, :constituents, 0] = pt * np.cosh(eta)
    return result


def images(rows: int = 2) -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.dirichlet(np.full(32 * 32, 0.01), (rows, 3)).reshape(rows, 3, 32, 32).astype(np.float32)


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 8), constituents=st.integers(1, 200), seed=st.integers(0, 2**32 - 1))
def test_sound_jets_pass(rows: int, constituents: int, seed: int) -> None:
    contract("constituents")("constituents", jets(rows, constituents, seed))


def test_sound_images_pass() -> None:
    contract("images")("images", images())


def test_massless_and_massive_constituents_pass() -> None:
    jet = jets(1)
    jet[:, :, 0] *= 1.5  # massive
    contract("constituents")("constituents", jet)


def _set(values: np.ndarray, place: tuple[int, ...], value: float) -> np.ndarray:
    values[place] = value
    return values


def _swapped(values: np.ndarray) -> np.ndarray:
    values[1, [0, 9]] = values[1, [9, 0]]
    return values


@pytest.mark.parametrize(
    ("jet", "words"),
    [
        (_set(jets(), (1, 4, 2), np.nan), ["row 1", "finite", "nan", "[4, 2]"]),
        (_set(jets(), (2, 0, 0), np.inf), ["row 2", "finite", "inf"]),
        (_set(jets(), (0, 3, 0), -5.0), ["row 0", "energies of 0 or more", "-5"]),
        (_set(jets(), (1, 3, 0), 0.01), ["row 1", "constituent 3", "E >= |p|"]),
        (_swapped(jets()), ["row 1", "sorted by falling pT"]),
        (_set(jets(), (1, 5, slice(None)), 0.0), ["row 1", "padding only at the end"]),
        (np.zeros((1, 200, 4), np.float32), ["row 0", "at least one constituent", "none"]),
        (np.concatenate([jets(2), np.zeros((1, 200, 4), np.float32)]), ["row 2", "at least one constituent"]),
    ],
    ids=["nan", "inf", "negative-energy", "off-shell", "unsorted", "hole", "empty", "empty-in-batch"],
)
def test_bad_jets_are_named(jet: np.ndarray, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        contract("constituents")("constituents", jet)
    for word in ["'constituents'", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (_set(images(), (1, 2, 3, 4), np.nan), ["row 1", "finite", "[2, 3, 4]"]),
        (_set(images(), (0, 0, 0, 0), np.inf), ["row 0", "finite", "inf"]),
        (_set(images(), (1, 0, 0, 0), -np.inf), ["row 1", "finite", "inf"]),
        (_set(images(), (1, 0, 5, 0), -0.5), ["row 1", "0 or more", "-0.5"]),
        (_set(images(), (1,), 0.0), ["row 1", "sum above 0", "empty"]),
    ],
    ids=["nan", "inf", "minus-inf", "negative", "empty"],
)
def test_bad_images_are_named(image: np.ndarray, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        contract("images")("images", image)
    for word in ["'images'", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize("shape", [(0, 200, 4), (2, 0, 4), (0, 3, 8, 8)])
@pytest.mark.parametrize("name", ["finite", "images", "constituents"])
def test_nothing_at_all_is_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"'x': expected one row or more, came shape \["):
        contract(name)("x", np.zeros(shape, np.float32))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_bytes_pass_or_are_refused(data: st.DataObject) -> None:
    """No value of a float makes a check crash."""
    raw = data.draw(st.binary(min_size=4 * 4 * 5, max_size=4 * 4 * 5))
    values = np.frombuffer(raw, np.float32).reshape(1, 5, 4)
    for name in ("finite", "constituents"):
        with np.errstate(all="ignore"), contextlib.suppress(InputError):
            contract(name)("x", values)


def test_huge_finite_values_are_finite() -> None:
    contract("finite")("x", np.full((1, 10), np.finfo(np.float64).max))
