"""A known-answer inference through the real server: readiness that cannot lie."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fpga_ops.calibration import RAW_PARAMETER
from triton_server.errors import MalformedAnswerError
from triton_server.protocol import KNOWN_ANSWER_ID
from triton_server.server.control_api import Control, Json

SCORE_TOLERANCE = 1e-4
"""Outputs after the float head may differ in the last bits between processors; integer outputs may not at all."""

_MALFORMED = (
    MalformedAnswerError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError
)  # fmt: skip
"""What reading an answer raises that is not one."""
_DTYPES: Mapping[str, str] = {
    "FP32": "<f4", "FP16": "<f2", "FP64": "<f8",
    "UINT8": "u1", "INT8": "i1", "INT32": "<i4", "INT64": "<i8", "BOOL": "?",
}  # fmt: skip


@dataclass
class KnownAnswer:
    """One input of a model version and what must come back."""

    model: str
    version: str
    input_name: str
    datatype: str
    input: npt.NDArray[np.generic]
    """One row, batch dimension first."""
    output_name: str
    output: npt.NDArray[np.generic] | None
    """None until the first answer, for a version without golden.npz: later answers must equal the first."""


@dataclass(frozen=True)
class Answer:
    """What a probe saw."""

    correct: bool
    detail: str


def known_answer(control: Control, repository: Path, model: str, version: str) -> KnownAnswer:
    """The known answer of a served version: from its golden.npz, else from a made-up valid input.

    Raises ServerError or OSError when Triton does not describe the version, ValueError for inputs that cannot be asked,
    and what numpy raises for a damaged golden.npz.
    """
    metadata = control.metadata(model, version)
    described = metadata["inputs"][0]
    if len(metadata["inputs"]) != 1 or described["datatype"] not in _DTYPES:
        found = ", ".join(f"{entry['name']} ({entry['datatype']})" for entry in metadata["inputs"])
        raise ValueError(f"expected one input of a numeric type, found {found}")
    output_name = str(metadata["outputs"][0]["name"])
    golden = repository / model / version / "golden.npz"
    row: npt.NDArray[np.generic]
    expected: npt.NDArray[np.generic] | None = None
    if golden.is_file():
        with np.load(golden, allow_pickle=False) as archive:
            row = archive["input"][:1]
            if output_name in archive:
                expected = archive[output_name][:1]
    else:
        row = _made_up(described)
    return KnownAnswer(model, version, str(described["name"]), str(described["datatype"]), row, output_name, expected)


def ask(control: Control, known: KnownAnswer, timeout_s: float) -> Answer:
    """Send the probe and compare. Raises OSError (time-out, connection) or ControlError (refused) when none comes."""
    data = np.ascontiguousarray(known.input, dtype=_DTYPES[known.datatype]).tobytes()
    header = json.dumps({
        "id": KNOWN_ANSWER_ID,
        "parameters": {RAW_PARAMETER: True},
        "inputs": [{
            "name": known.input_name, "shape": list(known.input.shape), "datatype": known.datatype,
            "parameters": {"binary_data_size": len(data)},
        }],
        "outputs": [{"name": known.output_name, "parameters": {"binary_data": False}}],
    }).encode()  # fmt: skip
    try:
        body = control.request(
            "POST", f"/v2/models/{known.model}/versions/{known.version}/infer", header + data,
            {"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"},
            timeout_s,
        )  # fmt: skip
        return compare(known, json.loads(body))
    except _MALFORMED as error:
        return Answer(False, f"the server's answer is malformed: {type(error).__name__}: {error}")


def compare(known: KnownAnswer, reply: Json) -> Answer:
    """Judge the server's JSON reply against the known answer; keeps the first reply where there is none."""
    output = next((entry for entry in reply["outputs"] if entry["name"] == known.output_name), None)
    if output is None or not output.get("data"):
        return Answer(False, f"output '{known.output_name}' is missing or empty")
    came = np.asarray(output["data"]).reshape(output["shape"])
    if known.output is None:
        if not np.isfinite(came).all():
            return Answer(False, f"output '{known.output_name}' holds values that are not finite")
        known.output = came
        return Answer(True, "first answer kept")
    if came.shape != known.output.shape:
        return Answer(False, f"output '{known.output_name}': expected shape {known.output.shape}, came {came.shape}")
    tolerance = 0.0 if np.issubdtype(known.output.dtype, np.integer) else SCORE_TOLERANCE
    difference = float(np.abs(came.astype(np.float64) - known.output.astype(np.float64)).max())
    if not difference <= tolerance:
        return Answer(False, f"output '{known.output_name}': off by {difference:.3g}, allowed {tolerance:.3g}")
    return Answer(True, "equal")


def _made_up(described: Json) -> npt.NDArray[np.generic]:
    """A valid input for either contract: an even image of sum 1 a plane, or one massless constituent."""
    shape = [1, *(1 if size < 0 else int(size) for size in described["shape"][1:])]
    if shape[1:] == [200, 4]:
        jet = np.zeros(shape, np.float32)
        jet[0, 0] = (500.0, 300.0, 400.0, 0.0)
        return jet
    return np.full(shape, 1.0 / max(1, int(np.prod(shape[-2:]))), np.float32)
