"""Which branches of a file hold the constituents: found by their names, or told."""

from __future__ import annotations

from collections.abc import Sequence

from sonic_client.errors import JetError

FORMS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("E", "e", "energy", "Energy"), ("px", "Px"), ("py", "Py"), ("pz", "Pz")),
    (("pt", "PT", "Pt"), ("eta", "Eta"), ("phi", "Phi"), ("mass", "Mass", "m")),
    (("pt", "PT", "Pt"), ("eta", "Eta"), ("phi", "Phi")),
)
"""Names of four-momentum components, best form first; the last is for massless constituents."""

_CANONICAL = (("E", "px", "py", "pz"), ("pt", "eta", "phi", "mass"), ("pt", "eta", "phi"))


def find_constituents(branches: Sequence[str], prefix: str | None = None) -> dict[str, str]:
    """Component -> branch, such as {"E": "constituent_E", "px": ...}.

    Args:
        branches: All branches of the tree.
        prefix: What the branches' names begin with; None looks for the only prefix that fits. Branches whose prefix
            holds "const", "part" or "cand" are preferred to others such as those of the jets themselves.

    Raises:
        JetError: No branches fit, or several sets do; it says which are there.
    """
    found: dict[str, dict[str, str]] = {}
    for form, canonical in zip(FORMS, _CANONICAL, strict=True):
        for candidate in _prefixes(branches, form[0]) if prefix is None else [prefix]:
            names = [
                next((candidate + name for name in options if candidate + name in branches), "") for options in form
            ]
            if all(names):
                found.setdefault(candidate, dict(zip(canonical, names, strict=True)))
    if len(found) > 1:
        likely = [key for key in found if any(word in key.lower() for word in ("const", "part", "cand", "pf"))]
        if len(likely) == 1:
            return found[likely[0]]
        raise JetError(
            f"several sets of branches could be the constituents: prefixes {', '.join(repr(key) for key in found)}; "
            "name one with --constituents"
        )
    if not found:
        wanted = f"'{prefix}E', '{prefix}px', ..." if prefix is not None else "E, px, py, pz (or pt, eta, phi[, mass])"
        raise JetError(
            f"no branches {wanted} with one common prefix; the tree has {', '.join(sorted(branches)) or 'no branches'}"
        )
    return next(iter(found.values()))


def _prefixes(branches: Sequence[str], first: Sequence[str]) -> list[str]:
    """What is left of the branches that end in the first component, where a word ends there."""
    prefixes = []
    for branch in branches:
        for name in first:
            prefix = branch.removesuffix(name)
            if prefix != branch and (not prefix or not prefix[-1].isalnum() or name[0].isupper()):
                prefixes.append(prefix)
    return list(dict.fromkeys(prefixes))
