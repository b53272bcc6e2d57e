"""A model's parameters, from config.pbtxt."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fpga_ops.calibration import SCALING_PARAMETER
from fpga_ops.errors import FpgaOpsError
from triton_server.protocol import DEVICE_VARIABLE

OVERLAP = ("auto", "true", "false")
CONTRACTS = ("finite", "constituents", "images")


class SettingsError(FpgaOpsError):
    """A parameter in config.pbtxt that is unknown or has a value that is not allowed."""


@dataclass(frozen=True)
class Settings:
    """Parameters of one model; every one has a default."""

    devices: tuple[str | None, ...] = (None, "reference")
    """Devices in order of preference. None (written "auto") is the best usable one."""
    precision: str = "int8"
    contract: str = "finite"
    """What every input row must satisfy: see input_checks.py."""
    self_test_interval_s: float = 30.0
    """Seconds between known-answer tests of the device; 0 tests at load alone."""
    device_timeout_s: float = 30.0
    """A device call that takes longer has failed."""
    open_timeout_s: float = 120.0
    """A device that is not open, and has not given its known answers, after this time never will."""
    overlap: str = "auto"
    """Whether the next batch is taken while one computes: "true", "false", or "auto": under the supervisor, on a device
    that leaves the processor of the host alone."""
    require_hashes: bool = False
    """Refuse a version without a model card that holds the hash of model.onnx."""
    temperature_scaling: bool = False
    """Divide the logits of every answer by the temperature in the version's model card."""


def read_settings(config: Mapping[str, Any]) -> Settings:
    """Read the ``parameters`` of a model configuration (Triton's JSON form).

    Raises SettingsError, which names the parameter, what was expected and what came.
    """
    given = {name: str(entry.get("string_value", "")) for name, entry in config.get("parameters", {}).items()}
    known = {"device", "precision", "contract", "overlap", "require_hashes", SCALING_PARAMETER}
    known |= {"self_test_interval_s", "device_timeout_s", "open_timeout_s"}
    for name in given:
        if name not in known and not name.isupper():  # upper case is Triton's own
            raise SettingsError(f"parameter '{name}' is unknown; there are: {', '.join(sorted(known))}")
    default = Settings()
    return Settings(
        devices=_devices(os.environ.get(DEVICE_VARIABLE) or given.get("device", "auto,reference")),
        precision=_one_of("precision", given.get("precision", default.precision), ("int8",)),
        contract=_one_of("contract", given.get("contract", default.contract), CONTRACTS),
        overlap=_one_of("overlap", given.get("overlap", default.overlap), OVERLAP),
        self_test_interval_s=_seconds("self_test_interval_s", given, default.self_test_interval_s),
        device_timeout_s=_seconds("device_timeout_s", given, default.device_timeout_s),
        open_timeout_s=_seconds("open_timeout_s", given, default.open_timeout_s),
        require_hashes=_truth("require_hashes", given),
        temperature_scaling=_truth(SCALING_PARAMETER, given),
    )


def _devices(text: str) -> tuple[str | None, ...]:
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) != len(names):
        raise SettingsError(f"parameter 'device': expected different names separated by commas, came {text!r}")
    return tuple(None if name == "auto" else name for name in names)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise SettingsError(f"parameter '{name}': expected {' or '.join(allowed)}, came {value!r}")
    return value


def _truth(name: str, given: Mapping[str, str]) -> bool:
    return _one_of(name, given.get(name, "false"), ("true", "false")) == "true"


def _seconds(name: str, given: Mapping[str, str], default: float) -> float:
    text = given.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < float("inf"):
        raise SettingsError(f"parameter '{name}': expected seconds, 0 or more, came {text!r}")
    return value
