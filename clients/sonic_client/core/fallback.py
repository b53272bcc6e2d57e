"""What answers when no server does: the same integer network in this process, or a Triton server of our own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from sonic_client.core.faults import Fault, Kind
from sonic_client.core.transports.base import Call, ModelInfo, RawReply, TensorInfo
from sonic_client.core.url import ServerUrl, parse
from sonic_client.errors import ConfigurationError
from sonic_client.options import LocalModel, LocalServer

_DTYPES = {"float32": "FP32", "float64": "FP64", "uint8": "UINT8", "int8": "INT8", "int32": "INT32", "int64": "INT64"}


class LocalTransport:
    """`fpga_ops` in this process, behind the interface of a server. One request at a time, as a device takes them."""

    def __init__(self, local: LocalModel, model: str) -> None:
        try:
            import fpga_ops
        except ImportError as error:
            raise ConfigurationError(
                f'the local fallback needs fpga_ops and its dependencies ({error}): pip install "triton-fpga[engine]"'
            ) from error
        from fpga_ops.errors import FpgaOpsError, InputError

        path = Path(local.path)
        try:
            self._network = fpga_ops.load(path, local.device)
        except (FpgaOpsError, OSError) as error:
            raise ConfigurationError(f"the local fallback {path} cannot be loaded: {error}") from error
        self._input_error, self._error = InputError, FpgaOpsError
        self._model = model
        self._version = path.parent.name if path.parent.name.isdecimal() else ""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sonic-local")
        self.url = ServerUrl("local", str(path), 0)

    async def infer(self, call: Call, timeout: float) -> RawReply:
        """Run the network on the inputs. What takes longer than `timeout` is finished, and forgotten."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                outputs = await loop.run_in_executor(self._thread, self._run, dict(call.inputs))
        except TimeoutError as error:
            raise Fault(Kind.SLOW, f"no answer within {timeout:.3g} s") from error
        except self._input_error as error:
            raise Fault(Kind.CALLER, str(error)) from error
        except (self._error, RuntimeError, MemoryError) as error:  # RuntimeError: closed meanwhile
            raise Fault(Kind.SERVER, f"{type(error).__name__}: {error}") from error
        return RawReply(outputs, self._version, self._provenance())

    async def model_ready(self, model: str, version: str, headers: Mapping[str, str], timeout: float) -> bool:
        """It is, once loaded."""
        return model == self._model and version in ("", self._version)

    async def model_info(self, model: str, version: str, headers: Mapping[str, str], timeout: float) -> ModelInfo:
        """What the network says of itself."""
        said = self._network.describe()
        inputs, outputs = (
            tuple(
                TensorInfo(name, _DTYPES[str(tensor["dtype"])], tuple(int(d) if d else -1 for d in _sizes(tensor)))
                for name, tensor in said[key].items()
            )
            for key in ("inputs", "outputs")
        )
        return ModelInfo(model, (self._version,), "fpga_ops", inputs, outputs)

    async def model_config(
        self, model: str, version: str, headers: Mapping[str, str], timeout: float
    ) -> dict[str, Any]:
        """What the network says of itself."""
        return {"name": model, "backend": "fpga_ops", "description": self._network.describe()}

    async def index(self, headers: Mapping[str, str], timeout: float) -> list[dict[str, str]]:
        """The one model."""
        return [{"name": self._model, "version": self._version, "state": "READY"}]

    async def statistics(self, model: str, version: str, headers: Mapping[str, str], timeout: float) -> dict[str, Any]:
        """None are kept."""
        return {}

    async def register(self, name: str, key: str, byte_size: int, headers: Mapping[str, str], timeout: float) -> None:
        """Not needed in one process."""
        raise Fault(Kind.CALLER, "the local fallback has no shared memory")

    async def unregister(self, name: str, headers: Mapping[str, str], timeout: float) -> None:
        """Not needed in one process."""

    async def close(self) -> None:
        """Release the device."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._network.close)
        self._thread.shutdown()

    def abandon(self) -> None:
        """The same, without an event loop."""
        self._thread.submit(self._network.close)
        self._thread.shutdown()

    def _provenance(self) -> dict[str, str]:
        """What answers, as a server's response parameters say it."""
        said = self._network.describe()
        known = {name: str(said[name]) for name in ("device", "precision", "kernel", "isa") if said.get(name)}
        return known | {"version": self._version}

    def _run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {name: np.asarray(array) for name, array in self._network.run(inputs).items()}


def _sizes(tensor: Mapping[str, Any]) -> list[int | None]:
    return [size if isinstance(size, int) and size > 0 else None for size in tensor["shape"]]


class OwnServer:
    """A real Triton server for the job alone: started when first needed, stopped with the client."""

    def __init__(self, local: LocalServer) -> None:
        self._local = local
        self._server: Any = None

    def start(self) -> ServerUrl:
        """Start it; blocks until it is ready. Raises ConfigurationError when it cannot be; then nothing is left."""
        try:
            from triton_server import TritonServer
        except ImportError as error:
            raise ConfigurationError(
                f'a local server needs the server packages ({error}): pip install "triton-fpga[server]"'
            ) from error
        from triton_server.errors import ServerError

        try:
            server = TritonServer(Path(self._local.model_repository))
            server.__enter__()
        except (ServerError, OSError, ValueError) as error:
            raise ConfigurationError(f"the local server does not start: {error}") from error
        self._server = server
        return parse(str(server.grpc_url)).server

    def stop(self) -> None:
        """Stop it and leave nothing behind."""
        if self._server is not None:
            self._server.__exit__(None, None, None)
            self._server = None
