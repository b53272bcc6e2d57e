"""What the tests' own rules do.

A skipped test fails the run unless its reason is a fact of the CPU or the device, and a test of a server that fails in
two of three runs has failed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")


@pytest.mark.parametrize(
    ("reason", "option", "code"),
    [
        ("no OpenCL CPU device", "--no-skips", 1),
        ("no OpenCL CPU device", "-q", 0),
        ("this CPU has no int8 dot instruction", "--no-skips", 0),
    ],
)
def test_a_skipped_test_fails_the_run(reason: str, option: str, code: int, tmp_path: Path) -> None:
    shutil.copy(CONFTEST, tmp_path)
    (tmp_path / "test_it.py").write_text(
        f"import pytest\n\ndef test_one():\n    pass\n\ndef test_two():\n    pytest.skip({reason!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", option, "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    assert ("must not be" in done.stdout) == bool(code)


RERUN = """
import pytest

made = []

@pytest.fixture
def outcome(request):
    made.append(request.node.name)
    here = request.node.name.rpartition("_")[2][made.count(request.node.name) - 1]
    assert here != "S"
    yield here
    assert here != "T"

def test_ordinary_F(outcome):
    assert outcome == "P"
"""
"""F: it fails; S, T: its fixture does, at the start or the end; P: it passes. Of a test's three runs."""


def test_a_test_of_a_server_may_fail_in_one_of_three_runs(tmp_path: Path) -> None:
    shutil.copy(CONFTEST, tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    server\n    docker\n")
    sound, faulty = ("P", "FPP", "SPP", "TPP"), ("FF", "SF", "FPF", "FPS")
    marked = [f"@pytest.mark.server\ndef test_{runs}(outcome):\n    assert outcome == 'P'\n" for runs in sound + faulty]
    (tmp_path / "test_it.py").write_text("\n".join([RERUN, *marked, "def test_made():\n    print('made:', *made)"]))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "--tb=no", str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    told = [line.split() for line in done.stdout.splitlines()]
    failed = {words[1].rpartition("::")[2] for words in told if words[:1] in (["FAILED"], ["ERROR"])}
    assert failed == {"test_ordinary_F", *(f"test_{runs}" for runs in faulty)}, done.stdout
    made = Counter(next(line for line in done.stdout.splitlines() if "made:" in line).split("made: ")[1].split())
    assert made == {"test_ordinary_F": 1, **{f"test_{runs}": len(runs) for runs in sound + faulty}}
