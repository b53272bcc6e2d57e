"""What this Triton says and does, whichever TRITON_SERVER_ROOT points at, is what was found by looking at it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

import fpga_ops
from tests.e2e.conftest import COMPLETE, complete, images, serving, write_model
from triton_server import TritonServer
from triton_server.server import server as module
from triton_server.server.abilities import Ability
from triton_server.server.installation import find_installation

pytestmark = pytest.mark.server


def tensor(kind: str) -> Any:
    """One image as input of a client."""
    made = {"http": tritonclient.http, "grpc": tritonclient.grpc}[kind].InferInput("images", [1, 3, 32, 32], "FP32")
    made.set_data_from_numpy(images())
    return made


def told(kind: str, result: Any) -> dict[str, Any]:
    """The parameters of an answer."""
    answer = result.get_response()
    if kind == "http":
        return dict(answer.get("parameters", {}))
    return {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in answer.parameters.items()}


def test_status_has_version_and_abilities_and_each_answer_its_provenance(repository: Path) -> None:
    abilities = find_installation().abilities
    assert not abilities.undetermined
    with fpga_ops.load(repository / "tiny" / "1" / "model.onnx", "reference") as network:
        kernel = network.describe()["kernel"]
    with serving(repository, COMPLETE, "--debug") as service:
        triton = service.status()["triton"]
        assert triton["abilities"] == abilities.as_json()
        assert service.client("http").get_server_metadata()["version"] == triton["version"] != ""
        assert "Triton's ability numpy_2: " in service.log.read_text()
        expected = {"device": "reference", "precision": "int8", "kernel": kernel, "version": "1"}
        for kind in ("http", "grpc"):
            client = service.client(kind)
            tensor = __import__(f"tritonclient.{kind}", fromlist=["InferInput"]).InferInput(
                "images", [1, 3, 32, 32], "FP32"
            )
            tensor.set_data_from_numpy(images())
            came = told(kind, client.infer("tiny", [tensor]))
            assert {name: came.get(name) for name in expected} == (
                expected if Ability.RESPONSE_PARAMETERS in abilities else dict.fromkeys(expected)
            )


def test_triton_itself_calls_a_model_ready_while_a_device_is_left(
    tmp_path: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a supervisor, which would load the model anew."""
    abilities = find_installation().abilities
    fault = tmp_path / "fault"
    write_model(tmp_path / "models", "tiny", tiny_onnx, device="first", more=complete(tiny_onnx))
    monkeypatch.setattr(module, "backend_folder", lambda: Path(__file__).parent / "faulty_backend")
    environment = {"TRITON_FPGA_TEST_FAULT": str(fault)}
    with (
        TritonServer(tmp_path / "models", environment=environment) as server,
        tritonclient.grpc.InferenceServerClient(server.grpc_url) as client,
    ):
        client.infer("tiny", [tensor("grpc")])
        assert server.control.model_ready("tiny")
        assert client.is_model_ready("tiny")
        fault.write_text("lost")
        with pytest.raises(InferenceServerException, match="no device is left"):
            client.infer("tiny", [tensor("grpc")])
        ready = Ability.IS_READY not in abilities
        assert server.control.model_ready("tiny") is ready
        assert client.is_model_ready("tiny") is ready
        assert server.control.refuses_model("tiny", "1") is not ready
