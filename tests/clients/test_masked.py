"""numpy's masked arrays: a masked jet is a missing jet, and what a mask hides is never sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import awkward as ak
import numpy as np
import pytest

from sonic_client import Client, JetError, prepare
from sonic_client.events.images import prepare_images, read_images
from tests.clients.fake_server import FakeTriton, serving

FULL = np.array([[[5.0, 3.0, 0.0, 4.0], [2.0, 1.0, 0.0, 0.0]], [[9e9, 9e9, 0.0, 0.0]] * 2, [[4.0, 0.0, 3.0, 0.0]] * 2])
MASKED = np.ma.array(FULL, mask=False)
MASKED[1] = np.ma.masked
GOOD = np.concatenate(list(prepare(FULL[[0, 2]]).chunks(3)))
SCORES = np.array([0.25, 0.75], np.float32)


@pytest.fixture
def client() -> Iterator[tuple[Client, FakeTriton]]:
    fake = FakeTriton()
    with serving(fake) as (_, address), Client(address, "top_tagger") as client:
        yield client, fake


def test_a_masked_jet_is_missing() -> None:
    for jets in (MASKED, [MASKED[0], MASKED[1], MASKED[2]], [list(jet) for jet in MASKED]):
        batch = prepare(jets)
        assert np.array_equal(np.concatenate(list(batch.chunks(3))), GOOD)
        scores = batch.restore(SCORES)
        assert scores.mask.tolist() == [False, True, False]
        assert scores.tolist() == [0.25, None, 0.75]
        assert np.isnan(scores.data[1])
        assert scores.dtype == np.float32


@pytest.mark.parametrize("form", ["record", "lists", "events"])
def test_masked_columns(form: str) -> None:
    columns: dict[str, Any] = {name: MASKED[..., i] for i, name in enumerate(("E", "px", "py", "pz"))}
    if form == "lists":
        columns = {name: list(values) for name, values in columns.items()}
    elif form == "events":
        columns = {name: values[None] for name, values in columns.items()}
    batch = prepare(columns)
    assert np.array_equal(np.concatenate(list(batch.chunks(3))), GOOD)
    expected: list[Any] = [0.25, None, 0.75]
    assert batch.restore(SCORES).to_list() == ([expected] if form == "events" else expected)


def test_structured_and_single() -> None:
    kind = [(name, np.float64) for name in ("E", "px", "py", "pz")]
    jets = np.ma.zeros((3, 2), kind)
    for i, (name, _) in enumerate(kind):
        jets[name] = MASKED[..., i]
    assert prepare(jets).restore(SCORES).tolist() == [0.25, None, 0.75]
    assert prepare(MASKED[1]).restore(SCORES[:0]) is np.ma.masked
    assert prepare(MASKED[0]).restore(SCORES[:1]) == np.float32(0.25)
    assert prepare({name: MASKED[1, :, i] for i, (name, _) in enumerate(kind)}).restore(SCORES[:0]) is None


def test_a_mask_inside_a_jet_is_an_error() -> None:
    inside = MASKED.copy()
    inside[2, 1, 0] = np.ma.masked
    with pytest.raises(JetError, match=r"jet 2 .*masked in part"):
        prepare(inside)
    assert prepare(inside, bad="mask").restore(SCORES[:1]).tolist() == [0.25, None, None]
    with pytest.raises(JetError, match=r"jet 2 .*None"):
        prepare({name: inside[..., i] for i, name in enumerate(("E", "px", "py", "pz"))})


def test_errors_count_the_missing_jets() -> None:
    jets = ak.Array(
        [None, [{"E": 1.0, "px": 1.0, "py": 0.0, "pz": 0.0}], [{"E": -1.0, "px": 1.0, "py": 0.0, "pz": 0.0}]]
    )
    with pytest.raises(JetError, match="jet 2 "):
        prepare(jets)


def test_tag(client: tuple[Client, FakeTriton]) -> None:
    tagger, fake = client
    expected = tagger.tag(FULL[[0, 2]])
    scores = tagger.tag(MASKED)
    assert scores.mask.tolist() == [False, True, False]
    assert np.array_equal(scores.compressed(), expected)
    assert tagger.probabilities(MASKED).mask.tolist() == [[False] * 2, [True] * 2, [False] * 2]
    assert len(fake.requests) == 6


@pytest.mark.parametrize("way", ["infer", "submit", "stream", "process", "explain"])
def test_a_mask_inside_a_tensor_is_an_error(client: tuple[Client, FakeTriton], way: str) -> None:
    tagger, fake = client
    tensor = np.ma.zeros((1, 200, 4), np.float32)
    send = {
        "infer": lambda inputs: tagger.infer(inputs),
        "submit": lambda inputs: tagger.submit(inputs).result(),
        "stream": lambda inputs: list(tagger.stream([inputs])),
        "process": lambda inputs: list(tagger.process([inputs], acquire=lambda one: one, produce=lambda _, r: r)),
        "explain": lambda inputs: tagger.explain(inputs),
    }[way]
    send({"constituents": tensor})
    tensor[0, 3] = np.ma.masked
    with pytest.raises(JetError, match="4 of its 800 values are masked"):
        send({"constituents": tensor})
    assert len(fake.requests) == 1


def test_a_tensor_that_is_no_array_is_an_error(client: tuple[Client, FakeTriton]) -> None:
    with pytest.raises(JetError, match="got list"):
        client[0].infer({"constituents": [[[0.0] * 4] * 200]})  # type: ignore[dict-item]


def test_images() -> None:
    plain = np.random.default_rng(1).random((3, 2, 8, 8), dtype=np.float32)
    images = np.ma.array(plain, mask=False)
    images[1] = np.ma.masked
    batch = read_images(images, (2, 8, 8))
    assert np.array_equal(np.concatenate(list(batch.chunks(2))), plain[[0, 2]])
    assert batch.restore(SCORES).tolist() == [0.25, None, 0.75]
    prepared, _ = prepare_images(images, (2, 8, 8))
    assert np.ma.getmaskarray(prepared).all(axis=(1, 2, 3)).tolist() == [False, True, False]
    planes = read_images(images[:, 0], (2, 8, 8))
    assert planes.good.tolist() == [True, False, True]
    assert read_images(images[1], (2, 8, 8)).restore(SCORES[:0]) is np.ma.masked
    images[2, 0, 3, 3] = np.ma.masked
    with pytest.raises(JetError, match="image 2 is masked in part"):
        prepare_images(images, (2, 8, 8))
    with pytest.raises(JetError, match="image 0 has a negative pixel"):
        prepare_images(-plain, (2, 8, 8))
    plain[0, 0, 0, 0] = np.nan
    assert read_images(plain, (2, 8, 8), bad="mask").good.tolist() == [False, True, True]
