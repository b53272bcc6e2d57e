"""Networks with random weights, exported by torch's default exporter and quantised by onnxruntime.

Random weights serve: what is asked is whether a graph is taken and whether its integers are right.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fpga_ops.runtime.onnxruntime_import import import_onnxruntime

INPUT = "images"
OUTPUT = "scores"
SIZE = 32
"""Pixels along an edge: networks for 224 take any multiple of 32."""


@dataclass(frozen=True)
class Source:
    """One network in one form.

    Attributes:
        package: `torchvision` or `timm`.
        network: Its name there.
        form: `QDQ` or `QOperator`.
        dynamic: Whether the batch is.
    """

    package: str
    network: str
    form: str = "QDQ"
    dynamic: bool = True

    @property
    def title(self) -> str:
        """For a table."""
        return f"{self.network} ({self.package})"


VISION = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2",
    "resnext50_32x4d", "resnext101_32x8d", "vgg11_bn", "vgg16_bn", "vgg19_bn", "mobilenet_v2", "densenet121",
    "efficientnet_b0",
)  # fmt: skip
TIMM = ("resnet18d", "resnet50d", "resnet26t", "seresnet18")
SOURCES = (
    *(Source("torchvision", name) for name in VISION),
    Source("torchvision", "resnet18", dynamic=False),
    Source("torchvision", "resnet18", form="QOperator"),
    Source("torchvision", "mobilenet_v2", form="QOperator"),
    *(Source("timm", name) for name in TIMM),
)
"""What `triton-fpga bench networks` tries."""


def build(source: Source) -> Any:
    """The torch module, in evaluation mode.

    Raises:
        ImportError: The package is not installed.
    """
    import torch

    torch.manual_seed(0)
    if source.package == "timm":
        return importlib.import_module("timm").create_model(source.network, pretrained=False).eval()
    models = importlib.import_module("torchvision.models")
    module = getattr(models, source.network)(weights=None)
    if source.network.startswith("vgg"):  # its classifier is for maps of 7x7, that is for images of 224
        module.avgpool = torch.nn.Identity()
        module.classifier = torch.nn.Linear(512, 1000)
    return module.eval()


def export(module: Any, path: Path, *, dynamic: bool) -> None:
    """Write the float network as torch's default exporter does."""
    import torch

    images = torch.zeros(2 if dynamic else 1, 3, SIZE, SIZE)
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    with contextlib.redirect_stdout(io.StringIO()):  # it tells how far it is
        torch.onnx.export(
            module, (images,), path, input_names=[INPUT], output_names=[OUTPUT], dynamic_shapes=shapes, dynamo=True,
            external_data=False, verbose=False,
        )  # fmt: skip


def quantise(plain: Path, path: Path, form: str) -> None:
    """Quantise statically, weights per output channel, ranges from random images."""
    quantization = import_onnxruntime("onnxruntime.quantization")

    class Images(quantization.CalibrationDataReader):  # type: ignore[misc,name-defined]
        """Four random images, one by one."""

        def __init__(self) -> None:
            self._batches: Iterator[dict[str, npt.NDArray[np.float32]]] = (
                {INPUT: images(1, seed)} for seed in range(1, 5)
            )

        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            return next(self._batches, None)

    quantization.quantize_static(
        plain,
        path,
        Images(),
        quant_format=quantization.QuantFormat[form],
        per_channel=True,
        weight_type=quantization.QuantType.QInt8,
    )


def images(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Random images, `float32[count, 3, 32, 32]`."""
    return np.random.default_rng(seed).normal(0, 1, (count, 3, SIZE, SIZE)).astype(np.float32)
