"""What a caller says of one request besides its tensors, checked before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real

import numpy as np

from sonic_client.errors import ConfigurationError

Parameter = str | int | bool | float


def check_text(name: str, value: object) -> str:
    """A text that every transport can carry. Raises ConfigurationError."""
    if not isinstance(value, str) or not _is_utf8(value):
        raise ConfigurationError(f"{name}: expected a text, got {value!r}")
    return value


def plain_parameters(parameters: Mapping[str, Parameter] | None) -> dict[str, Parameter]:
    """Request parameters in Python's own types, numpy's among those given. Raises ConfigurationError for others."""
    if not isinstance(parameters, Mapping):
        if parameters is None:
            return {}
        raise ConfigurationError(f"parameters: expected a dictionary, got {parameters!r}")
    return {check_text("the name of a parameter", name): _plain(name, value) for name, value in parameters.items()}


def _plain(name: str, value: object) -> Parameter:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, Integral) and -(2**63) <= int(value) < 2**63:
        return int(value)
    if isinstance(value, Real) and not isinstance(value, Integral):
        return float(value)
    if isinstance(value, str) and _is_utf8(value):
        return str(value)
    raise ConfigurationError(f"parameter '{name}': expected a bool, int (of 64 bits), float or str, got {value!r}")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True
