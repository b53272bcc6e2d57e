"""Every `pip install 'triton-fpga[...]'` of the pages, errors and notebooks names extras that there are."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.docs.pages import DOCS, ROOT
from tests.docs.running import resolving

FOLDERS = ("docs", "fpga_ops", "backends", "clients", "training", "benchmarks", "docker")
COMMAND = re.compile(r"pip install (?:-e )?'(?:triton-fpga|\.)\[([\w,]+)\]'")


def told() -> list[str]:
    """The extras of each command, wherever it is told."""
    files = [*ROOT.glob("*.md"), *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*"))]
    kinds = (".md", ".py", ".ipynb", ".yaml")
    return sorted({extras for file in files if file.suffix in kinds for extras in COMMAND.findall(file.read_text())})


@pytest.mark.parametrize("extras", told())
def test_what_a_page_installs_can_be_installed(extras: str) -> None:
    done = subprocess.run(resolving(extras), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr


def test_pages_install_the_checkout() -> None:
    """The index does not have this project. Where it is installed already, its name does: errors may say that."""
    pages = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "training").rglob("*.md")]
    assert len(pages) > 40
    told = [page.name for page in pages if "pip install 'triton-fpga[" in page.read_text()]
    assert told == ["install.md"]  # which says when


def test_an_extra_that_is_missing_is_found() -> None:
    done = subprocess.run(resolving("client,nonsense"), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode != 0
    assert "nonsense" in done.stderr
