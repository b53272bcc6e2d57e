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
    found = find_constituents(branches).names
    assert expected.items() <= found.items()


def test_momenta_are_preferred_to_angles_and_all_that_is_given_is_found() -> None:
    names = [f"part_{name}" for name in ("E", "px", "py", "pz", "pt", "eta", "phi")]
    found = find_constituents(names)
    assert set(found.systems[0]) == {"E", "px", "py", "pz"}
    assert set(found.names.values()) == set(names)
    assert set(find_constituents(names, "part_:pt,eta,phi").names) == {"pt", "eta", "phi"}
    assert find_constituents([f"AuxDyn:{name}" for name in ("pt", "eta", "phi")], "AuxDyn:").names["pt"] == "AuxDyn:pt"


def test_two_names_of_one_component_matter_only_where_they_are_used() -> None:
    jets = [f"jet_{name}" for name in ("E", "energy", "px", "py", "pz")]
    parts = [f"part_{name}" for name in ("E", "px", "py", "pz")]
    assert find_constituents([*jets, *parts]).names["E"] == "part_E"
    with pytest.raises(JetError, match=r"E, energy, px, py, pz describe.*--constituents 'jet_:E,px,py,pz'"):
        find_constituents(jets)
    assert find_constituents(jets, "jet_:energy,px,py,pz").names["E"] == "jet_energy"
    with pytest.raises(JetError, match="no branches 'part_E', 'part_px' that make a momentum"):
        find_constituents(parts, "part_:E,px")


def test_what_is_not_clear_is_asked() -> None:
    names = [f"{prefix}_{name}" for prefix in ("a", "b") for name in ("E", "px", "py", "pz")]
    with pytest.raises(JetError, match="'a_', 'b_'"):
        find_constituents(names)
    assert find_constituents(names, "b_").names["E"] == "b_E"
    with pytest.raises(JetError, match="there are 'b_E', 'a_E'"):
        find_constituents(names, "c_")
    with pytest.raises(JetError, match="no branches"):
        find_constituents([])
