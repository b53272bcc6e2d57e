"""The least that a service through Triton costs: the same server, with a model that only calls the network."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_MODEL = Path(__file__).with_name("minimal_backend_model.py")
_CONFIG = """backend: "python"
max_batch_size: 8
input [ {{ name: {input} data_type: TYPE_FP32 dims: {input_shape} }} ]
output [ {{ name: {output} data_type: TYPE_FP32 dims: {output_shape} }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
parameters {{ key: "path" value {{ string_value: {path} }} }}
parameters {{ key: "device" value {{ string_value: {device} }} }}
"""


@contextmanager
def serving(folder: Path, name: str, model: Path, description: dict[str, Any], device: str) -> Iterator[str]:
    """A server of such a model, called `name`, while it is needed.

    Args:
        folder: A model repository is made in it.
        name: What to call the model.
        model: Its `.onnx` file, with one input and one output, both float32 and batched.
        description: What `Network.describe()` says of it.
        device: Where it runs.

    Yields:
        host:port of its gRPC.
    """
    from triton_server import TritonServer

    ((given, takes),) = description["inputs"].items()
    ((made, gives),) = description["outputs"].items()
    config = _CONFIG.format(
        input=json.dumps(given),
        input_shape=takes["shape"][1:],
        output=json.dumps(made),
        output_shape=gives["shape"][1:],
        path=json.dumps(str(model.resolve())),
        device=json.dumps(device),
    )
    with tempfile.TemporaryDirectory(dir=folder) as repository:
        version = Path(repository) / name / "1"
        version.mkdir(parents=True)
        shutil.copy(_MODEL, version / "model.py")
        (version.parent / "config.pbtxt").write_text(config)
        with TritonServer(repository, auto_complete=False) as server:
            yield server.grpc_url
