"""What block floating point does to a model's scores: the same file on two references, side by side.

    python -m triton_fpga_bench.overlay.block_float_accuracy model.onnx jets.npz --label is_top --float float.onnx

The archive holds the model's inputs by name and, for figures of merit, a label per item. Slow: plain numpy.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fpga_ops.errors import InputError
from fpga_ops.ir import reference
from fpga_ops.ir.network import Float32Array, IntegerNetwork, UInt8Array
from fpga_ops.overlay import block_float
from fpga_ops.overlay.geometry import Geometry
from fpga_ops.overlay.lower import lower
from fpga_ops.runtime.onnxruntime_import import import_onnxruntime

Inputs: TypeAlias = Mapping[str, npt.NDArray[np.float32]]
Scores: TypeAlias = npt.NDArray[np.float64]
_BATCH = 8


class BlockFloatReference:
    """The "bfp" array as an executable, in plain numpy; the peer of `reference.ReferenceExecutable`."""

    def __init__(self, network: IntegerNetwork, geometry: Geometry) -> None:
        self.network, self.geometry = network, geometry
        self.folds = lower(network, geometry).folds

    def run(self, inputs: Mapping[str, Float32Array]) -> dict[str, UInt8Array]:
        """Float inputs `float32[N, C, H, W]` to the network's outputs in ONNX layout."""
        tensors = self.network.tensors
        quantised = {name: reference.quantise_input(inputs[name], tensors[name]) for name in self.network.inputs}
        values = block_float.run_integers(self.network, quantised, self.geometry.vec, self.folds)
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
    """Scores of the last class, by arithmetic.

    Attributes:
        scores: `float64[N]` by name: "int8", "bfp", and "float" where a float file was given.
        labels: `bool[N]`, or None.
    """

    scores: dict[str, npt.NDArray[np.float64]]
    labels: npt.NDArray[np.bool_] | None

    def summary(self, resamples: int = 500) -> dict[str, float | int]:
        """Figures for people and scripts; errors are standard deviations over bootstrap resamples of the items."""
        int8, bfp = self.scores["int8"], self.scores["bfp"]
        difference = np.abs(int8 - bfp)
        result: dict[str, float | int] = {
            "items": len(difference),
            "mean_score_difference": float(difference.mean()),
            "largest_score_difference": float(difference.max()),
            "same_decision": float(((int8 > 0.5) == (bfp > 0.5)).mean()),
        }
        if self.labels is None or not 0 < self.labels.sum() < len(self.labels):
            return result
        for name, scores in self.scores.items():
            result[f"auc_{name}"] = area_under_curve(scores, self.labels)
            result[f"accuracy_{name}"] = float(((scores > 0.5) == self.labels).mean())
        for name, error in self._errors(resamples).items():
            result[name] = error
        return result

    def _errors(self, resamples: int) -> dict[str, float]:
        """Of each AUC, and of each difference to int8 (on the same resamples, so what the items share drops out)."""
        labels = self.labels
        if labels is None:
            return {}
        rng = np.random.default_rng(0)
        drawn: dict[str, list[float]] = {name: [] for name in self.scores}
        while len(drawn["int8"]) < resamples:
            chosen = rng.integers(0, len(labels), len(labels))
            if 0 < labels[chosen].sum() < len(labels):
                for name, scores in self.scores.items():
                    drawn[name].append(area_under_curve(scores[chosen], labels[chosen]))
        base = np.array(drawn["int8"])
        errors = {f"auc_{name}_error": float(np.std(values)) for name, values in drawn.items()}
        others = [name for name in drawn if name != "int8"]
        return errors | {f"auc_{name}_minus_int8_error": float(np.std(np.array(drawn[name]) - base)) for name in others}


def _scores(model: str, inputs: Inputs, device: str, geometry: Geometry | None, progress: bool) -> Scores:
    """Scores on a device; with a geometry, on the block-floating-point reference instead."""
    from rich.progress import track

    from fpga_ops.importer import import_model
    from fpga_ops.loading import make

    partition = import_model(model)
    count, found = len(next(iter(inputs.values()))), []
    with make(partition, device, max_batch=_BATCH) as network:
        if geometry is not None:
            network._executable = BlockFloatReference(partition.network, geometry)
        name = f"bfp, {geometry.name}" if geometry is not None else f"int8, {device}"
        for first in track(range(0, count, _BATCH), description=name, disable=not progress):
            (output,) = network.run({key: value[first : first + _BATCH] for key, value in inputs.items()}).values()
            found.append(output.reshape(len(output), -1)[:, -1].astype(np.float64))
    return np.concatenate(found)


def _float_scores(model: str, inputs: Inputs) -> Scores:
    """Scores of a plain float file under onnxruntime."""
    onnxruntime = import_onnxruntime()

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    found = []
    for first in range(0, len(next(iter(inputs.values()))), _BATCH):
        output = session.run(None, {name: inputs[name][first : first + _BATCH] for name in names})[0]
        found.append(output.reshape(len(output), -1)[:, -1].astype(np.float64))
    return np.concatenate(found)


def measure(
    model: str,
    inputs: Inputs,
    labels: npt.NDArray[np.bool_] | None,
    geometry: Geometry,
    *,
    device: str = "reference",
    float_model: str | None = None,
    progress: bool = False,
) -> Effect:
    """Run a classifier in int8 on a device, in block floating point in numpy, and in float if there is a file."""
    scores = {
        "int8": _scores(model, inputs, device, None, progress),
        "bfp": _scores(model, inputs, "reference", geometry, progress),
    }
    if float_model is not None:
        scores["float"] = _float_scores(float_model, inputs)
    return Effect(scores, labels)


def main() -> None:
    """Print the summary as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("archive", help=".npz with the model's inputs")
    parser.add_argument("--label", help="name of the labels in the archive")
    parser.add_argument("--items", type=int, help="only the first so many")
    parser.add_argument("--board", default="arria10", help="board whose geometry gives the block")
    parser.add_argument("--device", default="reference", help="where int8 runs; every device has the same bits")
    parser.add_argument("--float", dest="float_model", help="float ONNX file with the same inputs")
    parser.add_argument("--scores", help="write the scores to this .npz")
    args = parser.parse_args()
    from fpga_ops.importer import import_model
    from fpga_ops.overlay import boards

    partition = import_model(args.model)
    wanted = partition.before.inputs or partition.network.inputs
    with np.load(args.archive, allow_pickle=False) as archive:
        missing = [name for name in (*wanted, *([args.label] if args.label else [])) if name not in archive]
        if missing:
            raise InputError(f"{args.archive} has no {missing}; it holds {sorted(archive)}")
        inputs = {name: archive[name][: args.items].astype(np.float32) for name in wanted}
        labels = archive[args.label][: args.items] > 0.5 if args.label else None
    effect = measure(
        args.model, inputs, labels, boards.load(args.board).geometry, device=args.device,
        float_model=args.float_model, progress=True,
    )  # fmt: skip
    if args.scores:
        np.savez_compressed(args.scores, **effect.scores, **({} if labels is None else {"labels": labels}))
    print(json.dumps(effect.summary(), indent=1))


if __name__ == "__main__":
    main()
