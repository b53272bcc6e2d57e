"""The known-answer test: an input of the version folder must give exactly the recorded integers, and the scores."""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fpga_ops.errors import ModelError
from fpga_ops.ir.network import INTEGER_RULE
from triton_server.supervisor.probe import SCORE_TOLERANCE

Arrays = Mapping[str, npt.NDArray[Any]]
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, IndexError, zipfile.BadZipFile, zlib.error)
"""What numpy raises for a damaged archive."""


@dataclass(frozen=True)
class Golden:
    """Known answers: ``inputs`` and the ``outputs`` they must give."""

    inputs: dict[str, npt.NDArray[Any]]
    outputs: dict[str, npt.NDArray[Any]]
    features: npt.NDArray[np.uint8] | None = None
    """Exact output of the device's integer network, where the file records it."""

    def difference(self, came: Arrays, features: npt.NDArray[Any] | None = None) -> str | None:
        """What is wrong with an answer, None when it is right: integers exactly, scores within SCORE_TOLERANCE."""
        if self.features is not None and features is not None:
            flat = features.reshape(self.features.shape) if features.size == self.features.size else features
            if flat.shape != self.features.shape:
                return f"features: expected shape {self.features.shape}, came {features.shape}"
            wrong = int(np.count_nonzero(flat != self.features))
            if wrong:
                return f"features: {wrong} of {flat.size} integers differ"
        for name, expected in self.outputs.items():
            if name not in came:
                return f"output '{name}' is missing"
            answer = came[name]
            if answer.shape != expected.shape:
                return f"output '{name}': expected shape {expected.shape}, came {answer.shape}"
            off = float(np.abs(answer.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0))
            if not off <= SCORE_TOLERANCE:
                return f"output '{name}': off by {off:.3g}, allowed {SCORE_TOLERANCE:.3g}"
        return None


def read_golden(version: Path, inputs: Sequence[str], outputs: Sequence[str], rows: int = 2) -> Golden | None:
    """The first ``rows`` known answers of a version folder, None without golden.npz.

    ``inputs`` and ``outputs`` are the model's names; the array ``input`` of the file is for its only input. Raises
    ModelError for a file that cannot be read, a model with several inputs, or integers of another rule than the one
    that every device computes (``fpga_ops.ir.network.INTEGER_RULE``): the file is out of date then, no device broken.
    """
    path = version / "golden.npz"
    if not path.is_file():
        return None
    if len(inputs) != 1:
        raise ModelError(f"golden.npz holds one input, the model has {len(inputs)}: {', '.join(inputs)}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            given = np.ascontiguousarray(archive["input"][:rows])
            answers = {name: archive[name][:rows] for name in outputs if name in archive}
            features = archive["features"][:rows] if "features" in archive else None
            rule = int(archive["rule"]) if "rule" in archive else 1  # files from before the rules had numbers
    except _UNREADABLE as error:
        raise ModelError(f"golden.npz cannot be read: {error}") from error
    if features is not None and rule != INTEGER_RULE:
        raise ModelError(
            f"golden.npz holds integers of rule {rule}, and this software computes by rule {INTEGER_RULE} (see "
            f"docs/explanation/integer-network.md): its devices are not at fault. Run "
            f"`triton-fpga renew-answers {version}` and judge the model's working points again"
        )
    return Golden({inputs[0]: given}, answers, features)
