"""What the tests' own rules do: a skipped test fails the run unless its reason is a fact of the CPU or the device."""

from __future__ import annotations

import shutil
import subprocess
import sys
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
