"""What predict, explore and build share."""

from __future__ import annotations

from pathlib import Path

from fpga_ops.ir.network import IntegerNetwork
from fpga_ops.overlay.boards import Board
from fpga_ops.overlay.geometry import Geometry
from fpga_ops.overlay.model.cycles import Prediction
from fpga_ops.overlay.model.resources import Resources


def read_network(path: str) -> IntegerNetwork:
    """The integer network of a QDQ ONNX file."""
    from fpga_ops.importer import import_model

    return import_model(Path(path)).network


def resources_table(resources: Resources, board: Board) -> dict[str, dict[str, float]]:
    """Used blocks, of how many, and the share with the card's shell."""
    shares = resources.shares(board)
    return {
        kind: {"used": used, "of": board.supplies[kind].total, "share_with_shell": round(shares[kind], 4)}
        for kind, used in resources.used.items()
    }


def geometry_table(geometry: Geometry) -> dict[str, object]:
    """The parameters that a person or a script may want."""
    return {
        "name": geometry.name, "vec": geometry.vec, "lane": geometry.lane, "pix": geometry.pix, "wb": geometry.wb,
        "arithmetic": geometry.arithmetic, "macs": geometry.macs, "weight_tiles": geometry.weight_tiles,
        "weight_depth": geometry.weight_depth, "resident_words": geometry.resident_words,
        "joined_rows": geometry.joined_rows,
    }  # fmt: skip


def prediction_table(prediction: Prediction) -> dict[str, object]:
    """The figures of a prediction, as `--json` prints them."""
    return {
        "latency_ms": round(prediction.latency_ms, 4),
        "inferences_per_s": round(prediction.inferences_per_s, 1),
        "inferences_per_s_without_overlap": round(prediction.serial_inferences_per_s, 1),
        "mac_utilisation": round(prediction.mac_utilisation, 4),
        "bound_by": prediction.bound_by,
        "clock_mhz": prediction.clock_mhz,
        "device_ms": round(prediction.device_ms, 4),
        "transfer_ms": round(prediction.transfer_ms, 4),
        "launch_ms": round(prediction.launch_ms, 4),
        "cycles": round(prediction.cycles),
        "interleaved_images": prediction.plan.images,
    }
