"""Working points: the cut on the score that keeps a fraction of a class, of the very version and scale that answers.

Thresholds are a version's own, written into its model card by `triton-fpga evaluate --working-point`. A server tells
them on its metrics page, already for the scores that it answers with; a card at hand is converted by what the server
says of its scale. Where nothing says the scale, nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fpga_ops.calibration import CARD_FILE, SCALING_PARAMETER, Calibration, WorkingPoint, read_calibration
from fpga_ops.errors import ModelError
from sonic_client.core.reply import Reply
from sonic_client.errors import ConfigurationError, WorkingPointError

__all__ = ["WorkingPoint", "check_efficiency", "find_working_point"]


def check_efficiency(efficiency: float) -> str:
    """How a card writes an efficiency. Raises ConfigurationError for one that is not between 0 and 1."""
    if not 0.0 < efficiency < 1.0:
        raise ConfigurationError(f"working point {efficiency:g}: expected a fraction between 0 and 1, such as 0.3")
    return f"{efficiency:g}"


def find_working_point(
    efficiency: float, reply: Reply, model: str, config: Mapping[str, Any] | None, card: Path | None, label: str
) -> WorkingPoint:
    """The working point of what gave a reply.

    Args:
        efficiency: Such as 0.3.
        reply: An answer of the version and the server that are meant.
        model: Name of the model.
        config: The model's configuration as the server shows it, None if it does not; asked where metrics are silent.
        card: The version's model card, or its folder; None takes what the server's metrics page tells.
        label: The class that is cut on.

    Raises:
        WorkingPointError: No such efficiency (it says which there are), a card of another version, or no word of the
            scale of the scores.
        ConfigurationError: The efficiency is not between 0 and 1, or the card cannot be read.
    """
    name = check_efficiency(efficiency)
    if card is None and reply.server.startswith("local:"):
        card = Path(reply.server.removeprefix("local:")).parent
    if card is None:
        points, where = _told(reply), f"{reply.server} tells of version {reply.model_version}"
    else:
        path = card / CARD_FILE if card.is_dir() else card
        points, where = _from_card(path, reply, model, config), str(path)
    if name not in points:
        there = ", ".join(sorted(points, key=float)) or "none"
        hint = "" if points or card is not None else (
            "; --card (card=) names the version's model_card.json, if the server shows no metrics (--metrics). "
            "`triton-fpga evaluate --working-point` writes working points into it"
        )  # fmt: skip
        raise WorkingPointError(f"no working point {name} in what {where}; there are: {there}{hint}")
    point = points[name]
    if point.label != label:
        raise WorkingPointError(f"the working point {name} is a cut on the score of '{point.label}', not of '{label}'")
    return point


def _told(reply: Reply) -> dict[str, WorkingPoint]:
    """By the server's metrics page; already of the scale of its scores."""
    points: dict[str, WorkingPoint] = {}
    for labels in [] if reply.metrics is None else reply.metrics.working_points(reply.model_version):
        try:
            point = WorkingPoint(
                float(labels["efficiency"]), float(labels["threshold"]), float(labels["temperature"]), labels["label"]
            )
        except (KeyError, ValueError, ModelError) as error:
            raise WorkingPointError(f"{reply.server}: its metrics name a senseless working point: {error}") from error
        if points.setdefault(point.name, point) != point:
            raise WorkingPointError(
                f"{reply.server}: instances of version {reply.model_version} answer with different thresholds or "
                f"scales for {point.name}; is it being reloaded?"
            )
    return points


def _from_card(path: Path, reply: Reply, model: str, config: Mapping[str, Any] | None) -> dict[str, WorkingPoint]:
    if not path.is_file():
        raise ConfigurationError(f"{path}: no such model card")
    try:
        calibration = read_calibration(path)
        for what, said, answers in (
            ("model", calibration.model, model), ("version", calibration.version, reply.model_version)
        ):  # fmt: skip
            if said and said != answers:
                raise WorkingPointError(
                    f"{path} is of {what} {said}, and {answers} answers; thresholds are a version's own"
                )
        temperature = _temperature(reply, calibration, config)
        return {name: point.at(temperature) for name, point in calibration.points.items()}
    except ModelError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def _temperature(reply: Reply, calibration: Calibration, config: Mapping[str, Any] | None) -> float:
    """What the logits of the reply were divided by."""
    if reply.server.startswith("local:"):
        return 1.0
    said = reply.provenance
    if said["device"]:
        return float(said.get("temperature", "1"))
    if config is None:
        raise WorkingPointError(
            f"{reply.server} shows neither metrics nor the model's configuration, so nothing says whether its scores "
            "are scaled; name its metrics page (--metrics)"
        )
    parameter = dict(config.get("parameters") or {}).get(SCALING_PARAMETER) or {}
    if str(parameter.get("string_value", "false")) != "true":
        return 1.0
    if calibration.temperature is None:
        raise WorkingPointError(f"{reply.server} scales its scores by a temperature that the card does not hold")
    return calibration.temperature
