"""What torch does: its default ONNX exporter, and the tools that quantise a torch module.

The quantised modules are exported like any other; torch writes their operators as QuantizeLinear and
DequantizeLinear. torchao and neural-compressor-pt are not dependencies: they are named when they are missing.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

INPUT = "images"
OUTPUT = "scores"
Images = Callable[[int, int], npt.NDArray[np.float32]]
"""Images of a number and a seed."""


class NoFileError(Exception):
    """A tool makes no file of a network; the message is its own."""


def export(module: Any, path: Path, images: Images, *, dynamic: bool) -> None:
    """Write a module as torch's default exporter does."""
    import torch

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            module, _example(images, dynamic), path, input_names=[INPUT], output_names=[OUTPUT],
            dynamic_shapes=_shapes(dynamic), dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip


def quantise(module: Any, tool: str, images: Images, *, dynamic: bool) -> Any:
    """The module quantised by one of `TOOLS`, ranges from four random images.

    Raises:
        ImportError: The tool is not installed.
        NoFileError: It does not take the module.
    """
    import torch

    start = TOOLS[tool]()
    try:
        prepared, convert = start(module, _example(images, dynamic), _shapes(dynamic))
        for seed in range(1, 5):
            prepared(torch.from_numpy(images(2 if dynamic else 1, seed)))
        return convert(prepared)
    except Exception as error:
        raise NoFileError(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error


def _example(images: Images, dynamic: bool) -> tuple[Any]:
    import torch

    return (torch.from_numpy(images(2 if dynamic else 1, 0)),)


def _shapes(dynamic: bool) -> Shapes:
    import torch

    return ({0: torch.export.Dim("batch")},) if dynamic else None


Shapes = tuple[dict[int, Any]] | None
Start = Callable[[Any, tuple[Any], Shapes], tuple[Any, Callable[[Any], Any]]]
"""From a module, an example of its inputs and their dynamic shapes: what is calibrated, and what converts it after."""


def _pt2e(quantizer: Any) -> Start:
    pt2e = importlib.import_module("torchao.quantization.pt2e.quantize_pt2e")

    def start(module: Any, example: tuple[Any], shapes: Shapes) -> tuple[Any, Callable[[Any], Any]]:
        import torch

        graph = torch.export.export(module, example, dynamic_shapes=shapes).module()
        return pt2e.prepare_pt2e(graph, quantizer), pt2e.convert_pt2e

    return start


def _xnnpack() -> Start:
    made = importlib.import_module("torchao.testing.pt2e._xnnpack_quantizer")
    return _pt2e(made.XNNPACKQuantizer().set_global(made.get_symmetric_quantization_config(is_per_channel=True)))


def _inductor() -> Start:
    made = importlib.import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    return _pt2e(made.X86InductorQuantizer().set_global(made.get_default_x86_inductor_quantization_config()))


def _neural_compressor() -> Start:
    made = importlib.import_module("neural_compressor.torch.quantization")
    exporter = importlib.import_module("neural_compressor.torch.export")

    def start(module: Any, example: tuple[Any], shapes: Shapes) -> tuple[Any, Callable[[Any], Any]]:
        graph = exporter.export(module, example, dynamic_shapes=shapes)
        return made.prepare(graph, made.get_default_static_config()), made.convert

    return start


TOOLS: dict[str, Callable[[], Start]] = {
    "torchao, XNNPACK": _xnnpack,
    "torchao, X86 Inductor": _inductor,
    "neural-compressor": _neural_compressor,
}
"""By the name of their output's form."""
