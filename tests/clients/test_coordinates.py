"""Every form of four-momenta gives the same tensor; what is given twice is refused."""

from __future__ import annotations

import awkward as ak
import numpy as np
import pytest
import vector

from sonic_client import JetError, prepare
from sonic_client.events.coordinates import find_coordinates
from tests.clients.jets import random_jets

JETS = random_jets(6, most=20)
PT = np.sqrt(JETS.px**2 + JETS.py**2)
COLUMNS = {
    "E": JETS.E,
    "px": JETS.px,
    "py": JETS.py,
    "pz": JETS.pz,
    "pt": PT,
    "eta": np.arcsinh(JETS.pz / PT),
    "phi": np.arctan2(JETS.py, JETS.px),
    "mass": np.sqrt(np.maximum(JETS.E**2 - JETS.px**2 - JETS.py**2 - JETS.pz**2, 0)),
}


def tensor(jets: object) -> np.ndarray:
    return np.concatenate(list(prepare(jets).chunks(4)))


EXPECTED = tensor(JETS)

FORMS = {
    "E px py pz": {"E": "E", "px": "px", "py": "py", "pz": "pz"},
    "pt eta phi mass": {"pt": "pt", "eta": "eta", "phi": "phi", "mass": "mass"},
    "pt eta phi E": {"pt": "pt", "eta": "eta", "phi": "phi", "E": "E"},
    "energy": {"pt": "pt", "eta": "eta", "phi": "phi", "energy": "E"},
    "capitals": {"PT": "pt", "Eta": "eta", "Phi": "phi", "Energy": "E"},
    "M": {"pt": "pt", "eta": "eta", "phi": "phi", "M": "mass"},
    "tau": {"rho": "pt", "eta": "eta", "phi": "phi", "tau": "mass"},
    "t": {"rho": "pt", "eta": "eta", "phi": "phi", "t": "E"},
    "x y z t": {"x": "px", "y": "py", "z": "pz", "t": "E"},
    "px py pz mass": {"px": "px", "py": "py", "pz": "pz", "mass": "mass"},
    "px py eta e": {"px": "px", "py": "py", "eta": "eta", "e": "E"},
    "a position beside": {"pt": "pt", "eta": "eta", "phi": "phi", "E": "E", "x": "px", "y": "py", "z": "pz", "t": "pt"},
    "a derived pt beside": {"E": "E", "px": "px", "py": "py", "pz": "pz", "pt": "pt"},
}


@pytest.mark.parametrize("form", FORMS)
def test_four_given_components_are_four_used(form: str) -> None:
    columns = {name: COLUMNS[component] for name, component in FORMS[form].items()}
    for jets in (columns, ak.zip(columns), ak.zip({"constituents": ak.zip(columns)}, depth_limit=1)):
        assert np.allclose(tensor(jets), EXPECTED, rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize("fourth", ["E", "energy", "mass", "tau"])
def test_vectors_of_scikit_hep(fourth: str) -> None:
    given = COLUMNS["mass" if fourth in ("mass", "tau") else "E"]
    columns = {"pt": COLUMNS["pt"], "eta": COLUMNS["eta"], "phi": COLUMNS["phi"], fourth: given}
    assert np.allclose(tensor(vector.zip(columns)), EXPECTED, rtol=2e-5, atol=2e-4)
    one = vector.array({name: ak.to_numpy(values[2]) for name, values in columns.items()})
    assert np.allclose(tensor(one), EXPECTED[2:3], rtol=2e-5, atol=2e-4)


def test_structured_arrays_keep_to_numpy() -> None:
    padded = {name: ak.to_numpy(ak.fill_none(ak.pad_none(values, 20), 0.0)) for name, values in COLUMNS.items()}
    kind = [(name, np.float64) for name in ("pt", "eta", "phi", "E")]
    jets = np.zeros((len(JETS), 20), kind)
    for name, _ in kind:
        jets[name] = padded[name]
    batch = prepare(jets)
    assert np.allclose(np.concatenate(list(batch.chunks(4))), EXPECTED, rtol=2e-5, atol=2e-4)
    assert type(batch.restore(np.arange(6, dtype=np.float32))) is np.ndarray


def test_three_components_are_massless_and_a_negative_mass_is_a_negative_squared_mass() -> None:
    one = {"pt": [[3.0]], "eta": [[0.0]], "phi": [[0.0]]}
    assert tensor(one)[0, 0].tolist() == [3.0, 3.0, 0.0, 0.0]
    assert tensor(one | {"mass": [[4.0]]})[0, 0, 0] == 5.0
    light = {"pt": [[5.0]], "eta": [[0.0]], "phi": [[0.0]], "mass": [[-0.1]]}
    assert tensor(light)[0, 0, 0] == np.float32(np.sqrt(25.0 - 0.01))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("pt", "eta", "phi", "mass", "E"), "pt, eta, phi, E, mass|E, mass"),
        (("pt", "eta", "phi", "E", "energy"), "E, energy"),
        (("px", "py", "pz", "E", "pt", "eta", "phi", "mass"), "E, px, py, pz.*pt"),
        (("pt", "PT", "eta", "phi"), "pt, PT"),
        (("pt", "eta", "phi", "t", "tau"), "t.*tau"),
    ],
)
def test_what_describes_the_momenta_twice_is_refused(names: tuple[str, ...], words: str) -> None:
    with pytest.raises(JetError, match=f"(?:{words}).* more than once"):
        prepare({name: [[1.0]] for name in names})


@pytest.mark.parametrize("names", [("E", "mass", "px", "py", "pz"), ("pt", "eta", "phi", "mass", "E"), tuple(COLUMNS)])
def test_components_that_agree_may_be_given_twice(names: tuple[str, ...]) -> None:
    columns = {name: COLUMNS[name] for name in names}
    assert np.allclose(tensor(columns), EXPECTED, rtol=2e-5, atol=2e-4)
    late = ak.where(ak.local_index(JETS.E, axis=0) == 5, 1.1 * columns["E"], columns["E"])
    with pytest.raises(JetError, match=r"E.* describe the momenta more than once, and .*E.* disagree with .*mass"):
        prepare(columns | {"E": late})
    batch = prepare(columns | {"E": ak.where(JETS.E[2, 0] == JETS.E, np.nan, columns["E"])}, bad="mask")
    assert batch.good.tolist() == [True, True, False, True, True, True], "what is no number disagrees with nothing"


@pytest.mark.parametrize("names", [("px", "py", "pz"), ("pt", "eta", "mass"), ("pt", "phi", "E"), ("x", "y", "z"), ()])
def test_too_little_is_no_momentum(names: tuple[str, ...]) -> None:
    assert find_coordinates(names) is None
