"""Whether config.pbtxt says what model.onnx is: else every answer is an error, or not what was promised."""

from collections.abc import Mapping, Sequence
from typing import Any

from fpga_ops.errors import ModelError
from triton_server.repository.model_version import MODEL_FILE

DEFAULT_MAX_BATCH = 8
"""Rows of a request where config.pbtxt gives no limit."""
_DTYPES = {"TYPE_FP16": "float16", "TYPE_FP32": "float32", "TYPE_FP64": "float64"}
"""Triton's names of numpy's, of those that are not the same in capitals."""
_CONSTITUENTS = 4
"""(E, px, py, pz)"""


def check_agreement(config: Mapping[str, Any], described: Mapping[str, Any], contract: str) -> None:
    """Compare a model configuration (Triton's JSON form) with what ``Network.describe`` says of the file.

    A configuration may leave out outputs, reshape, and say -1 for a size that the file fixes.

    Raises:
        ModelError: Names, types, shapes or the batch differ, an input is optional or ragged, or the contract is for
            other inputs.
    """
    batched = int(config["max_batch_size"]) > 0
    for kind, entries in (("input", config["input"]), ("output", config["output"])):
        there = described[f"{kind}s"]
        named = [str(entry["name"]) for entry in entries]
        if not set(named) <= there.keys() or (kind == "input" and set(named) != there.keys()):
            raise ModelError(
                f"config.pbtxt: {kind}s {sorted(there)} are expected, as in {MODEL_FILE}, {sorted(named)} came"
            )
        for entry in entries:
            _check_tensor(kind, entry, there[entry["name"]], batched=batched)
    if contract == "constituents":
        for name, tensor in described["inputs"].items():
            shape = tensor["shape"]
            if len(shape) != 3 or shape[2] not in (-1, _CONSTITUENTS):
                raise ModelError(
                    f"parameter 'contract': constituents have shape [-1, n, {_CONSTITUENTS}], and input '{name}' of "
                    f"{MODEL_FILE} has {shape}"
                )


def largest_batch(config: Mapping[str, Any]) -> int:
    """Rows of a batch at most; where Triton is told of no batch (0), what the inputs fix, or a usual number."""
    return max(0, int(config["max_batch_size"])) or fixed_batch(config) or DEFAULT_MAX_BATCH


def fixed_batch(config: Mapping[str, Any]) -> int:
    """Rows that every request must have, 0 where that is up to it."""
    if int(config["max_batch_size"]) > 0:
        return 0
    return max(0, *(int(dims[0]) for entry in config["input"] if (dims := _dims(entry))), 0)


def _check_tensor(kind: str, entry: Mapping[str, Any], there: Mapping[str, Any], *, batched: bool) -> None:
    what = f"config.pbtxt: {kind} '{entry['name']}'"
    for flag in ("optional", "allow_ragged_batch"):
        if entry.get(flag):
            raise ModelError(
                f"{what}: {flag} is set, and {MODEL_FILE} takes whole batches of every input: leave it out"
            )
    dtype = str(entry["data_type"])
    if _DTYPES.get(dtype, dtype.removeprefix("TYPE_").lower()) != there["dtype"]:
        raise ModelError(f"{what}: type {there['dtype']} is expected, as in {MODEL_FILE}, {dtype} came")
    shape = list(there["shape"])
    if not shape:
        return  # the file does not say
    if batched:
        if shape[0] != -1:
            raise ModelError(
                f"{what}: max_batch_size is above 0, and shape {shape} in {MODEL_FILE} has no batch dimension: export "
                "it with one, or set max_batch_size to 0 and give all dimensions"
            )
        shape = shape[1:]
    dims = _dims(entry)
    if len(dims) != len(shape) or any(-1 not in (a, b) and a != b for a, b in zip(dims, shape, strict=True)):
        raise ModelError(f"{what}: dims {shape} are expected, as in {MODEL_FILE}, {list(dims)} came")


def _dims(entry: Mapping[str, Any]) -> Sequence[int]:
    """What the model sees of a tensor, after Triton has reshaped it."""
    reshape = entry.get("reshape")
    return [int(size) for size in (entry["dims"] if reshape is None else reshape.get("shape", []))]
