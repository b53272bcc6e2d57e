"""The coordinate systems of four-momenta: which names belong to which component, and what Cartesian components follow.

One table for arrays, records and the branches of files. A momentum has a transverse part (px, py or pt, phi), a
longitudinal part (pz or eta) and a fourth component (E or mass); any of each go together, as in scikit-hep's `vector`
and ROOT's `GenVector`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import awkward as ak
import numpy as np

from sonic_client.errors import JetError

MOMENTUM_NAMES: Mapping[str, tuple[str, ...]] = {
    "E": ("e", "energy"),
    "mass": ("mass", "m"),
    "px": ("px",),
    "py": ("py",),
    "pz": ("pz",),
    "pt": ("pt",),
    "eta": ("eta",),
    "phi": ("phi",),
}
"""Names that mean a momentum's component and nothing else, in lower case; any case is taken."""

GENERIC_NAMES: Mapping[str, tuple[str, ...]] = {
    "E": ("t",),
    "mass": ("tau",),
    "px": ("x",),
    "py": ("y",),
    "pz": ("z",),
    "pt": ("rho",),
}
"""What `vector` calls the same components. They may mean a position or a time as well, so they count only where the
names above do not make a four-momentum."""

TRANSVERSE = (("px", "py"), ("pt", "phi"))
LONGITUDINAL = ("pz", "eta")
FOURTH = ("E", "mass")
MASSLESS = ("pt", "eta", "phi")
"""Three components that are enough, where no fourth is given: the constituents are massless."""
CLUSTER = ("E", "eta", "phi", "mass")
"""A calorimeter's cluster has an energy and a direction: its pt is sqrt(E^2 - m|m|) / cosh(eta). Only formats that are
known to have it use it; among a user's names an energy without a pt is more likely a pt that was forgotten."""

EXPECTED = "E, px, py, pz, or pt, eta, phi and mass or E (pt, eta, phi alone are massless)"
"""For error messages."""


AGREEMENT = 1e-3
"""Fraction of a constituent's energy or momentum by which components that are given twice may differ: files keep
single precision, and some less."""


@dataclass(frozen=True)
class Coordinates:
    """The components of four-momenta that were found.

    Attributes:
        names: Component ("E", "mass", "px", "py", "pz", "pt", "eta", "phi") to the name that it has.
        systems: Sets of components that each make a momentum: the first is used, the others must agree with it.
        advice: For the error when they do not.
    """

    names: Mapping[str, str]
    systems: tuple[tuple[str, ...], ...]
    advice: str = f"pass one form only: {EXPECTED}"

    def cartesian(self, given: Mapping[str, Any]) -> tuple[Any, Any, Any, Any]:
        """(E, px, py, pz) of the components in `given`, float64 arrays (numpy or awkward) of one structure, in GeV.

        px = pt cos(phi), py = pt sin(phi), pz = pt sinh(eta); E^2 = p^2 + m|m|. A negative mass stands for a negative
        squared mass, as `ROOT::Math::PtEtaPhiM4D` and `vector` have it. A negative pt is no length and makes NaN;
        other components are passed on as they are.

        Raises:
            JetError: More is given than makes a momentum, and it disagrees; the message names the components.
        """
        first, *others = self.systems
        with np.errstate(over="ignore", invalid="ignore"):
            momentum = _cartesian(first, given)
            for other in others:
                self._check(momentum, _cartesian(other, given), first, other)
        return momentum

    def _check(
        self, momentum: Sequence[Any], again: Sequence[Any], first: tuple[str, ...], other: tuple[str, ...]
    ) -> None:
        energy, px, py, pz = momentum
        allowed = AGREEMENT * np.maximum(np.abs(energy), np.sqrt(px**2 + py**2 + pz**2))
        wrong = sum(int(ak.sum(np.abs(x - y) > allowed, axis=None)) for x, y in zip(momentum, again, strict=True))
        if wrong:
            raise JetError(
                f"constituents: {', '.join(self.names.values())} describe the momenta more than once, and "
                f"{', '.join(self.names[key] for key in first)} disagree with "
                f"{', '.join(self.names[key] for key in other)}, so nothing says which are meant; {self.advice}"
            )


def _cartesian(system: Sequence[str], given: Mapping[str, Any]) -> tuple[Any, Any, Any, Any]:
    if system == CLUSTER:
        mass = given["mass"]
        pt = np.sqrt(np.maximum(given["E"] ** 2 - mass * np.abs(mass), 0.0)) / np.cosh(given["eta"])
        return given["E"], pt * np.cos(given["phi"]), pt * np.sin(given["phi"]), pt * np.sinh(given["eta"])
    if "px" in system:
        px, py = given["px"], given["py"]
        pt = np.hypot(px, py)
    else:
        pt = given["pt"] + 0.0 * np.sqrt(given["pt"])  # as it is, or NaN
        px, py = pt * np.cos(given["phi"]), pt * np.sin(given["phi"])
    pz = given["pz"] if "pz" in system else pt * np.sinh(given["eta"])
    if "E" in system:
        return given["E"], px, py, pz
    square = px**2 + py**2 + pz**2
    if "mass" in system:
        square = np.maximum(square + given["mass"] * np.abs(given["mass"]), 0.0)
    return np.sqrt(square), px, py, pz


def find_coordinates(names: Iterable[str]) -> Coordinates | None:
    """The coordinate systems that some names make; the usual form first, (E, px, py, pz) before others.

    Args:
        names: Of fields, or of branches without their prefix.

    Returns:
        The components, four or (massless) three; None if the names make no momentum.

    Raises:
        JetError: A component has two names, such as E and energy; it says which were found.
    """
    names = list(names)
    plain = _by_component(names, MOMENTUM_NAMES)
    everything = {key: plain.get(key, []) + _by_component(names, GENERIC_NAMES).get(key, []) for key in MOMENTUM_NAMES}
    for found in (plain, everything):
        systems = _complete(found)
        if systems:
            return _chosen(systems, found)
    if all(plain.get(key) for key in MASSLESS):
        return _chosen([MASSLESS], plain)
    if all(everything[key] for key in MASSLESS):
        return _chosen([MASSLESS], everything)
    return None


def _by_component(names: Sequence[str], table: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    lower = [name.lower() for name in names]
    return {
        component: [name for name, low in zip(names, lower, strict=True) if low in known]
        for component, known in table.items()
    }


def _complete(found: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """Every set of four components that are all there, in the order of the usual forms."""
    systems: list[tuple[str, ...]] = []
    for transverse, longitudinal, fourth in product(TRANSVERSE, LONGITUDINAL, FOURTH):
        first, second = transverse
        system = (fourth, first, second, longitudinal) if first == "px" else (first, longitudinal, second, fourth)
        if all(found.get(component) for component in system):
            systems.append(system)
    return systems


def _chosen(systems: Sequence[tuple[str, ...]], found: Mapping[str, Sequence[str]]) -> Coordinates:
    used = dict.fromkeys(component for system in systems for component in system)
    if any(len(found[component]) > 1 for component in used):
        there = ", ".join(name for component in used for name in found[component])
        raise JetError(
            f"constituents: {there} describe the momenta more than once, and nothing says which are meant; "
            f"pass one form only: {EXPECTED}"
        )
    return Coordinates({component: found[component][0] for component in used}, tuple(systems))
