"""What the server, its supervisor and the plugin in the server's processes agree on.

They are processes of their own, and between them there are environment variables, Prometheus' text and the messages of
Triton's errors. Nothing is imported here, so that every part can.
"""

import re
from enum import StrEnum

NOTES_VARIABLE = "TRITON_FPGA_NOTES"
"""Environment variable with the folder of the notes on devices being opened, which outlives a server."""
PARENT_PIPE_VARIABLE = "TRITON_FPGA_PARENT_PIPE"
"""Environment variable with the number of the reading end of the pipe whose closing ends the plugin's processes."""
DEVICE_VARIABLE = "TRITON_FPGA_DEVICE"
"""Environment variable with the devices of every model; ``triton-fpga serve --device`` sets it."""

EVENTS_VARIABLE = "TRITON_FPGA_EVENTS"
"""Environment variable with the folder for the last event of each model; ``serve --show-events`` sets it."""
KNOWN_ANSWER_ID = "known-answer"
"""Id of the supervisor's own requests."""

FIRST, SPARE, LAST = "first", "spare", "last"
"""Label ``choice`` of fpga_model_info: which of the devices that a model names it serves on."""


class Code(StrEnum):
    """Why a request failed, for programs. Triton's own codes say whether a retry is of use, and no more."""

    NO_DEVICE = "no-device"
    """The model has lost its last device: it must be loaded anew."""


def coded(code: Code, text: str) -> str:
    """An error's message with its code."""
    return f"[fpga:{code}] {text}"


def code_of(message: str) -> Code | None:
    """The code of an error's message as it comes from the server, None without one.

    The code stands at the beginning, so that nothing that a request brings along can be taken for it.
    """
    match = _CODE.match(message)
    return Code(match[1]) if match is not None else None


_CODE = re.compile(r"\[fpga:(" + "|".join(re.escape(code) for code in Code) + r")\] ")
