"""Known answers come from files that others wrote."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import fpga_ops
import triton_server
from fpga_ops.errors import ModelError
from fpga_ops.ir.network import INTEGER_RULE
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


def test_integers_of_an_earlier_rule_are_refused_with_the_reason(tmp_path: Path) -> None:
    """The file is out of date; a device that differs from it is not broken."""
    answers = {"input": np.zeros((2, 4), np.float32), "scores": np.zeros((2, 2), np.float32)}
    integers = np.zeros((2, 8), np.uint8)
    for rule in ({}, {"rule": np.array(1)}, {"rule": np.array(INTEGER_RULE + 1)}):
        np.savez(tmp_path / "golden.npz", **answers, features=integers, **rule)
        with pytest.raises(ModelError, match=rf"integers of rule \d.*by rule {INTEGER_RULE}.*renew-answers"):
            read_golden(tmp_path, ["input"], ["scores"])
    np.savez(tmp_path / "golden.npz", **answers, features=integers, rule=np.array(INTEGER_RULE))
    golden = read_golden(tmp_path, ["input"], ["scores"])
    assert golden is not None
    np.testing.assert_array_equal(golden.features, integers)
    np.savez(tmp_path / "golden.npz", **answers)  # scores alone are of no rule
    assert read_golden(tmp_path, ["input"], ["scores"]) is not None


def test_nothing_that_serves_reads_pickles() -> None:
    word = re.compile(
        r"^\s*(import|from) (pickle|cloudpickle|dill|joblib|marshal|shelve)\b|allow_pickle=True", re.MULTILINE
    )
    packages = [Path(next(iter(package.__path__))) for package in (fpga_ops, triton_server)]
    sources = [path for package in packages for path in package.rglob("*.py")]
    sources.append(Path(__file__).resolve().parents[2] / "backends" / "fpga" / "model.py")
    assert len(sources) > 50
    assert [str(path) for path in sources if word.search(path.read_text())] == []
