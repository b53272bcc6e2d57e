"""Networks with random weights, quantised in the forms and by the tools that are about.

Random weights serve: what is asked is whether a graph is taken and whether its integers are right.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from triton_fpga_bench.networks import forms, pytorch

SIZE = 32
"""Pixels along an edge: networks for 224 take any multiple of 32."""


@dataclass(frozen=True)
class Source:
    """One network in one form.

    Attributes:
        package: `torchvision` or `timm`.
        network: Its name there.
        form: Of `forms.FORMS`, by onnxruntime's quantiser, or of `pytorch.TOOLS`, quantised in torch.
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
SOME = (
    ("torchvision", "resnet18"), ("torchvision", "resnet50"), ("torchvision", "resnext50_32x4d"),
    ("torchvision", "vgg11_bn"), ("torchvision", "mobilenet_v2"), ("timm", "resnet18d"),
)  # fmt: skip
"""Those that are tried in all forms."""
SOURCES = (
    *(Source("torchvision", name) for name in VISION),
    *(Source("timm", name) for name in TIMM),
    *(Source(*each, dynamic=False) for each in SOME),
    *(Source(*each, form=form) for form in forms.FORMS if form != "QDQ" for each in SOME),
    *(Source(*each, form=tool) for tool in pytorch.TOOLS for each in SOME),
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


def make(source: Source, path: Path) -> None:
    """Write the quantised file of a source.

    Raises:
        ImportError: A package that it needs is not installed.
        pytorch.NoFileError: The tool that quantises it makes no file of it.
    """
    module = build(source)
    if source.form in pytorch.TOOLS:
        module = pytorch.quantise(module, source.form, images, dynamic=source.dynamic)
        pytorch.export(module, path, images, dynamic=source.dynamic)
        return
    plain = path.with_name("float.onnx")
    pytorch.export(module, plain, images, dynamic=source.dynamic)
    forms.quantise(plain, path, source.form, [images(1, seed) for seed in range(1, 5)])


def images(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Random images, `float32[count, 3, 32, 32]`."""
    return np.random.default_rng(seed).normal(0, 1, (count, 3, SIZE, SIZE)).astype(np.float32)
