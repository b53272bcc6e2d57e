"""Every `triton-fpga ...` of the pages is a command with options that there are, and every option says what it is."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from importlib.metadata import entry_points

import pytest

from fpga_ops.cli import GROUP, _parser, help_text
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


def arguments_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    """Each argument of a command and its sub-commands, with the command's name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from arguments_of(sub)
        else:
            yield parser.prog, action


@pytest.mark.parametrize("name", sorted(entry.name for entry in entry_points(group=GROUP)))
def test_help_says_what_each_argument_is_and_its_default(name: str) -> None:
    parser, _ = _parser(name, entry_points(group=GROUP)[name])
    for command, action in arguments_of(parser):
        assert help_text(action), f"{command}: {action.dest} has no help"
    parser.format_help()  # its texts can be filled in


def test_help_says_a_default_once(capsys: pytest.CaptureFixture[str]) -> None:
    parser, _ = _parser("bench", entry_points(group=GROUP)["bench"])
    with pytest.raises(SystemExit):
        parser.parse_args(["service", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "round-trip times of 'remote' (default: 0.0 10.0 60.0)" in shown
    assert "length of one run (default: 10.0)" in shown
    assert "print the summary as JSON" in shown
    assert "print the summary as JSON (" not in shown
