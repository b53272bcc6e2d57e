"""Known answers come from files that others wrote."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import fpga_ops
import triton_server
from fpga_ops.errors import ModelError
from triton_server.repository.known_answers import read_golden


class Planted:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.write_text, (self.path, "run")


def test_a_planted_object_is_refused_and_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    np.savez(tmp_path / "golden.npz", input=np.array([Planted(mark)], dtype=object), scores=np.zeros((1, 2)))
    with pytest.raises(ModelError, match=r"golden\.npz cannot be read: .*pickle"):
        read_golden(tmp_path, ["input"], ["scores"])
    assert not mark.exists()


def test_nothing_that_serves_reads_pickles() -> None:
    word = re.compile(
        r"^\s*(import|from) (pickle|cloudpickle|dill|joblib|marshal|shelve)\b|allow_pickle=True", re.MULTILINE
    )
    packages = [Path(next(iter(package.__path__))) for package in (fpga_ops, triton_server)]
    sources = [path for package in packages for path in package.rglob("*.py")]
    sources.append(Path(__file__).resolve().parents[2] / "backends" / "fpga" / "model.py")
    assert len(sources) > 50
    assert [str(path) for path in sources if word.search(path.read_text())] == []
