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
        ["evaluate", "model.onnx", "--data", "jets.root", "--jets"],
        ["refit", "files", "jets.root", "--epochs"],
        ["quantise", "stage.pt", "jets.root", "--output", "files", "--size"],
        ["train", "jets.root", "--output", "run", "--validation"],
        ["bench", "service", "--rounds"],
        ["bench", "networks", "--images"],
        ["demo", "--limit"],
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


@pytest.mark.parametrize(
    ("command", "value", "expected"),
    [
        (["evaluate", "model.onnx", "--data", "jets.root", "--seed"], "-1", "a whole number, 0 or more"),
        (["data", "jets", "folder", "--seed"], "one", "a whole number, 0 or more"),
        (["evaluate", "model.onnx", "--data", "jets.root", "--working-point"], "1.5", "a number between 0 and 1"),
        (["evaluate", "model.onnx", "--data", "jets.root", "--working-point"], "nan", "a number between 0 and 1"),
        (["bench", "service", "--seconds"], "0", "a number above 0"),
        (["bench", "service", "--seconds"], "inf", "a number above 0"),
        (["bench", "service", "--rtt"], "-10", "a number, 0 or more"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value[0]} {value[-1]}",
)
def test_a_number_that_makes_no_sense_is_refused(
    command: list[str], value: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, value])
    assert ended.value.code == 2
    error = " ".join(capsys.readouterr().err.split())
    assert f"argument {command[-1]}: expected {expected}" in error
    assert error.endswith(f"came {value!r}")
