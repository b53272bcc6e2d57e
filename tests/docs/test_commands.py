"""Every `triton-fpga ...` in the running text and the tables of the pages is a command with options that there are."""

from __future__ import annotations

import re
import shlex
from importlib.metadata import entry_points

import pytest

from fpga_ops.cli import GROUP, _parser
from tests.docs.pages import DOCS, ROOT

TOLD = re.compile(r"`triton-fpga ([a-z][\w-]*)([^`\n]*)`")


def told() -> list[tuple[str, str]]:
    """Each command and its arguments, once."""
    pages = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "docker").rglob("*.md")]
    return sorted({found for page in pages for found in TOLD.findall(page.read_text())})


@pytest.mark.parametrize(("name", "arguments"), told())
def test_a_command_of_the_text_is_understood(name: str, arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    commands = {entry.name: entry for entry in entry_points(group=GROUP)}
    assert name in commands
    parser, _ = _parser(name, commands[name])
    if arguments.strip():
        try:
            parser.parse_args(shlex.split(arguments))
        except SystemExit:
            pytest.fail(capsys.readouterr().err)
