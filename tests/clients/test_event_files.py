"""Event files in and out: every value stays in its row, whatever the chunks, and what cannot be held is said."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import awkward as ak
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st

from sonic_client.errors import FileError, JetError
from sonic_client.events.files import describe_names, open_source, select
from sonic_client.events.output import Nulls, check_target, encode, find_nulls, try_out, write

LEAVES = st.one_of(st.none(), st.integers(-(2**60), 2**60))
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "n": LEAVES,
            "b": st.one_of(st.none(), st.booleans()),
            "s": st.one_of(st.none(), st.text(max_size=3)),
            "jets": st.one_of(
                st.none(),
                st.lists(st.one_of(st.none(), st.fixed_dictionaries({"pt": LEAVES, "c": st.lists(LEAVES, max_size=2)})),
                         max_size=3),
            ),
        }
    ),
    min_size=1, max_size=30,
)  # fmt: skip
SCHEMA = pa.schema(
    [
        ("n", pa.int64()), ("b", pa.bool_()), ("s", pa.string()),
        ("jets", pa.list_(pa.struct([("pt", pa.int64()), ("c", pa.list_(pa.int64()))]))),
    ]
)  # fmt: skip


def members(rows: list[Any], name: str) -> list[Any]:
    """What the column `jets.NAME` is: a missing jet has missing members."""
    return [
        None if row is None else [None if jet is None else jet[name] for jet in row]
        for row in rows
    ]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, group=st.integers(1, 30), chunk=st.integers(1, 30))
def test_nulls_of_parquet_stay_in_their_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], group: int, chunk: int
) -> None:
    path = tmp_path_factory.mktemp("parquet") / "in.parquet"
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path, row_group_size=group)
    with open_source(path, None) as source:
        assert source.columns == ["n", "b", "s", "jets.pt", "jets.c"]
        pieces = [source.read(source.columns, i, min(len(rows), i + chunk)) for i in range(0, len(rows), chunk)]
        for name in ("n", "b", "s"):
            assert [x for piece in pieces for x in piece[name].to_list()] == [row[name] for row in rows]
        for name in ("pt", "c"):
            found = [x for piece in pieces for x in piece[f"jets.{name}"].to_list()]
            assert found == members([row["jets"] for row in rows], name)


def test_parquet_with_awkwards_own_notes_keeps_its_nulls(tmp_path: Path) -> None:
    # awkward notes how nulls lay in memory in the first row group: here, not at all
    kind = "?int64"
    chunks = [ak.Array({"n": ak.enforce_type(ak.Array(x), kind)}) for x in ([1, 2], [None, 4], [5, None])]
    ak.to_parquet_row_groups(iter(chunks), tmp_path / "in.parquet")
    with open_source(tmp_path / "in.parquet", None) as source:
        assert source.read(["n"], 0, 6)["n"].to_list() == [1, 2, None, 4, 5, None]
        assert source.read(["n"], 1, 5)["n"].to_list() == [2, None, 4, 5]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=12),
    chunk=st.integers(1, 12),
    suffix=st.sampled_from([".h5", ".root", ".parquet"]),
)
def test_jagged_columns_keep_their_lists(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[int]], chunk: int, suffix: str
) -> None:
    """Lists that all have one length, or are all empty, are lists still."""
    path = tmp_path_factory.mktemp("jagged") / f"out{suffix}"
    lists = ak.values_astype(ak.Array([*rows, [1]]), np.int32)[:-1]
    numbers = np.arange(len(rows))
    write(
        path,
        ({"x": lists[i : i + chunk], "nx": numbers_of(numbers[i : i + chunk])} for i in range(0, len(rows), chunk)),
        "Events",
    )
    with open_source(path, None) as source:
        back = source.read(["x", "nx"], 0, len(rows))
    assert back["x"].to_list() == rows
    assert back["nx"].to_list() == numbers.tolist()


def numbers_of(values: np.ndarray) -> ak.Array:
    return ak.from_numpy(values)


@pytest.mark.parametrize("suffix", [".root", ".h5"])
def test_nullable_integers_and_booleans_keep_their_type(tmp_path: Path, suffix: str) -> None:
    big = 2**53 + 3
    chunks = [
        {"n": [big, None], "b": [True, None], "x": [1.5, None], "l": [[None, 7], []]},
        {"n": [None, 1], "b": [None, False], "x": [2.5, 3.5], "l": [[1], [None]]},
    ]
    chunks = [{name: ak.Array(values) for name, values in chunk.items()} for chunk in chunks]
    nulls = find_nulls(chunks, chunks[0])
    assert set(nulls.values()) == {Nulls(values=True)}
    path = tmp_path / f"out{suffix}"
    write(path, (encode(chunk, nulls, suffix) for chunk in chunks), "Events")
    with open_source(path, None) as source:
        back = source.read(source.columns, 0, 4)
    assert back["n"].to_list() == [big, 0, 0, 1]
    assert str(back["n"].type.content) == "int64"
    assert back["n_mask"].to_list() == [False, True, True, False]
    assert back["b"].to_list() == [True, False, False, False]
    assert back["b_mask"].to_list() == [False, True, True, False]
    assert np.array_equal(back["x"], [1.5, np.nan, 2.5, 3.5], equal_nan=True)
    assert "x_mask" not in back.fields
    assert back["l"].to_list() == [[0, 7], [], [1], [0]]
    assert back["l_mask"].to_list() == [[True, False], [], [False], [True]]


def test_what_only_parquet_holds_is_refused(tmp_path: Path) -> None:
    lists = ak.Array([[1], None])
    with pytest.raises(FileError, match=r"'l' .*missing lists"):
        encode({"l": lists}, find_nulls([{"l": lists}], ["l"]), ".root")
    words = ak.Array(["a", None])
    with pytest.raises(FileError, match=r"'w' .*no numbers"):
        encode({"w": words}, find_nulls([{"w": words}], ["w"]), ".h5")
    with pytest.raises(FileError, match="two columns would be called 'n_mask'"):
        encode({"n": ak.Array([1, None]), "n_mask": ak.Array([1, 2])}, {"n": Nulls(values=True)}, ".root")
    for suffix in (".root", ".h5"):
        with pytest.raises(FileError, match=rf"{suffix[1:]} files cannot hold 'deep' \(var \* var \* int64\)"):
            try_out(tmp_path / f"x{suffix}", {"fine": ak.Array([1]), "deep": ak.Array([[[1]]])}, "Events")
    assert not list(tmp_path.iterdir())


def test_words_and_rectangles_in_every_format(tmp_path: Path) -> None:
    chunk = {"w": ak.Array(["a", "ä"]), "r": ak.from_numpy(np.arange(6.0).reshape(2, 3))}
    for suffix in (".root", ".h5", ".parquet"):
        path = tmp_path / f"out{suffix}"
        write(path, iter([chunk, chunk]), "Events")
        with open_source(path, None) as source:
            back = source.read(["w", "r"], 1, 4)
        assert back["w"].to_list() == ["ä", "a", "ä"]
        assert back["r"].to_list() == [[3, 4, 5], [0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("root://host//store/x.root", "local folders only"),
        ("https://host/x.parquet", "local folders only"),
        ("nowhere/x.root", "there is no folder"),
        ("folder.root", "is a folder"),
        ("there.root", "exists"),
        ("x.csv", "ending in"),
    ],
)
def test_impossible_outputs(tmp_path: Path, target: str, words: str) -> None:
    (tmp_path / "folder.root").mkdir()
    (tmp_path / "there.root").touch()
    with pytest.raises(FileError, match=words):
        check_target(target if "://" in target else tmp_path / target, overwrite=False)
    if target == "folder.root":
        with pytest.raises(FileError, match=words):
            check_target(tmp_path / target, overwrite=True)


# ---- ROOT


def test_a_counter_is_known_by_its_link_not_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "in.root"
    jets, hits = ak.Array([[1.0], [2.0, 3.0]]), ak.Array([[1], []])
    with uproot.recreate(path) as file:
        kinds = {"njets": "int32", "jets": jets.type.content, "hits": hits.type.content}
        tree = file.mktree("Events", kinds, counter_name=lambda counted: f"count_{counted}")
        tree.extend({"njets": np.array([70, 80], np.int32), "jets": jets, "hits": hits})
    with open_source(path, None) as source:
        assert sorted(source.columns) == ["hits", "jets", "njets"]
        assert sorted(source.counters) == ["count_hits", "count_jets"]
        assert select(source, ["*"]) == source.columns
        assert select(source, ["count_jets"]) == ["count_jets"]
        back = source.read(["njets", "count_jets"], 0, 2)
    assert back["njets"].to_list() == [70, 80]
    assert back["count_jets"].to_list() == [1, 2]


@pytest.mark.parametrize("order", [("hit", "nhit"), ("nhit", "hit")])
def test_a_number_called_like_a_counter_is_written(tmp_path: Path, order: tuple[str, str]) -> None:
    columns = {"hit": ak.Array([[1], [2, 3]]), "nhit": ak.Array([10, 20])}
    write(tmp_path / "out.root", iter([{name: columns[name] for name in order}]), "Events")
    with open_source(tmp_path / "out.root", None) as source:
        assert sorted(source.columns) == ["hit", "nhit"]
        back = source.read(["hit", "nhit"], 0, 2)
    assert back["hit"].to_list() == [[1], [2, 3]]
    assert back["nhit"].to_list() == [10, 20]


@pytest.mark.parametrize("kind", ["mktree", "mkrntuple"])
def test_odd_names_and_records(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "in.root"
    events = {"a::b": np.array([1.0, 2.0]), "x y": np.array([3, 4])}
    jets = ak.Array([[{"pt": 1.0, "eta": 0.5}], []])
    with uproot.recreate(path) as file:
        if kind == "mktree":
            file.mktree("Events", {name: values.dtype for name, values in events.items()}).extend(events)
        else:
            file.mkrntuple("Events", events | {"jets": jets})
    with open_source(path, None) as source:
        assert source.read(["a::b", "x y"], 1, 2).to_list() == [{"a::b": 2.0, "x y": 4}]
        if kind == "mkrntuple":
            assert sorted(source.columns) == ["a::b", "jets.eta", "jets.pt", "x y"]
            assert source.read(["jets.eta"], 0, 2)["jets.eta"].to_list() == [[0.5], []]
        columns = {name: source.read([name], 0, 2)[name] for name in source.columns}
    for suffix in (".root", ".parquet", ".h5"):
        write(tmp_path / f"out{suffix}", iter([columns]), "Events")
        with open_source(tmp_path / f"out{suffix}", None) as source:
            assert {name: source.read([name], 0, 2)[name].to_list() for name in source.columns} == {
                name: values.to_list() for name, values in columns.items()
            }


def test_the_events_tree_among_others(tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "in.root") as file:
        for name in ("Runs", "Events", "LuminosityBlocks"):
            file[name] = {"x": np.arange(2)}
        file["a/Other"] = {"x": np.arange(3)}
    with open_source(tmp_path / "in.root", None) as source:
        assert (source.tree, source.entries) == ("Events", 2)
    with open_source(tmp_path / "in.root", "a/Other") as source:
        assert (source.tree, source.entries) == ("a/Other", 3)
    with pytest.raises(FileError, match="there is no tree 'Event'; it holds Events"):
        open_source(tmp_path / "in.root", "Event")
    with uproot.recreate(tmp_path / "two.root") as file:
        file["one"] = file["two"] = {"x": np.arange(2)}
    with pytest.raises(FileError, match="a tree must be named with --tree; it holds one, two"):
        open_source(tmp_path / "two.root", None)


def test_sources_are_closed(tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "in.root") as file:
        file["Events"] = {"x": np.arange(2)}
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["x"] = np.arange(2)
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "in.parquet")

    def opened() -> str:
        """Open files, and those in memory (uproot maps them)."""
        links = [str(link.resolve()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return "\n".join([*links, Path("/proc/self/maps").read_text()])

    for suffix in (".root", ".h5", ".parquet"):
        path = tmp_path / f"in{suffix}"
        with open_source(path, None) as source:
            assert source.read(["x"], 0, 2)["x"].to_list() in ([0, 1], [1, 2])
            assert suffix == ".root" or str(path) in opened()  # uproot opens a file whenever it reads
        assert str(path) not in opened()


# ---- HDF5


def test_common_hdf5_layouts(tmp_path: Path) -> None:
    path = tmp_path / "in.h5"
    momenta = np.arange(2 * 3 * 4, dtype=">f4").reshape(2, 3, 4)
    compound = np.zeros((2, 3), [("pt", "<f4"), ("valid", "?")])
    compound["pt"], compound["valid"] = [[1, 2, 3], [4, 5, 6]], [[True, True, False], [True, False, False]]
    with h5py.File(path, "w") as file:
        file["jets"] = momenta
        file["consts"] = compound
        file["big"] = np.array([2**40, 1], ">i8")
        file["group/deep"] = np.array([7, 8])
        file["words"] = np.array([b"ab", b"c"])
    with open_source(path, None) as source:
        back = source.read(source.columns, 0, 2)
        assert back["jets.E"].to_list() == momenta[..., 0].tolist()
        assert back["jets.pz"].to_list() == momenta[..., 3].tolist()
        assert back["consts.pt"].to_list() == [[1, 2, 3], [4, 5, 6]]
        assert back["consts.valid"].to_list()[1] == [True, False, False]
        assert (back["big"] + 1).to_list() == [2**40 + 1, 2]
        assert back["group/deep"].to_list() == [7, 8]
        assert back["words"].to_list() == ["ab", "c"]
        assert source.read(["jets.px"], 1, 2)["jets.px"].to_list() == momenta[1:, :, 1].tolist()


def test_the_events_among_datasets_of_other_lengths(tmp_path: Path) -> None:
    path = tmp_path / "in.h5"
    with h5py.File(path, "w") as file:
        file["constituents_px"] = np.ones((5, 2))
        file["constituents_E"] = np.ones((5, 2))
        file["bins"] = np.arange(3)
        file["other/px"] = np.ones((4, 2))
    with open_source(path, "other") as source:
        assert (source.entries, source.columns) == (4, ["px"])
    with pytest.raises(FileError, match=r"lengths 3, 4, 5.*--tree"):
        open_source(path, None)
    with h5py.File(path, "a") as file:
        del file["other"]
    with open_source(path, None) as source:
        assert (source.entries, sorted(source.columns)) == (5, ["constituents_E", "constituents_px"])
    with pytest.raises(FileError, match="no group 'nope'"):
        open_source(path, "nope")


def test_pandas_frames(tmp_path: Path) -> None:
    names = ["E_0", "PX_0", "ttv"]
    table = np.zeros(2, [("index", "i8"), ("values_block_0", "f4", (2,)), ("values_block_1", "i8", (1,))])
    table["values_block_0"], table["values_block_1"] = [[1, 2], [3, 4]], [[5], [6]]
    with h5py.File(tmp_path / "table.h5", "w") as file:
        data = file.create_dataset("table/table", data=table)
        data.attrs["values_block_0_kind"] = np.void(pickle.dumps(names[:2]))
        data.attrs["values_block_1_kind"] = np.void(pickle.dumps(names[2:]))
    with h5py.File(tmp_path / "fixed.h5", "w") as file:
        file["jets/axis0"], file["jets/axis1"] = np.array(names, "S"), np.arange(2)
        file["jets/block0_items"], file["jets/block0_values"] = np.array(names[:2], "S"), np.array([[1, 2], [3, 4.0]])
        file["jets/block1_items"], file["jets/block1_values"] = np.array(names[2:], "S"), np.array([[5], [6]])
    for name in ("table", "fixed"):
        with open_source(tmp_path / f"{name}.h5", None) as source:
            assert source.columns == names
            assert source.read(names, 0, 2).to_list() == [
                {"E_0": 1, "PX_0": 2, "ttv": 5}, {"E_0": 3, "PX_0": 4, "ttv": 6},
            ]  # fmt: skip


def test_a_pickle_in_a_file_runs_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    table = np.zeros(2, [("index", "i8"), ("values_block_0", "f4", (2,))])
    with h5py.File(tmp_path / "in.h5", "w") as file:
        data = file.create_dataset("table/table", data=table)
        stream = io.BytesIO()
        pickle.dump(Evil(), stream)
        data.attrs["values_block_0_kind"] = np.void(stream.getvalue())
    with open_source(tmp_path / "in.h5", None) as source:
        assert source.columns == ["table/table.index", "table/table.values_block_0"]
    assert not (tmp_path / "ran").exists()


def test_errors_name_the_nearest_of_many_branches(tmp_path: Path) -> None:
    names = [f"HLT_path_{i}" for i in range(3000)] + ["FatJet_pt"]
    words = describe_names(names, "fatjet_PT")
    assert words.startswith("there are 'FatJet_pt'")
    assert words.endswith("and 2993 more")
    assert len(words) < 300
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["FatJet_pt"] = np.arange(2)
    with open_source(tmp_path / "in.h5", None) as source, pytest.raises(JetError, match="there are 'FatJet_pt'"):
        select(source, ["fatjet*"])


@pytest.mark.parametrize("suffix", [".h5", ".root"])
def test_lists_that_could_be_missing_and_are_not(tmp_path: Path, suffix: str) -> None:
    """Whatever pyarrow and pandas write is nullable, with offsets of 32 bits."""
    pq.write_table(pa.table({"a": [[1, 2], [], [3]], "n": [1, 2, 3]}), tmp_path / "in.parquet")
    with open_source(tmp_path / "in.parquet", None) as source:
        events = source.read(["a", "n"], 0, 3)
    columns = encode({name: events[name] for name in ("a", "n")}, {}, suffix)
    write(tmp_path / f"out{suffix}", iter([columns]), "Events")
    with open_source(tmp_path / f"out{suffix}", None) as source:
        back = source.read(["a", "n"], 0, 3)
    assert (back["a"].to_list(), back["n"].to_list()) == ([[1, 2], [], [3]], [1, 2, 3])


@pytest.mark.parametrize("suffix", [".h5", ".root", ".parquet"])
@pytest.mark.parametrize("limit", [30_000, 83_000, 300_000])
def test_a_disc_that_is_full_is_an_error_and_leaves_no_file(tmp_path: Path, suffix: str, limit: int) -> None:
    """HDF5 1.14 closes such a file without a word and ends the process later. A limit of size stands for the disc."""
    program = (
        "import resource, sys, numpy as np, awkward as ak\n"
        "from pathlib import Path\n"
        "from sonic_client.events.files import FileError\n"
        "from sonic_client.events.output import write\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "random = np.random.default_rng(1)\n"
        "chunks = ({f'x{k}': ak.from_numpy(random.random(1000)) for k in range(3)} for _ in range(20))\n"
        "try:\n"
        f"    write(Path('out{suffix}'), chunks, 'tree')\n"
        "except FileError as error:\n"
        "    sys.exit(f'refused: {error}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1, done
    assert done.stderr.startswith(f"refused: out{suffix}: cannot be written (")
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
