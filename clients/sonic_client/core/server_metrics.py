"""What answered: device, precision and kernel of a served model, from the server's metrics."""

from __future__ import annotations

import re

from sonic_client.core.proxy import opener

_INFO = re.compile(r"^fpga_model_info\{(?P<labels>[^}]*)\}\s+(?P<value>\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def read_provenance(metrics_url: str, model: str, timeout: float = 5.0) -> dict[str, str]:
    """Labels of the gauge `fpga_model_info` that is above 0 for the model: version, device, precision, kernel.

    Empty when the server has no such metric or does not show metrics.
    """
    return parse_provenance(_page(metrics_url, timeout), model)


def read_metric(metrics_url: str, name: str, model: str, timeout: float = 5.0) -> float:
    """Sum of a metric's values over everything but the model; 0 when there is none."""
    pattern = re.compile(rf'^{re.escape(name)}\{{[^}}]*model="{re.escape(model)}"[^}}]*\}}\s+(\S+)$', re.MULTILINE)
    return sum(float(value) for value in pattern.findall(_page(metrics_url, timeout)))


def _page(metrics_url: str, timeout: float) -> str:
    """The metrics page; empty when there is none."""
    if not metrics_url.startswith(("http://", "https://")):
        return ""
    try:
        with opener(metrics_url).open(metrics_url, timeout=timeout) as answer:
            return str(answer.read().decode())
    except (OSError, ValueError):  # metrics are often closed to the public
        return ""


def parse_provenance(text: str, model: str) -> dict[str, str]:
    """As `read_provenance`, of a metrics page."""
    for match in _INFO.finditer(text):
        labels = dict(_LABEL.findall(match["labels"]))
        if labels.get("model") == model and float(match["value"]) > 0:
            return labels
    return {}
