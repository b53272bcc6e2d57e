from dataclasses import replace

import numpy as np
import pytest

from retrain.data.jet_table import concatenate, shuffled
from retrain.errors import DataError
from tests.retrain.jets import toy_jets


def test_shuffling_is_seeded_and_keeps_jets_whole() -> None:
    jets = toy_jets(40)
    one, two = shuffled(jets, 1), shuffled(jets, 1)
    np.testing.assert_array_equal(one.constituents, two.constituents)
    order = np.argsort(one.mass)
    np.testing.assert_array_equal(one.constituents[order], jets.constituents[np.argsort(jets.mass)])
    np.testing.assert_array_equal(one.is_top[order], jets.is_top[np.argsort(jets.mass)])


def test_nothing_to_concatenate() -> None:
    with pytest.raises(DataError, match="no jets"):
        concatenate([])


def test_bad_jets_are_refused() -> None:
    jets = toy_jets(4)
    nan = jets.mass.copy()
    nan[1] = np.nan
    negative = jets.constituents.copy()
    negative[2, 3, 0] = -1.0
    empty = jets.constituents.copy()
    empty[0] = 0.0
    for change, message in (
        ({"mass": nan}, "mass: contains NaN"),
        ({"constituents": negative}, "negative energy"),
        ({"constituents": empty}, "without constituents"),
        ({"constituents": jets.constituents[:, :50]}, "expected"),
        ({"is_top": jets.is_top[:2]}, "2 entries for 4 jets"),
    ):
        with pytest.raises(DataError, match=message):
            replace(jets, **change)


def test_one_class_only() -> None:
    jets = toy_jets(10)
    with pytest.raises(DataError, match="one class only"):
        jets.take(np.flatnonzero(jets.is_top)).require_both_classes()
    with pytest.raises(DataError, match="no jets"):
        jets.take(slice(0, 0)).require_both_classes()
