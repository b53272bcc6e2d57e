from __future__ import annotations

from typing import Any

import awkward as ak
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import vector
from hypothesis import given, settings
from hypothesis import strategies as st

from sonic_client.errors import JetError
from sonic_client.events.images import read_images
from sonic_client.events.jets import MAX_CONSTITUENTS, prepare, prepare_images
from tests.clients.jets import narrow_jets, random_jets


def tensor(jets: object, **options: object) -> np.ndarray:
    batch = prepare(jets, **options)
    return np.concatenate([np.zeros((0, 200, 4), np.float32), *batch.chunks(3)])


def naive(jets: ak.Array) -> np.ndarray:
    rows = np.zeros((len(jets), MAX_CONSTITUENTS, 4), np.float32)
    for i, jet in enumerate(jets.to_list()):
        hardest = sorted(jet, key=lambda c: -(c["px"] ** 2 + c["py"] ** 2))[:MAX_CONSTITUENTS]
        for j, c in enumerate(hardest):
            rows[i, j] = c["E"], c["px"], c["py"], c["pz"]
    return rows


def test_constituents_are_sorted_padded_and_cut_at_200() -> None:
    jets = random_jets(7)
    assert ak.max(ak.num(jets)) > MAX_CONSTITUENTS
    assert np.array_equal(tensor(jets), naive(jets))


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_any_jets_agree_with_the_plain_loop(seed: int, count: int) -> None:
    jets = random_jets(count, seed, most=9)
    assert np.array_equal(tensor(jets), naive(jets))


def test_all_forms_of_the_same_jets_agree() -> None:
    jets = random_jets(5, most=50)
    expected = tensor(jets)
    fields = {name: jets[name] for name in jets.fields}
    assert np.array_equal(tensor(fields), expected)
    assert np.array_equal(tensor(ak.zip({"constituents": jets}, depth_limit=1)), expected)
    assert np.array_equal(tensor(ak.zip(fields, depth_limit=1)), expected)
    assert np.array_equal(tensor(expected), expected)
    assert np.array_equal(tensor(jets[2]), expected[2:3])
    assert np.array_equal(tensor(expected[2]), expected[2:3])


def test_pt_eta_phi_mass() -> None:
    jets = random_jets(4, most=20)
    pt = np.sqrt(jets.px**2 + jets.py**2)
    mass = np.sqrt(np.maximum(jets.E**2 - jets.px**2 - jets.py**2 - jets.pz**2, 0))
    collider = ak.zip({"pt": pt, "eta": np.arcsinh(jets.pz / pt), "phi": np.arctan2(jets.py, jets.px), "mass": mass})
    assert np.allclose(tensor(collider), tensor(jets), rtol=1e-5, atol=1e-4)
    massless = tensor(ak.zip({"pt": pt, "eta": collider.eta, "phi": collider.phi}))
    assert np.allclose(massless[..., 0], np.sqrt((massless[..., 1:] ** 2).sum(-1)), rtol=1e-5)


def test_scores_get_the_structure_of_the_jets() -> None:
    jets = random_jets(6)
    events = ak.unflatten(ak.unflatten(jets, [2, 0, 3, 1]), [3, 1])
    batch = prepare(events)
    restored = batch.restore(np.arange(6, dtype=np.float32))
    assert restored.to_list() == [[[0, 1], [], [2, 3, 4]], [[5]]]
    pairs = batch.restore(np.arange(12, dtype=np.float32).reshape(6, 2))
    assert pairs[1, 0, 0].to_list() == [10, 11]


def test_missing_jets_have_missing_scores() -> None:
    jets = ak.mask(random_jets(4), [True, False, True, True])
    batch = prepare(jets)
    assert len(batch) == 3
    assert batch.restore(np.arange(3, dtype=np.float32)).to_list() == [0, None, 1, 2]


