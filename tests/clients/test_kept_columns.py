"""Columns of every kind that people keep, and missing jets, in whole jobs: as they went in, or refused at once."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import awkward as ak
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from sonic_client import Client, JetError, tag_output
from sonic_client.errors import FileError
from sonic_client.events.files import open_source
from sonic_client.tag_file import Job, run_job
from tests.clients.fake_server import FakeTriton, serving
from tests.clients.jets import narrow_jets

COUNT = 11
JETS = narrow_jets(COUNT, seed=3, most=7)
MISSING = (1, 5, 6)
NAMES = ("E", "px", "py", "pz")


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[FakeTriton, str]]:
    fake = FakeTriton()
    with serving(fake) as (_, address):
        yield fake, f"grpc://{address}/top_tagger"


@pytest.fixture(scope="module")
def expected(server: tuple[FakeTriton, str]) -> list[float]:
    with Client(server[1]) as client:
        return [float(client.tag(JETS[i : i + 1])[0]) for i in range(COUNT)]


def jets(missing: tuple[int, ...] = MISSING, kind: Any = None) -> dict[str, Any]:
    return {
        f"part_{name}": pa.array(
            [None if i in missing else one for i, one in enumerate(ak.to_list(JETS[name]))],
            kind or pa.list_(pa.float64()),
        )
        for name in NAMES
    }


def with_nulls(values: list[Any]) -> list[Any]:
    """Chunks of four with all, some and no nulls."""
    return [None if i < 5 or i == 6 else value for i, value in enumerate(values)]


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.large_list(pa.float32()), "struct", "fixed"])
def test_a_missing_jet_has_a_missing_score(
    tmp_path: Path, server: tuple[FakeTriton, str], expected: list[float], kind: Any
) -> None:
    rows = [None if i in MISSING else one for i, one in enumerate(ak.to_list(JETS))]
    if kind == "struct":
        columns = {"part": pa.array(rows, pa.list_(pa.struct([(name, pa.float64()) for name in NAMES])))}
    elif kind == "fixed":  # pyarrow writes no missing lists of this type that it reads again: padding has none either
        flat = [[] if one is None else one for one in rows]
        columns = {
            f"part_{name}": pa.array([[c[name] for c in one] + [0.0] * (7 - len(one)) for one in flat],
                                     pa.list_(pa.float64(), 7))
            for name in NAMES
        }  # fmt: skip
    else:
        columns = jets(kind=kind)
    pq.write_table(pa.table(columns), tmp_path / "in.parquet", row_group_size=5)
    for chunk in (1, 4, 100):
        out = tmp_path / f"out{chunk}.parquet"
        bad = "mask" if kind == "fixed" else "raise"
        assert run_job(Job(tmp_path / "in.parquet", out, server[1], chunk=chunk, bad=bad)).tagged == COUNT - 3
        scores = pq.read_table(out)["top_score"].to_pylist()
        assert [i for i, score in enumerate(scores) if score is None] == list(MISSING)
        assert all(a == pytest.approx(b, abs=2e-6) for a, b in zip(scores, expected, strict=True) if a is not None)


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("suffix", [".parquet", ".root", ".h5"])
def test_missing_jets_in_events_of_several(
    tmp_path: Path, server: tuple[FakeTriton, str], expected: list[float], chunk: int, suffix: str
) -> None:
    one, two, three, four = ak.to_list(JETS[:4])
    events = [[one, None, two], [], [None], [three, four], [None, None]]
    kind = pa.list_(pa.list_(pa.struct([(name, pa.float64()) for name in NAMES])))
    pq.write_table(pa.table({"part": pa.array(events, kind)}), tmp_path / "in.parquet", row_group_size=2)
    out = tmp_path / f"out{suffix}"
    run_job(Job(tmp_path / "in.parquet", out, server[1], chunk=chunk))
    with open_source(out, None) as source:
        scores = source.read(["top_score"], 0, 5)["top_score"]
    assert ak.num(scores).to_list() == [3, 0, 1, 2, 2]
    found = [score for event in scores.to_list() for score in event if score is not None and score == score]
    assert found == pytest.approx(expected[:4], abs=2e-6)
    events.insert(1, None)
    pq.write_table(pa.table({"part": pa.array(events, kind)}), tmp_path / "in.parquet", row_group_size=2)
    for bad in ("raise", "mask"):
        with pytest.raises(JetError, match=r"'part\.E' is missing in event 1 of these"):
            run_job(Job(tmp_path / "in.parquet", out, server[1], chunk=chunk, bad=bad), overwrite=True)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_files_that_differ_in_whether_jets_can_be_missing(
    tmp_path: Path, server: tuple[FakeTriton, str], expected: list[float], order: tuple[int, int]
) -> None:
    whole = pa.list_(pa.field("item", pa.float64(), nullable=False))
    never = pa.schema([pa.field(f"part_{name}", whole, nullable=False) for name in NAMES])
    tables = [
        pa.table(jets()).append_column("n", pa.array(range(COUNT))),
        pa.table(jets(()), schema=never).append_column(pa.field("n", pa.int64(), nullable=False), [range(COUNT)]),
    ]
    for number, table in enumerate(tables):
        pq.write_table(table, tmp_path / f"{number}.parquet")
    files = [tmp_path / f"{number}.parquet" for number in order]
    run_job(Job(files, tmp_path / "out.parquet", server[1], chunk=4))
    scores = pq.read_table(tmp_path / "out.parquet")["top_score"].to_pylist()
    both = [[None if i in MISSING else one for i, one in enumerate(expected)], expected]
    wanted = [one for number in order for one in both[number]]
    assert [one is None for one in scores] == [one is None for one in wanted]
    assert all(a == pytest.approx(b, abs=2e-6) for a, b in zip(scores, wanted, strict=True) if a is not None)
    with pytest.raises(FileError, match=r"'n' is .*int64, and .*int64 in .*; tag it by itself"):
        run_job(Job(files, tmp_path / "out.parquet", server[1], keep=("n",)), overwrite=True)


COLUMNS: dict[str, Any] = {
    "words": pa.array(with_nulls([f"größe {i}" for i in range(COUNT)])),
    "large_words": pa.array(with_nulls([f"größe {i}" for i in range(COUNT)]), pa.large_string()),
    "bytes": pa.array(with_nulls([bytes([i, 0, 255]) for i in range(COUNT)])),
    "dictionary": pa.array(with_nulls([f"d{i % 3}" for i in range(COUNT)])).dictionary_encode(),
    "numbers": pa.array(with_nulls([i % 3 for i in range(COUNT)]), pa.int32()).dictionary_encode(),
    "lists": pa.array(with_nulls([[None, i][: i % 3] for i in range(COUNT)]), pa.list_(pa.int32())),
    "deep": pa.array(with_nulls([[[i] * (i % 3)] * (i % 2) for i in range(COUNT)]), pa.list_(pa.list_(pa.int8()))),
    "rectangles": pa.array([[[i, k] for k in range(i % 3)] for i in range(COUNT)], pa.list_(pa.list_(pa.int16(), 2))),
    "fixed": pa.array([[i, None if i % 2 else 5] for i in range(COUNT)], pa.list_(pa.int32(), 2)),
    "dictionaries": pa.array(
        with_nulls([["x", "y"][: i % 3] for i in range(COUNT)]), pa.list_(pa.dictionary(pa.int8(), pa.string()))
    ),
    "unsigned": pa.array(with_nulls([2**63 + i for i in range(COUNT)]), pa.uint64()),
    "half": pa.array(with_nulls([np.float16(i) for i in range(COUNT)]), pa.float16()),
    "day": pa.array(with_nulls([datetime.date(2020, 1, 1 + i) for i in range(COUNT)])),
    "moment": pa.array(with_nulls([datetime.datetime(2020, 1, 1 + i) for i in range(COUNT)])),
    "nothing": pa.nulls(COUNT),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_what_parquet_holds_comes_out_as_it_went_in(tmp_path: Path, server: tuple[FakeTriton, str], name: str) -> None:
    table = pa.table(jets() | {name: COLUMNS[name]})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=6)
    run_job(Job(tmp_path / "in.parquet", tmp_path / "out.parquet", server[1], chunk=4, keep=(name,)))
    assert pq.read_table(tmp_path / "out.parquet")[name].to_pylist() == COLUMNS[name].to_pylist()


def test_members_of_structs_with_nulls(tmp_path: Path, server: tuple[FakeTriton, str]) -> None:
    rows = with_nulls([[{"a": i, "b": None if i % 2 else "x"}] * (i % 3) for i in range(COUNT)])
    kind = pa.list_(pa.struct([("a", pa.int32()), ("b", pa.dictionary(pa.int8(), pa.string()))]))
    pq.write_table(pa.table(jets() | {"k": pa.array(rows, kind)}), tmp_path / "in.parquet", row_group_size=6)
    run_job(Job(tmp_path / "in.parquet", tmp_path / "out.parquet", server[1], chunk=4, keep=("k.*",)))
    back = pq.read_table(tmp_path / "out.parquet")
    for member in "ab":
        wanted = [None if row is None else [one[member] for one in row] for row in rows]
        assert back[f"k.{member}"].to_pylist() == wanted


@pytest.mark.parametrize(
    "kind",
    [
        pa.timestamp("us", tz="Europe/Berlin"), pa.time64("us"), pa.decimal128(10, 2), pa.map_(pa.string(), pa.int32()),
        pa.list_(pa.timestamp("s", tz="UTC")),
    ],
    ids=str,
)  # fmt: skip
def test_what_would_come_out_otherwise_is_refused_at_once(
    tmp_path: Path, server: tuple[FakeTriton, str], kind: Any
) -> None:
    pq.write_table(pa.table(jets() | {"k": pa.nulls(COUNT, kind)}), tmp_path / "in.parquet")
    before = len(server[0].requests)
    for suffix in (".parquet", ".root", ".h5"):
        with pytest.raises(FileError, match=r"'k' holds .*, which would not come out as it went in"):
            run_job(Job(tmp_path / "in.parquet", tmp_path / f"out{suffix}", server[1], keep=("k",)))
    assert run_job(Job(tmp_path / "in.parquet", tmp_path / "out.parquet", server[1])).tagged == COUNT - 3
    assert len(server[0].requests) == before + COUNT - 3


def test_what_a_library_writes_and_cannot_read_is_refused_at_once(
    tmp_path: Path, server: tuple[FakeTriton, str]
) -> None:
    with h5py.File(tmp_path / "in.h5", "w") as file:
        for name in NAMES:
            file[f"part_{name}"] = ak.to_numpy(ak.fill_none(ak.pad_none(JETS[name], 7), 0))
        file["empty"] = np.zeros((COUNT, 0))
        file["long"] = np.zeros(COUNT, np.longdouble)
    pq.write_table(pa.table(jets() | {"k": COLUMNS["rectangles"]}), tmp_path / "in.parquet")
    before = len(server[0].requests)
    for name, suffix in itertools.product(("empty", "long"), (".parquet", ".root", ".h5")):
        with pytest.raises(FileError, match="cannot be stored"):
            run_job(Job(tmp_path / "in.h5", tmp_path / f"out{suffix}", server[1], keep=(name,)))
    with pytest.raises(FileError, match=r"root files cannot hold 'k'.*a list in a TTree holds numbers, not 2 \* int16"):
        run_job(Job(tmp_path / "in.parquet", tmp_path / "out.root", server[1], keep=("k",)))
    assert len(server[0].requests) == before


@pytest.mark.parametrize("kind", [">f4", ">f8", "<f4"])
def test_lists_in_hdf5_of_any_byte_order(
    tmp_path: Path, server: tuple[FakeTriton, str], expected: list[float], kind: str
) -> None:
    """h5py 3.16 reads lists of a foreign byte order as if they were in the machine's own."""
    with h5py.File(tmp_path / "in.h5", "w") as file:
        numbers = file.create_dataset("n", (COUNT,), h5py.vlen_dtype(kind.replace("f", "i")))
        for name in NAMES:
            lists = file.create_dataset(f"part_{name}", (COUNT,), h5py.vlen_dtype(kind))
            for i, row in enumerate(ak.to_list(JETS[name])):
                lists[i] = np.array(row, kind)
        for i in range(COUNT):
            numbers[i] = np.arange(i, dtype=kind.replace("f", "i"))
    run_job(Job(tmp_path / "in.h5", tmp_path / "out.root", server[1], chunk=4, keep=("n",)))
    with uproot.open(tmp_path / "out.root") as file:
        assert file["scores"]["n"].array().to_list() == [list(range(i)) for i in range(COUNT)]
        assert np.allclose(file["scores"]["top_score"].array(), expected, atol=2e-6)


