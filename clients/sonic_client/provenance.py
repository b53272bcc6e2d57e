"""What answered: device, precision and kernel of a served model, from the server's metrics."""

from __future__ import annotations

import re
import urllib.request
from contextlib import suppress

_INFO = re.compile(r"^fpga_model_info\{(?P<labels>[^}]*)\}\s+(?P<value>\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def read_provenance(metrics_url: str, model: str, timeout: float = 5.0) -> dict[str, str]:
    """Labels of the gauge `fpga_model_info` that is 1 for the model: version, device, precision, kernel.

    Empty when the server has no such metric or does not show metrics.
    """
    if not metrics_url.startswith(("http://", "https://")):
        return {}
    with suppress(OSError, ValueError):
        with urllib.request.urlopen(metrics_url, timeout=timeout) as answer:  # noqa: S310 - the scheme is checked
            text = answer.read().decode()
        return parse_provenance(text, model)
    return {}


def parse_provenance(text: str, model: str) -> dict[str, str]:
    """As `read_provenance`, of a metrics page."""
    for match in _INFO.finditer(text):
        labels = dict(_LABEL.findall(match["labels"]))
        if labels.get("model") == model and float(match["value"]) == 1.0:
            return labels
    return {}
