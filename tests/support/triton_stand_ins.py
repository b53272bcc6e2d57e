"""What Tritons of different age look like, for what cannot be run here: their files and the module in their stubs.

What they do is measured: 2.51 from the wheel, 2.72 built from its source.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from triton_server.server.abilities import SIGNS, Ability
from triton_server.server.installation import backend_folder

FILES = {
    "binary": "bin/tritonserver",
    "python_backend": "backends/python/libtriton_python.so",
    "stub": "backends/python/triton_python_backend_stub",
    "utils": "backends/python/triton_python_backend_utils.py",
}
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


def write_tree(root: Path, abilities: Collection[Ability] = (), python: str = HERE) -> dict[str, Path]:
    """The files of a Triton at ``root``, holding the names that one with these abilities holds; returns them."""
    paths = {kind: root / place for kind, place in FILES.items()}
    for kind, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        texts = [sign.anchor for sign in SIGNS.values() if sign.file == kind]
        texts += [sign.text for ability, sign in SIGNS.items() if sign.file == kind and ability in abilities]
        if kind == "stub":
            texts.append(f"libpython{python}.so.1.0".encode())
        path.write_bytes(b"\x7fELF\0" + b"\0".join(texts) + b"\0")
    return paths


class Failure(Exception):  # noqa: N818 - stands for TritonModelException
    """What a model raises at its start."""


@dataclass
class Tensor:
    name_: str
    values: np.ndarray

    def name(self) -> str:
        return self.name_

    def as_numpy(self) -> np.ndarray:
        return self.values


class TritonError:
    INTERNAL, INVALID_ARG, UNAVAILABLE = "internal", "invalid", "unavailable"

    def __init__(self, text: str, code: str) -> None:
        self.text, self.code = text, code


class OldResponse:
    """InferenceResponse before 2.55."""

    def __init__(self, output_tensors: Any = (), error: Any = None) -> None:
        self.output_tensors, self.error = list(output_tensors), error


class NewResponse(OldResponse):
    """InferenceResponse since then: parameters are a dictionary of strings, integers and booleans."""

    def __init__(self, output_tensors: Any = (), error: Any = None, parameters: Any = None) -> None:
        super().__init__(output_tensors, error)
        if not all(isinstance(k, str) and isinstance(v, bool | int | str) for k, v in (parameters or {}).items()):
            raise RuntimeError("Expect parameters values to have type bool/int/str")
        self.parameters = dict(parameters or {})


class Metric:
    def increment(self, value: float) -> None:
        """Counted by nobody."""


class MetricFamily:
    COUNTER, GAUGE = 1, 2

    def __init__(self, name: str, description: str, kind: int) -> None:
        self.name = name

    def Metric(self, labels: Mapping[str, str]) -> Metric:  # noqa: N802 - Triton's name
        return Metric()


def pb_utils(*, parameters: bool) -> ModuleType:
    """The module triton_python_backend_utils as a stub has it, with or without parameters in its answers."""
    module = ModuleType("triton_python_backend_utils")
    silent = SimpleNamespace(log_info=lambda text: None, log_error=lambda text: None)
    for name, value in {
        "InferenceResponse": NewResponse if parameters else OldResponse,
        "Tensor": Tensor, "TritonError": TritonError, "TritonModelException": Failure, "Logger": silent,
        "MetricFamily": MetricFamily, "TRITONSERVER_RESPONSE_COMPLETE_FINAL": 1,
        "get_input_tensor_by_name": lambda request, name: Tensor(name, request.inputs[name]),
    }.items():  # fmt: skip
        setattr(module, name, value)
    return module


@dataclass
class Request:
    """A request, and the sender that its answer may take later."""

    inputs: Mapping[str, np.ndarray]
    answers: list[Any] = field(default_factory=list)

    def get_response_sender(self) -> Request:
        return self

    def send(self, response: Any, flags: int) -> None:
        self.answers.append(response)


@contextmanager
def plugin(utils: ModuleType) -> Iterator[Any]:
    """The module backends/fpga/model.py as it is loaded in a stub with this triton_python_backend_utils."""
    before = sys.modules.get(utils.__name__)
    sys.modules[utils.__name__] = utils
    try:
        spec = importlib.util.spec_from_file_location("fpga_plugin", backend_folder() / "model.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        if before is None:
            del sys.modules[utils.__name__]
        else:
            sys.modules[utils.__name__] = before
