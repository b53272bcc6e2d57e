"""What passes between the processes of a server."""

from __future__ import annotations

import pytest

from triton_server.protocol import Code, code_of, coded


@pytest.mark.parametrize("code", list(Code))
def test_a_code_survives_the_way(code: Code) -> None:
    assert code_of(coded(code, "no device is left (cpu: lost)")) is code


@pytest.mark.parametrize(
    "message",
    [
        "no device is left",
        "input 'no device is left', row 0: expected finite values",
        f"input {coded(Code.NO_DEVICE, 'x')!r} is unknown",
        "[fpga:no-such-code] x",
        "",
    ],
)
def test_words_that_a_request_may_bring_along_are_no_code(message: str) -> None:
    assert code_of(message) is None
