"""Tables keep their names whole in a pipe, and fit where a width is given."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

LONG = "triton-fpga-" + "a-name-without-a-break-" * 6
PROGRAM = f"""
from rich.table import Table
from fpga_ops.runtime.terminal import console
table = Table("name", "what")
table.add_row({LONG!r}, "x")
console().print(table)
"""


@pytest.mark.parametrize(("columns", "whole"), [(None, True), ("60", False)])
def test_a_name_is_whole_in_a_pipe_and_a_given_width_is_kept(columns: str | None, whole: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    environment |= {} if columns is None else {"COLUMNS": columns}
    printed = subprocess.check_output([sys.executable, "-c", PROGRAM], text=True, env=environment)
    assert (LONG in printed) is whole
    if columns is not None:
        assert max(map(len, printed.splitlines())) <= int(columns)
