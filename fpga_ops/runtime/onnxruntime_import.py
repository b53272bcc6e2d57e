"""onnxruntime, imported with its telemetry off.

From 1.32 on, onnxruntime's Linux wheel collects telemetry: creating its environment, which every import does, makes
`deviceid` and `onnxruntime.db` under `$XDG_CACHE_HOME/Microsoft` (`~/.cache`) and looks a Microsoft host up. Its Python
function `disable_telemetry_events` comes too late for the files. The variable `ORT_DISABLE_TELEMETRY`, read while the
library is loaded, prevents all of it; older versions ignore it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import MutableMapping
from typing import Any

TELEMETRY_VARIABLE = "ORT_DISABLE_TELEMETRY"
"""Environment variable that onnxruntime reads; "1" switches its telemetry off."""


PRODUCTS = ("QLinearConv", "QLinearMatMul", "QGemm")
"""Operators whose products of uint8 and int8 saturate on some CPUs (`exact_products`)."""


def disable_telemetry(environment: MutableMapping[str, str]) -> None:
    """Switch onnxruntime's telemetry off in an environment, unless its user has decided otherwise there."""
    environment.setdefault(TELEMETRY_VARIABLE, "1")


def import_onnxruntime(module: str = "onnxruntime") -> Any:
    """Import onnxruntime, or a module of it, so that neither this process nor its children report to anybody.

    Everything in the project imports it here. Where somebody else has imported onnxruntime before, it is as they
    chose.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    disable_telemetry(os.environ)
    return importlib.import_module(module)
