"""Which branches of a file hold the constituents: found by their names, or told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sonic_client.errors import JetError
from sonic_client.events.coordinates import MOMENTUM_NAMES, Coordinates, find_coordinates
from sonic_client.events.files import describe_names

_LIKELY = ("const", "part", "cand", "pf")
_COMPONENTS = {name: component for component, names in MOMENTUM_NAMES.items() for name in names}
_FIRST = ("e", "energy", "mass", "m", "px", "pt")
"""Names, one of which every momentum has: what stands before one of them may be the prefix of all."""


def find_constituents(branches: Sequence[str], prefix: str | None = None) -> Coordinates:
    """The branches of the constituents' components, such as {"E": "constituent_E", "px": ...}.

    Where they describe the momenta more than once, as E, px, py, pz and a mass, they are all found: the first system
    is used, and has to agree with the others when it is read.

    Args:
        branches: All branches of the tree.
        prefix: What the branches' names begin with; None looks for the only prefix that fits. Branches whose prefix
            holds "const", "part" or "cand" are preferred to others such as those of the jets themselves.
            `part_:E,px,py,pz` also says which of the branches are to be used.

    Raises:
        JetError: No branches fit, or several sets do, or one component has two branches; it says which.
    """
    chosen: list[str] | None = None
    if prefix is not None:
        prefix, chosen = _told(prefix)
    found: dict[str, Coordinates | JetError] = {}
    for candidate in _prefixes(branches) if prefix is None else [prefix]:
        names = _names(branches, candidate)
        if chosen is not None:
            names = {name: branch for name, branch in names.items() if name in chosen}
        coordinates = _coordinates(candidate, names)
        if coordinates is not None:
            found[candidate] = coordinates
    likely = [key for key in found if any(word in key.lower() for word in _LIKELY)]
    if len(found) > 1 and len(likely) != 1:
        raise JetError(
            f"several sets of branches could be the constituents: prefixes "
            f"{', '.join(repr(key) for key in list(found)[:8])}; name one with --constituents"
        )
    if not found:
        wanted = f"'{prefix}E', '{prefix}px', ..." if prefix is not None else "E, px, py, pz (or pt, eta, phi[, mass])"
        if chosen is not None:
            wanted = ", ".join(f"'{prefix}{name}'" for name in chosen) + " that make a momentum"
        raise JetError(f"no branches {wanted} with one common prefix; {describe_names(branches, prefix or 'part_px')}")
    only = found[likely[0] if len(found) > 1 else next(iter(found))]
    if isinstance(only, JetError):
        raise only
    return only


def _told(text: str) -> tuple[str, list[str] | None]:
    """`part_:E,px,py,pz` -> `part_` and the names; a prefix may hold a colon of its own."""
    prefix, colon, names = text.rpartition(":")
    listed = [name.strip() for name in names.split(",")]
    if colon and all(name.lower() in _COMPONENTS for name in listed):
        return prefix, listed
    return text, None


def _names(branches: Sequence[str], prefix: str) -> dict[str, str]:
    """Components' names to branches, of those that begin with a prefix."""
    return {
        branch.removeprefix(prefix): branch
        for branch in branches
        if branch.startswith(prefix) and branch.removeprefix(prefix).lower() in _COMPONENTS
    }


def _coordinates(prefix: str, names: Mapping[str, str]) -> Coordinates | JetError | None:
    try:
        coordinates = find_coordinates(names)
    except JetError as error:  # no matter, if others are the constituents
        return JetError(f"{error} (branches that begin with '{prefix}'); {_advice(prefix)}")
    if coordinates is None:
        return None
    branches = {component: names[name] for component, name in coordinates.names.items()}
    return replace(coordinates, names=branches, advice=_advice(prefix))


def _advice(prefix: str) -> str:
    return f"say which, such as --constituents '{prefix}:E,px,py,pz'"


def _prefixes(branches: Sequence[str]) -> list[str]:
    """What is left of the branches that end in a component's name, where a word ends there."""
    prefixes = []
    for branch in branches:
        for name in _FIRST:
            if branch.lower().endswith(name):
                prefix, first = branch[: len(branch) - len(name)], branch[len(branch) - len(name)]
                if not prefix or not prefix[-1].isalnum() or first.isupper():
                    prefixes.append(prefix)
    return list(dict.fromkeys(prefixes))