@pytest.mark.parametrize("shape", [(0, 5, 4), (0, 200, 4)])
def test_no_jets_give_no_scores(shape: tuple[int, ...]) -> None:
    batch = prepare(np.zeros(shape))
    assert list(batch.chunks(4)) == []
    assert batch.restore(np.zeros(0, np.float32)).shape == (0,)
    assert len(prepare(random_jets(3)[:0])) == 0


BAD = {
    "no constituents": ak.Array([[{"E": 2.0, "px": 1.0, "py": 0.0, "pz": 0.0}]])[:, :0],
    "None, NaN or infinite": ak.Array([[{"E": 2.0, "px": None, "py": 0.0, "pz": 0.0}]]),
    "NaN": np.full((1, 1, 4), np.nan),
    "infinite": np.full((1, 1, 4), 1e300),
    "negative energy": np.array([[[-2.0, 1.0, 0.0, 0.0]]]),
    "less energy than momentum": np.array([[[1.0, 2.0, 0.0, 0.0]]]),
    "pT > 0": np.array([[[3.0, 0.0, 0.0, 2.0]]]),
}


@pytest.mark.parametrize("words", BAD)
def test_bad_jets_are_named_or_masked(words: str) -> None:
    with pytest.raises(JetError, match=f"jet 0 .*{words}"):
        prepare(BAD[words])
    batch = prepare(BAD[words], bad="mask")
    assert not batch.good.any()
    restored = batch.restore(np.zeros(0, np.float32))
    assert np.isnan(restored[0]) if isinstance(restored, np.ndarray) else restored.to_list() == [None]


@pytest.mark.parametrize(
    ("jets", "words"),
    [
        (np.zeros((3, 4, 5)), r"got \[3, 4, 5\]"),
        (np.zeros(4), r"\[N, n, 4\]"),
        ("jets", "got str"),
        (None, "constituents"),
        (ak.Array([[1.0]]), "without fields"),
        (ak.Array([[{"px": 1.0, "py": 1.0}]]), "got px, py"),
        ({"E": [[1.0]], "px": [[1.0, 2.0]], "py": [[1.0]], "pz": [[1.0]]}, "jet 0 has 1 E but 2 px"),
        ({"E": [[1.0]], "px": [1.0], "py": [[1.0]], "pz": [[1.0]]}, "different depths"),
        ({"E": [["a"]], "px": [[1.0]], "py": [[1.0]], "pz": [[1.0]]}, "E"),
        (ak.Array([None, [[{"E": 2.0, "px": 1.0, "py": 0.0, "pz": 0.0}]]]), "event 0 is None"),
    ],
)
def test_what_is_no_jets_is_refused(jets: object, words: str) -> None:
    with pytest.raises(JetError, match=words):
        prepare(jets)


def test_images_in_every_form() -> None:
    image = np.random.default_rng(0).random((2, 3, 8, 8), dtype=np.float32)
    assert prepare_images(image, (3, 8, 8))[0] is not None
    plane, single = prepare_images(image[0, 0], (3, 8, 8))
    assert single
    assert plane.shape == (1, 3, 8, 8)
    assert np.array_equal(plane[0, 0], plane[0, 2])
    assert prepare_images(image[:, 0], (3, 8, 8))[0].shape == (2, 3, 8, 8)
    with pytest.raises(JetError, match=r"expected \[N, 3, 8, 8\]"):
        prepare_images(image[:, :2], (3, 8, 8))
    with pytest.raises(JetError, match="image 1"):
        prepare_images(np.where(np.arange(2)[:, None, None, None] == 1, np.nan, image), (3, 8, 8))


@pytest.mark.parametrize("kind", ["c16", "U3", "M8[s]"])
def test_what_is_no_real_number_is_refused(kind: str) -> None:
    jets = np.array([[[5, 3, 0, 4]]]).astype(kind)
    columns = [{name: jets[..., i].tolist() for i, name in enumerate(("E", "px", "py", "pz"))}]
    for form in (jets, np.ma.array(jets), *(columns if kind == "c16" else ())):
        with pytest.raises(JetError, match="expected numbers"):
            prepare(form)
    with pytest.raises(JetError, match="expected numbers"):
        read_images(jets[None], (1, 1, 4))


