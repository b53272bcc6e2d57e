"""Scores of a served ONNX file, with onnxruntime on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fpga_ops.runtime.exact_products import exact_session
from retrain.data.images import CONSTITUENTS, ImageSettings, JetImager
from retrain.data.jet_table import Jets
from retrain.data.pixelmaps import PIXEL_MAPS, PixelMaps
from retrain.errors import CheckpointError
from retrain.quantisation.export import IMAGES, PROBABILITIES

if TYPE_CHECKING:
    from fpga_ops.network import Network

BATCH, ENGINE_BATCH = 16, 8


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
    session, name = _session(model, (CONSTITUENTS, IMAGES))
    imager = JetImager(image)

    def feed(first: int) -> NDArray[np.float32]:
        constituents = jets.constituents[first : first + BATCH]
        return constituents if name == CONSTITUENTS else np.repeat(imager(constituents), 3, axis=1)

    return _probabilities(session, name, len(jets), feed, progress)[:, 1]


def check_tagger(model: Path, *, on_device: bool) -> None:
    """Whether a file can be asked at all, before anything is asked of another one; a device is asked for constituents.

    Raises:
        CheckpointError: It is not one of the taggers.
    """
    _session(model, (CONSTITUENTS,) if on_device else (CONSTITUENTS, IMAGES))


def check_map_network(model: Path) -> None:
    """Whether a network for pixel maps can be asked at all, as `check_tagger`.

    Raises:
        CheckpointError: It takes something else.
    """
    _session(model, (PIXEL_MAPS,))


def engine_scores(
    model: Path, jets: Jets, device: str | None = None, progress: Callable[[int], None] = lambda _: None
) -> NDArray[np.float64]:
    """Top scores float64[N] of a file that takes `constituents`, from a device, exactly as the service answers."""
    return engine_probabilities(model, jets.constituents, device, progress)[:, 1]


def map_probabilities(
    model: Path | onnx.ModelProto, maps: PixelMaps, progress: Callable[[int], None] = lambda _: None
) -> NDArray[np.float64]:
    """Probabilities float64[N, 5] of a served file, from `pixel_maps`.

    Raises:
        CheckpointError: The file takes something else.
    """
    session, name = _session(model, (PIXEL_MAPS,))
    return _probabilities(
        session, name, len(maps), lambda first: maps.charge[first : first + BATCH].astype(np.float32), progress
    )


def engine_probabilities(
    model: Path, inputs: NDArray[Any], device: str | None = None, progress: Callable[[int], None] = lambda _: None
) -> NDArray[np.float64]:
    """Probabilities float64[N, classes] from a device, exactly as the service answers; None is the best one here."""
    return engine_outputs(model, inputs, PROBABILITIES, device, progress)


def engine_outputs(
    model: Path,
    inputs: NDArray[Any],
    output: str,
    device: str | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> NDArray[np.float64]:
    """Any output of a served file from a device, as float64."""
    return _engine(model, inputs, device, lambda network, feed: network.run(feed)[output], progress).astype(np.float64)


def engine_features(
    model: Path, inputs: NDArray[Any], device: str | None = None, progress: Callable[[int], None] = lambda _: None
) -> NDArray[np.float32]:
    """The integers that a device gives to the head, as float32[N, channels]; the same on every device."""

    def pooled(network: Network, feed: dict[str, NDArray[np.float32]]) -> NDArray[Any]:
        (values,) = network.features(feed).values()
        return values.reshape(len(values), -1)

    return _engine(model, inputs, device, pooled, progress).astype(np.float32)


def _engine(
    model: Path,
    inputs: NDArray[Any],
    device: str | None,
    ask: Callable[[Network, dict[str, NDArray[np.float32]]], NDArray[Any]],
    progress: Callable[[int], None],
) -> NDArray[Any]:
    import fpga_ops

    with fpga_ops.load(model, device, max_batch=ENGINE_BATCH) as network:
        (name,) = network.describe()["inputs"]
        parts = []
        for first in range(0, len(inputs), ENGINE_BATCH):
            batch = np.ascontiguousarray(inputs[first : first + ENGINE_BATCH], np.float32)
            parts.append(ask(network, {name: batch}))
            progress(len(batch))
    return np.concatenate(parts)


def _session(model: Path | onnx.ModelProto, inputs: tuple[str, ...]) -> tuple[Any, str]:
    """The file in onnxruntime, and the name of its only input."""
    try:
        session = exact_session(model)
    except Exception as error:  # onnxruntime's exceptions share no base class but Exception
        raise CheckpointError(f"{model if isinstance(model, Path) else 'model'}: {error}") from error
    names = [entry.name for entry in session.get_inputs()]
    outputs = [entry.name for entry in session.get_outputs()]
    if PROBABILITIES not in outputs or len(names) != 1 or names[0] not in inputs:
        expected = f"input {' or '.join(inputs)} and output {PROBABILITIES}"
        file = f"{model}: " if isinstance(model, Path) else ""
        raise CheckpointError(f"{file}expected {expected}, got {names} and {outputs}")
    return session, names[0]


def _probabilities(
    session: Any, name: str, events: int, feed: Callable[[int], NDArray[np.float32]], progress: Callable[[int], None]
) -> NDArray[np.float64]:
    parts = []
    for first in range(0, events, BATCH):
        parts.append(session.run([PROBABILITIES], {name: feed(first)})[0].astype(np.float64))
        progress(len(parts[-1]))
    return np.concatenate(parts)
