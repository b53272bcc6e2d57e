"""Inputs of the benchmark: real jets where the sample is there, else made up; always valid for the server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sonic_client.demo.demo import read_sample
from sonic_client.events.jets import prepare

_JETS = 64


def constituents(sample: Path | None) -> NDArray[np.float32]:
    """float32[<= 64, 200, 4]: jets of the sample, or random massless constituents."""
    if sample is not None and sample.is_file():
        return next(prepare(read_sample(sample, _JETS).constituents).chunks(_JETS))
    rng = np.random.default_rng(1)
    momenta = rng.normal(0.0, 1.0, (_JETS, 80, 3)) * rng.exponential(8.0, (_JETS, 80, 1))
    energy = np.linalg.norm(momenta, axis=2, keepdims=True)
    return next(prepare(np.concatenate([energy, momenta], axis=2)).chunks(_JETS))


def images(shape: tuple[int, ...], seed: int = 1) -> NDArray[np.float32]:
    """float32[16, planes, H, W]: some 60 pixels lit, the sum of a plane 1, all planes the same."""
    rng = np.random.default_rng(seed)
    planes, height, width = shape
    result = np.zeros((16, planes, height, width), np.float32)
    for image in result:
        y, x = (np.clip(rng.normal(size / 2, size / 8, 60), 0, size - 1).astype(int) for size in (height, width))
        np.add.at(image[0], (y, x), rng.exponential(1.0, 60).astype(np.float32))
        image[:] = image[0] / image[0].sum()
    return result


def encode(model: str, tensor: str, values: NDArray[np.float32]) -> bytes:
    """A whole request for a model with one input, float32, as it goes over the wire."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name=tensor, datatype="FP32", shape=values.shape)
    request.raw_input_contents.append(values.tobytes())
    return bytes(request.SerializeToString())