def test_a_slice_of_an_arrow_column_keeps_its_nulls() -> None:
    """Awkward 2.14 loses the offset of a slice's validity bits."""
    row = {"E": [5.0], "px": [3.0], "py": [0.0], "pz": [4.0]}
    columns = {name: pa.array([None, None, one, None, one, one]) for name, one in row.items()}
    for columns_of_three in (
        {name: one[2:5] for name, one in columns.items()},
        {name: pa.chunked_array([one[2:4], one[4:5]]) for name, one in columns.items()},
    ):
        batch = prepare(columns_of_three)
        assert batch.restore(np.array([0.25, 0.75], np.float32)).to_list() == [0.25, None, 0.75]


@pytest.mark.parametrize("make", [pd.DataFrame, pa.table], ids=["pandas", "pyarrow"])
@pytest.mark.parametrize("names", [("pt", "eta", "phi", "mass"), ("px", "py", "pz", "E")])
def test_tables_are_read_by_the_names_of_their_columns(make: Any, names: tuple[str, ...]) -> None:
    """By their order a pt was taken for an energy, and eta, phi and mass for a momentum, with nothing to be seen."""
    jets = narrow_jets(4, seed=9, most=12)
    momenta = ak.with_name(jets, "Momentum4D", behavior=vector.backends.awkward.behavior)
    components = {name: getattr(momenta, name) for name in names}
    for number in range(len(jets)):
        one = make({name: np.asarray(values[number]) for name, values in components.items()})
        assert np.allclose(tensor(one), tensor(jets[number : number + 1]), rtol=1e-3, atol=1e-2)
    several = make({name: [np.asarray(values[i]) for i in range(4)] for name, values in components.items()})
    assert np.allclose(tensor(several), tensor(jets), rtol=1e-3, atol=1e-2)
    with pytest.raises(JetError, match="expected fields"):
        prepare(make({"a": np.ones(3), "b": np.ones(3), "c": np.ones(3), "d": np.ones(3)}))


def test_a_table_of_all_jets_constituents_is_not_one_jet() -> None:
    """As `ak.to_dataframe` makes it: a row for each constituent, the jets in the index."""
    jets = narrow_jets(4, seed=9, most=12)
    table = ak.to_dataframe(jets)
    with pytest.raises(JetError, match="index of 2 levels"):
        prepare(table)
    assert np.array_equal(tensor(table.groupby(level=0).agg(list)), tensor(jets))


@pytest.mark.parametrize("tiny", [1e-100, 1e-50])
def test_a_jet_of_ghosts_has_no_constituent_with_pt(tiny: float) -> None:
    """Jet areas are found by adding particles of 1e-100 GeV, of which single precision leaves nothing to send."""
    jets = np.zeros((2, 3, 4))
    jets[0, 0], jets[0, 1], jets[1, 0] = (500, 300, 400, 0), (2 * tiny, tiny, 0, tiny), (2 * tiny, tiny, 0, tiny)
    with pytest.raises(JetError, match=r"jet 1 .* no constituent with pT > 0"):
        prepare(jets)
    assert prepare(jets, bad="mask").good.tolist() == [True, False]


def test_an_empty_image_is_named_or_missing() -> None:
    """The server refuses a request with one, and with it the images beside it."""
    images = np.ones((3, 3, 4, 4))
    images[1] = 1e-60  # nothing in single precision
    with pytest.raises(JetError, match="image 1 is empty"):
        read_images(images, (3, 4, 4))
    batch = read_images(images, (3, 4, 4), bad="mask")
    assert batch.good.tolist() == [True, False, True]
    assert np.isnan(batch.restore(np.ones(2, np.float32))).tolist() == [False, True, False]
