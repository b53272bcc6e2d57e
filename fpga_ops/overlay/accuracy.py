"""What block floating point does to a model's scores: the same file on two references, side by side.

    python -m fpga_ops.overlay.accuracy model.onnx jets.npz --label is_top

The archive holds the model's inputs by name and, for figures of merit, a label per item. Slow: plain numpy.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fpga_ops import reference
from fpga_ops.errors import InputError
from fpga_ops.network import Float32Array, IntegerNetwork, UInt8Array
from fpga_ops.overlay import bfp
from fpga_ops.overlay.geometry import Geometry
from fpga_ops.overlay.lower import lower


class BlockFloatReference:
    """The "bfp" array as an executable, in plain numpy; the peer of `reference.ReferenceExecutable`."""

    def __init__(self, network: IntegerNetwork, geometry: Geometry) -> None:
        self.network, self.geometry = network, geometry
        self.folds = lower(network, geometry).folds

    def run(self, inputs: Mapping[str, Float32Array]) -> dict[str, UInt8Array]:
        """Float inputs `float32[N, C, H, W]` to the network's outputs in ONNX layout."""
        tensors = self.network.tensors
        quantised = {name: reference.quantise_input(inputs[name], tensors[name]) for name in self.network.inputs}
        values = bfp.run_integers(self.network, quantised, self.geometry.vec, self.folds)
        return {name: reference.to_onnx_layout(values[name], tensors[name]) for name in self.network.outputs}

    def close(self) -> None:
        """Nothing to release."""


def area_under_curve(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.bool_]) -> float:
    """Area under the ROC curve: the chance that a signal item scores above a background one, ties counting half."""
    order = np.argsort(scores, kind="stable")
    ranks = np.empty(len(scores))
    ranks[order] = np.arange(1, len(scores) + 1)
    for value in np.unique(scores):
        same = scores == value
        ranks[same] = ranks[same].mean()
    signal, background = int(labels.sum()), int((~labels).sum())
    return float((ranks[labels].sum() - signal * (signal + 1) / 2) / (signal * background))


@dataclass(frozen=True)
class Effect:
    """Scores of the last class under int8 and under block floating point.

    Attributes:
        int8, bfp: `float64[N]`.
        labels: `bool[N]`, or None.
    """

    int8: npt.NDArray[np.float64]
    bfp: npt.NDArray[np.float64]
    labels: npt.NDArray[np.bool_] | None

    def summary(self) -> dict[str, float | int]:
        """Figures for people and scripts."""
        difference = np.abs(self.int8 - self.bfp)
        result: dict[str, float | int] = {
            "items": len(difference),
            "mean_score_difference": float(difference.mean()),
            "largest_score_difference": float(difference.max()),
            "same_decision": float(((self.int8 > 0.5) == (self.bfp > 0.5)).mean()),
        }
        if self.labels is not None and 0 < self.labels.sum() < len(self.labels):
            for name, scores in (("int8", self.int8), ("bfp", self.bfp)):
                result[f"auc_{name}"] = area_under_curve(scores, self.labels)
                result[f"accuracy_{name}"] = float(((scores > 0.5) == self.labels).mean())
        return result


def measure(
    model: str, inputs: Mapping[str, npt.NDArray[np.float32]], labels: npt.NDArray[np.bool_] | None, geometry: Geometry
) -> Effect:
    """Run a classifier's file on both references, one item at a time."""
    from fpga_ops.model import load

    scores: dict[str, list[float]] = {"int8": [], "bfp": []}
    for name in scores:
        with load(model, "reference", max_batch=1) as network:
            if name == "bfp":
                network._executable = BlockFloatReference(network.partition.network, geometry)
            for index in range(len(next(iter(inputs.values())))):
                item = {key: value[index : index + 1] for key, value in inputs.items()}
                (output,) = network.run(item).values()
                scores[name].append(float(output.reshape(-1)[-1]))
    return Effect(np.array(scores["int8"]), np.array(scores["bfp"]), labels)


def main() -> None:
    """Print the summary as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("archive", help=".npz with the model's inputs")
    parser.add_argument("--label", help="name of the labels in the archive")
    parser.add_argument("--items", type=int, help="only the first so many")
    parser.add_argument("--board", default="arria10", help="board whose geometry gives the block")
    args = parser.parse_args()
    from fpga_ops.importer import import_model
    from fpga_ops.overlay import boards

    wanted = import_model(args.model).before.inputs or import_model(args.model).network.inputs
    with np.load(args.archive, allow_pickle=False) as archive:
        missing = [name for name in wanted if name not in archive]
        if missing:
            raise InputError(f"{args.archive} has no {missing}; it holds {sorted(archive)}")
        inputs = {name: archive[name][: args.items].astype(np.float32) for name in wanted}
        labels = archive[args.label][: args.items] > 0.5 if args.label else None
    effect = measure(args.model, inputs, labels, boards.load(args.board).geometry)
    print(json.dumps(effect.summary(), indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
