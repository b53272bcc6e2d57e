from __future__ import annotations

import numpy as np
import pytest

from sonic_client.demo.roc import auc, roc_curve
from sonic_client.errors import JetError


@pytest.mark.parametrize("levels", [3, 50, 10**6])
def test_auc_is_the_share_of_pairs_in_order_with_and_without_ties(levels: int) -> None:
    rng = np.random.default_rng(levels)
    is_top = rng.random(500) < 0.4
    scores = (np.floor((rng.random(500) + 0.5 * is_top) * levels) / levels).astype(np.float32)
    lead = scores[is_top][:, None] - scores[~is_top][None, :]
    assert auc(is_top, scores) == pytest.approx(np.mean((lead > 0) + 0.5 * (lead == 0)), abs=1e-12)


def test_the_curve_goes_from_nothing_to_everything() -> None:
    background, signal = roc_curve(np.array([True, False, True]), np.array([0.9, 0.5, 0.4], np.float32))
    assert background.tolist() == [0, 0, 1, 1]
    assert signal.tolist() == [0, 0.5, 0.5, 1]


@pytest.mark.parametrize(("is_top", "scores"), [([True, True], [0.1, 0.2]), ([True, False], [np.nan, 0.2])])
def test_what_has_no_curve(is_top: list[bool], scores: list[float]) -> None:
    with pytest.raises(JetError):
        roc_curve(np.array(is_top), np.array(scores, np.float32))
