"""Scores of an ONNX tagger from either contract, with onnxruntime on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from retrain.errors import CheckpointError
from retrain.export import IMAGES, PROBABILITIES
from retrain.images import CONSTITUENTS, ImageSettings, JetImager
from retrain.jets import Jets

BATCH = 16


def onnx_scores(
    model: Path | onnx.ModelProto,
    jets: Jets,
    image: ImageSettings | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> NDArray[np.float64]:
    """Top scores float64[N] of a served file, from `constituents` or from three-plane `images`.

    Raises:
        CheckpointError: The file is not one of the taggers.
    """
    import onnxruntime

    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    try:
        session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class but Exception
        raise CheckpointError(f"{model if isinstance(model, Path) else 'model'}: {error}") from error
    names = [entry.name for entry in session.get_inputs()]
    outputs = [entry.name for entry in session.get_outputs()]
    if PROBABILITIES not in outputs or names not in ([CONSTITUENTS], [IMAGES]):
        raise CheckpointError(
            f"expected input {CONSTITUENTS} or {IMAGES} and output {PROBABILITIES}, got {names} and {outputs}"
        )
    imager = JetImager(image)
    scores = np.empty(len(jets))
    for first in range(0, len(jets), BATCH):
        constituents = jets.constituents[first : first + BATCH]
        feed: dict[str, Any] = {CONSTITUENTS: constituents}
        if names == [IMAGES]:
            feed = {IMAGES: np.repeat(imager(constituents), 3, axis=1)}
        scores[first : first + len(constituents)] = session.run([PROBABILITIES], feed)[0][:, 1]
        progress(len(constituents))
    return scores
