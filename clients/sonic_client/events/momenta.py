"""Constituents in any usual coordinates -> (E, px, py, pz) in GeV, and how wide the jets are that they make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import awkward as ak
import numpy as np

WIDEST = 2.0
"""Distance in rapidity and azimuth from a jet's axis that no constituent of a usual jet (R up to 1.5) exceeds."""


def cartesian(components: Mapping[str, Any], unit: float = 1.0) -> Any:
    """Records {E, px, py, pz} in GeV, float64, of the components' own structure.

    Args:
        components: Arrays named (E, px, py, pz), (mass, px, py, pz), (pt, eta, phi, E), (pt, eta, phi, mass) or
            (pt, eta, phi), the last being massless.
        unit: What an energy is multiplied with to be in GeV: 0.001 for MeV.
    """
    values = {name: ak.values_astype(array, np.float64) for name, array in components.items()}
    if unit != 1.0:
        values = {name: array if name in ("eta", "phi") else array * unit for name, array in values.items()}
    if "pt" in values:
        pt, phi = values["pt"], values["phi"]
        values |= {"px": pt * np.cos(phi), "py": pt * np.sin(phi), "pz": pt * np.sinh(values["eta"])}
    px, py, pz = values["px"], values["py"], values["pz"]
    energy = values.get("E")
    if energy is None:
        square = px**2 + py**2 + pz**2
        energy = np.sqrt(square + values["mass"] ** 2 if "mass" in values else square)
    return ak.zip({"E": energy, "px": px, "py": py, "pz": pz})


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
