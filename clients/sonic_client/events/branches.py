"""Which branches of a file hold the constituents: found by their names, or told."""

from __future__ import annotations

from collections.abc import Sequence

from sonic_client.errors import JetError
from sonic_client.events.files import describe_names

_ENERGY = ("E", "e", "energy", "Energy")
_MASS = ("mass", "Mass", "m", "M")
_MOMENTUM = (("px", "Px", "PX"), ("py", "Py", "PY"), ("pz", "Pz", "PZ"))
_ANGLES = (("pt", "PT", "Pt"), ("eta", "Eta"), ("phi", "Phi"))
FORMS: tuple[dict[str, tuple[str, ...]], ...] = (
    {"E": _ENERGY, "px": _MOMENTUM[0], "py": _MOMENTUM[1], "pz": _MOMENTUM[2]},
    {"mass": _MASS, "px": _MOMENTUM[0], "py": _MOMENTUM[1], "pz": _MOMENTUM[2]},
    {"pt": _ANGLES[0], "eta": _ANGLES[1], "phi": _ANGLES[2], "E": _ENERGY},
    {"pt": _ANGLES[0], "eta": _ANGLES[1], "phi": _ANGLES[2], "mass": _MASS},
    {"pt": _ANGLES[0], "eta": _ANGLES[1], "phi": _ANGLES[2]},
)
"""Names of four-momentum components, best form first; the last is for massless constituents."""

_LIKELY = ("const", "part", "cand", "pf")


def find_constituents(branches: Sequence[str], prefix: str | None = None) -> dict[str, str]:
    """Component -> branch, such as {"E": "constituent_E", "px": ...}; the components are those of one of FORMS.

    Args:
        branches: All branches of the tree.
        prefix: What the branches' names begin with; None looks for the only prefix that fits. Branches whose prefix
            holds "const", "part" or "cand" are preferred to others such as those of the jets themselves.

    Raises:
        JetError: No branches fit, or several sets do, or one component has two branches; it says which.
    """
    there = set(branches)
    found: dict[str, dict[str, str]] = {}
    for form in FORMS:
        for candidate in _prefixes(branches, next(iter(form.values()))) if prefix is None else [prefix]:
            if candidate not in found and all(any(candidate + name in there for name in form[key]) for key in form):
                found[candidate] = {key: _the_one(candidate, names, there) for key, names in form.items()}
    if len(found) > 1:
        likely = [key for key in found if any(word in key.lower() for word in _LIKELY)]
        if len(likely) == 1:
            return found[likely[0]]
        raise JetError(
            f"several sets of branches could be the constituents: prefixes "
            f"{', '.join(repr(key) for key in list(found)[:8])}; name one with --constituents"
        )
    if not found:
        wanted = f"'{prefix}E', '{prefix}px', ..." if prefix is not None else "E, px, py, pz (or pt, eta, phi[, mass])"
        raise JetError(f"no branches {wanted} with one common prefix; {describe_names(branches, prefix or 'part_px')}")
    return next(iter(found.values()))


def _the_one(prefix: str, names: Sequence[str], there: set[str]) -> str:
    """The branch of a component; two for one component are not guessed at."""
    given = [prefix + name for name in names if prefix + name in there]
    if len(given) > 1:
        raise JetError(f"{' and '.join(repr(name) for name in given)} both name one component; drop one of them")
    return given[0]


def _prefixes(branches: Sequence[str], first: Sequence[str]) -> list[str]:
    """What is left of the branches that end in the first component, where a word ends there."""
    prefixes = []
    for branch in branches:
        for name in first:
            prefix = branch.removesuffix(name)
            if prefix != branch and (not prefix or not prefix[-1].isalnum() or name[0].isupper()):
                prefixes.append(prefix)
    return list(dict.fromkeys(prefixes))
