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
    "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
    "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "BOOL": "?",
}  # fmt: skip
_NOT_IN_JSON = ("FP16", "BF16")
"""Types that Triton answers in binary alone."""


@dataclass(frozen=True)
class AskedInput:
    """One tensor of a probe."""

    name: str
    datatype: str
    """As Triton calls it."""
    values: npt.NDArray[np.generic]
    """One row, batch dimension first; as many as the model fixes, where it does."""


@dataclass
class KnownAnswer:
    """What a model version is asked, and what must come back."""

    model: str
    version: str
    inputs: tuple[AskedInput, ...]
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
    described = metadata["inputs"]
    if any(entry["datatype"] not in _DTYPES for entry in described):
        found = ", ".join(f"{entry['name']} ({entry['datatype']})" for entry in described)
        raise ValueError(f"expected inputs of numeric types, found {found}")
    outputs = metadata["outputs"]
    output_name = str(next((o for o in outputs if o["datatype"] not in _NOT_IN_JSON), outputs[0])["name"])
    golden = repository / model / version / "golden.npz"
    values = [_made_up(entry) for entry in described]
    expected: npt.NDArray[np.generic] | None = None
    if golden.is_file() and len(described) == 1:
        rows = _rows(described[0])
        with np.load(golden, allow_pickle=False) as archive:
            values = [archive["input"][:rows]]
            if output_name in archive:
                expected = archive[output_name][:rows]
    asked = (AskedInput(str(e["name"]), str(e["datatype"]), v) for e, v in zip(described, values, strict=True))
    return KnownAnswer(model, version, tuple(asked), output_name, expected)


def ask(control: Control, known: KnownAnswer, timeout_s: float) -> Answer:
    """Send the probe and compare. Raises OSError (time-out, connection) or ControlError (refused) when none comes."""
    data = [np.ascontiguousarray(i.values, dtype=_DTYPES[i.datatype]).tobytes() for i in known.inputs]
    header = json.dumps({
        "id": KNOWN_ANSWER_ID,
        "parameters": {RAW_PARAMETER: True},
        "inputs": [
            {
                "name": one.name, "shape": list(one.values.shape), "datatype": one.datatype,
                "parameters": {"binary_data_size": len(content)},
            }
            for one, content in zip(known.inputs, data, strict=True)
        ],
        "outputs": [{"name": known.output_name, "parameters": {"binary_data": False}}],
    }).encode()  # fmt: skip
    try:
        body = control.request(
            "POST", f"/v2/models/{known.model}/versions/{known.version}/infer", b"".join((header, *data)),
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


def _rows(described: Json) -> int:
    """Rows of a request: one, where the model does not fix their number."""
    return max(1, int(described["shape"][0]))


def _made_up(described: Json) -> npt.NDArray[np.generic]:
    """A valid input for every contract: an even image of sum 1 a plane, or one massless constituent."""
    shape = [_rows(described), *(1 if size < 0 else int(size) for size in described["shape"][1:])]
    if len(shape) == 3 and shape[2] == 4:
        jet = np.zeros(shape, np.float32)
        jet[:, 0] = (500.0, 300.0, 400.0, 0.0)
        return jet
    return np.full(shape, 1.0 / max(1, int(np.prod(shape[-2:]))), np.float32)
