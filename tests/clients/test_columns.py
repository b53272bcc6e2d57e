from __future__ import annotations

import pytest

from sonic_client.errors import JetError
from sonic_client.events.branches import find_constituents


@pytest.mark.parametrize(
    ("branches", "expected"),
    [
        (["E", "px", "py", "pz", "is_top"], {"E": "E", "px": "px", "py": "py", "pz": "pz"}),
        (
            ["jet_pt", "jet_eta", "jet_phi", "constituent_E", "constituent_px", "constituent_py", "constituent_pz"],
            {name: f"constituent_{name}" for name in ("E", "px", "py", "pz")},
        ),
        (["part_energy", "part_px", "part_py", "part_pz"], {"E": "part_energy"}),
        (["PFCands_pt", "PFCands_eta", "PFCands_phi", "PFCands_mass"], {"mass": "PFCands_mass"}),
        (["PFCands_pt", "PFCands_eta", "PFCands_phi", "Jet_pt", "Jet_eta", "Jet_phi"], {"pt": "PFCands_pt"}),
    ],
)
def test_usual_names(branches: list[str], expected: dict[str, str]) -> None:
    found = find_constituents(branches)
    assert expected.items() <= found.items()


def test_momenta_are_preferred_to_angles() -> None:
    names = [f"part_{name}" for name in ("E", "px", "py", "pz", "pt", "eta", "phi")]
    assert set(find_constituents(names)) == {"E", "px", "py", "pz"}


def test_what_is_not_clear_is_asked() -> None:
    names = [f"{prefix}_{name}" for prefix in ("a", "b") for name in ("E", "px", "py", "pz")]
    with pytest.raises(JetError, match="'a_', 'b_'"):
        find_constituents(names)
    assert find_constituents(names, "b_")["E"] == "b_E"
    with pytest.raises(JetError, match="there are 'b_E', 'a_E'"):
        find_constituents(names, "c_")
    with pytest.raises(JetError, match="no branches"):
        find_constituents([])
