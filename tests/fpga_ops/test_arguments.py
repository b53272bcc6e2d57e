"""Numbers on the command line, through the commands that take them."""

from __future__ import annotations

import pytest

from fpga_ops.cli import main


@pytest.mark.parametrize("value", ["-3", "0", "2.5", "many", ""])
@pytest.mark.parametrize(
    "command",
    [
        ["tag", "jets.root", "--out", "scores.root", "--workers"],
        ["tag", "jets.root", "--out", "scores.root", "--chunk"],
        ["tag", "jets.root", "--out", "scores.root", "--in-flight"],
        ["tag", "jets.root", "--out", "scores.root", "--connections"],
        ["tag", "jets.root", "--out", "scores.root", "--batch"],
        ["data", "jets", "folder", "--workers"],
        ["data", "jets", "folder", "--jets"],
        ["data", "neutrinos", "folder", "--chunk"],
    ],
    ids=lambda command: f"{command[0]} {command[-1]}",
)
def test_a_count_that_is_none_is_refused(
    command: list[str], value: str, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main([*command, value])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert f"argument {command[-1]}: expected a whole number, 1 or more, came {value!r}" in " ".join(error.split())