def test_words_and_lists_in_hdf5(tmp_path: Path) -> None:
    kind = np.dtype(
        [("v", h5py.vlen_dtype("i4")), ("s", h5py.string_dtype()), ("n", "i4", (2,)), ("o", h5py.ref_dtype)]
    )
    with h5py.File(tmp_path / "in.h5", "w") as file:
        rows = file.create_dataset("k", (3,), kind)
        for i in range(3):
            rows[i] = (np.arange(i, dtype="i4"), f"ö{i}", (i, i + 1), None)
        file["table"] = np.array([["a", "b"]] * 3, "S1")
        file["ascii"] = np.array(["grö".encode()] * 3)  # h5py calls it ASCII
        file.create_dataset("deep", (3,), h5py.vlen_dtype(h5py.vlen_dtype("i4")))
    with open_source(tmp_path / "in.h5", None) as source:
        assert sorted(source.columns) == ["ascii", "k.n", "k.s", "k.v"]
        assert source.read(source.columns, 1, 3).to_list() == [
            {"ascii": "grö", "k.n": [i, i + 1], "k.s": f"ö{i}", "k.v": list(range(i))} for i in (1, 2)
        ]
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["latin"] = np.array([b"gr\xf6"] * 3)
    with open_source(tmp_path / "in.h5", None) as source, pytest.raises(UnicodeDecodeError):
        source.read(["latin"], 0, 3)
    with pytest.raises(JetError, match="no branches"):
        run_job(Job(tmp_path / "in.h5", tmp_path / "out.h5", "grpc://127.0.0.1:9/top_tagger"))


def test_large_columns_make_no_large_trial(
    tmp_path: Path, server: tuple[FakeTriton, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.arange(COUNT * 200_000, dtype=np.float32).reshape(COUNT, 200, 1000)
    with h5py.File(tmp_path / "in.h5", "w") as file:
        for name in NAMES:
            file[f"part_{name}"] = ak.to_numpy(ak.fill_none(ak.pad_none(JETS[name], 7), 0))
        file["image"] = images
    tried: list[int] = []
    compare = tag_output.check_back
    monkeypatch.setattr(tag_output, "check_back", lambda a, b: (tried.append(len(a["image"])), compare(a, b)))
    run_job(Job(tmp_path / "in.h5", tmp_path / "out.h5", server[1], keep=("image",)))
    assert tried == [4_000_000 // 800_000]
    with h5py.File(tmp_path / "out.h5") as file:
        assert np.array_equal(file["image"], images)
