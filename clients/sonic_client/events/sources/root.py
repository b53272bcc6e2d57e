"""TTree and RNTuple, through uproot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import awkward as ak

from sonic_client.errors import FileError
from sonic_client.events.locations import is_remote

_KINDS = ("TTree", "ROOT::RNTuple", "ROOT::Experimental::RNTuple", "TNtuple", "TNtupleD")
EVENT_TREES = ("Events", "events", "CollectionTree", "EventData", "Delphes", "tree")
"""What experiments call the tree of the events, among others with metadata: CMS, FCC, ATLAS (TTree, RNTuple), Delphes,
JetClass."""

_REMOTE_S = 30
"""Seconds for each of a remote server's answers; XRootD's own default tries for minutes to reach one."""


class RootSource:
    """One tree of a ROOT file. Of a record in an RNTuple the members are columns: `jets.pt`."""

    def __init__(self, location: str | Path, tree: str | None) -> None:
        import uproot

        try:
            if is_remote(location):
                self._file = uproot.open(str(location), timeout=_REMOTE_S)
            else:
                self._file = uproot.open(Path(location))
        except ImportError as error:
            raise FileError(
                f"{location}: reading by this protocol needs another package: pip install 'triton-fpga[xrootd]' "
                f"for root://, 'aiohttp' for https:// ({str(error).strip().splitlines()[0]})"
            ) from error
        try:
            self.tree = _choose(location, self._file, tree)
            self._tree = self._file[self.tree]
            self.entries = int(self._tree.num_entries)
            self._branches, self.counters = _leaves(self._tree)
        except BaseException:
            self.close()
            raise
        self.columns = [name for name in self._branches if name not in self.counters]

    def read(self, columns: Sequence[str], start: int, stop: int) -> Any:
        """Awkward record array of some columns of the events [start, stop)."""
        arrays = {name: self._branches[name].array(entry_start=start, entry_stop=stop) for name in columns}
        return ak.zip(arrays, depth_limit=1)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> RootSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _choose(location: str | Path, file: Any, tree: str | None) -> str:
    trees = sorted({name for name, kind in file.classnames(cycle=False).items() if kind in _KINDS})
    if tree is None:
        usual = [name for name in trees if name.rpartition("/")[2] in EVENT_TREES]
        for only in (trees, usual):
            if len(only) == 1:
                return str(only[0])
    elif tree in trees or file.classnames(cycle=True).get(tree) in _KINDS:  # also `Events;1`
        return tree
    wanted = "a tree must be named with --tree" if tree is None else f"there is no tree '{tree}'"
    shown = ", ".join(trees[:8]) + (f" and {len(trees) - 8} more" if len(trees) > 8 else "")
    raise FileError(f"{location}: {wanted}; it holds {shown or 'none'}")


def _leaves(tree: Any) -> tuple[dict[str, Any], list[str]]:
    """Branches without branches of their own, by name; and which of them count the others' entries.

    A counter is known by the file's own link from the branch that it counts, never by its name: `njets` may be a
    number that somebody wrote beside `jets`.
    """
    names = [str(name) for name in tree.keys()]  # noqa: SIM118 - a tree is no mapping
    branches = {name: tree[name] for name in names}
    if not hasattr(tree, "branches"):  # an RNTuple: the members of records are fields of their own
        parents = {name.rpartition(".")[0] for name in names}
        return {name: branch for name, branch in branches.items() if name not in parents}, []
    leaves: dict[str, Any] = {}
    counters: set[str] = set()
    for path, branch in branches.items():
        if len(branch.branches):
            continue
        short = str(branch.name)
        leaves[path if short in leaves else short] = branch
        if branch.count_branch is not None:
            counters.add(str(branch.count_branch.name))
    return leaves, [name for name in leaves if name in counters]
