"""Constituents in any usual coordinates -> (E, px, py, pz) in GeV, and how wide the jets are that they make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import awkward as ak
import numpy as np

from sonic_client.errors import JetError
from sonic_client.events.coordinates import EXPECTED, Coordinates, find_coordinates

WIDEST = 2.0
"""Distance in rapidity and azimuth from a jet's axis that no constituent of a usual jet (R up to 1.5) exceeds."""


def cartesian(components: Mapping[str, Any], unit: float = 1.0, coordinates: Coordinates | None = None) -> Any:
    """Records {E, px, py, pz} in GeV, float64, of the components' own structure.

    Args:
        components: Arrays by component: any set of `events.coordinates`, such as (pt, eta, phi, mass).
        unit: What an energy is multiplied with to be in GeV: 0.001 for MeV.
        coordinates: The systems that the components make; None finds them.

    Raises:
        JetError: More is given than makes a momentum, and it disagrees.
    """
    values = {name: ak.values_astype(array, np.float64) for name, array in components.items()}
    if unit != 1.0:
        values = {name: array if name in ("eta", "phi") else array * unit for name, array in values.items()}
    systems = coordinates or find_coordinates(components)
    if systems is None:
        raise JetError(f"{', '.join(components)} make no four-momentum; expected {EXPECTED}")
    return ak.zip(dict(zip(("E", "px", "py", "pz"), systems.cartesian(values), strict=True)))


def too_wide(jets: Any) -> Any:
    """Which jets have a constituent further than WIDEST from the axis of their summed momentum.

    Rapidity is asinh(pz / mT) with mT^2 = E^2 - pz^2, at least pT^2, which is stable in single precision. Constituents
    without pT have no direction and do not count; neither do those that are no numbers, which are judged elsewhere.

    Args:
        jets: Records {E, px, py, pz}, constituents innermost.

    Returns:
        Booleans of the structure of the jets.
    """
    axis = {name: ak.sum(jets[name], axis=-1) for name in ("E", "px", "py", "pz")}
    with np.errstate(all="ignore"):
        rapidity = _rapidity(jets) - _rapidity(axis)
        angle = np.arctan2(jets["py"], jets["px"]) - np.arctan2(axis["py"], axis["px"])
        angle = np.remainder(angle + np.pi, 2 * np.pi) - np.pi
        seen = (jets["px"] != 0) | (jets["py"] != 0)
        far = seen & (np.hypot(rapidity, angle) > WIDEST)
    return ak.fill_none(ak.any(ak.fill_none(far, False, axis=-1), axis=-1), False, axis=-1)


def _rapidity(momentum: Any) -> Any:
    transverse = momentum["px"] ** 2 + momentum["py"] ** 2
    return np.arcsinh(momentum["pz"] / np.sqrt(np.maximum(momentum["E"] ** 2 - momentum["pz"] ** 2, transverse)))
