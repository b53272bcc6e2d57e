"""Faulty models: the server says which node and why, and the others keep serving."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from tritonclient.utils import InferenceServerException

from tests.e2e.conftest import Service, images, serving, write_model
from tests.fpga_ops.onnx_models import FloatGraph, quantise, resnet

pytestmark = pytest.mark.server


def unsupported() -> onnx.ModelProto:
    """A Sigmoid between two convolutions."""
    graph = FloatGraph((3, 32, 32))
    x = graph.node("Sigmoid", [graph.conv("images", 8, 3)])
    return graph.model(graph.head(graph.relu(graph.conv(x, 8, 3)), 2), ["batch", 2])


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_onnx: Path) -> Service:
    folder = tmp_path_factory.mktemp("bad")
    repository = folder / "models"
    write_model(repository, "good", tiny_onnx)
    write_model(repository, "missing", None)
    corrupt = folder / "corrupt.onnx"
    corrupt.write_bytes(tiny_onnx.read_bytes()[:5000])
    write_model(repository, "corrupt", corrupt, golden=False)
    plain = folder / "float.onnx"
    onnx.save(resnet((1,), 16, (3, 32, 32), classes=2), plain)
    write_model(repository, "float", plain, golden=False)
    odd = quantise(unsupported(), folder / "odd.onnx")
    write_model(repository, "unsupported", odd, golden=False)
    version = write_model(repository, "tampered", tiny_onnx)
    content = bytearray((version / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 0x10
    (version / "model.onnx").write_bytes(content)
    version = write_model(repository, "wrong_answer", tiny_onnx, card=False)
    with np.load(version / "golden.npz") as archive:
        arrays = dict(archive)
    arrays["features"][0, 0] ^= 1  # a single flipped bit in what must come out
    np.savez(version / "golden.npz", **arrays)
    write_model(repository, "typo", tiny_onnx, more='parameters { key: "devcie" value { string_value: "cpu" } }')
    write_model(repository, "nowhere", tiny_onnx, device="fpga:7")
    write_model(repository, "foreign", tiny_onnx, config='backend: "python"')
    (repository / "foreign" / "1" / "model.py").write_text("raise SystemExit")
    (repository / "unconfigured" / "1").mkdir(parents=True)
    with serving(repository, "--probe-interval", "1") as running:
        yield running


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("missing", ["model.onnx"]),
        ("corrupt", ["model.onnx"]),
        ("float", ["not quantised", "QDQ"]),
        ("unsupported", ["Sigmoid"]),
        ("tampered", ["model.onnx is not the file", "model_card.json"]),
        ("wrong_answer", ["1 of", "integers differ"]),
        ("typo", ["'devcie' is unknown"]),
        ("nowhere", ["fpga"]),
        ("foreign", ['expected backend: "fpga"']),
        ("unconfigured", ["config.pbtxt is missing"]),
    ],
)
def test_each_is_refused_with_its_reason(service: Service, model: str, words: list[str]) -> None:
    reason = service.status()["refused"][model]
    for word in words:
        assert word in reason
    with pytest.raises(InferenceServerException, match=model):
        service.infer("grpc", model, images())


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_the_others_serve(service: Service, kind: str) -> None:
    assert service.infer(kind, "good", images()).shape == (1, 2)
    assert service.get("/ready/good")[0] == 200


def test_an_unknown_model_is_named(service: Service) -> None:
    for kind in ("grpc", "http"):
        with pytest.raises(InferenceServerException, match="'nothing' is not found"):
            service.infer(kind, "nothing", images())


def test_a_mended_model_is_loaded(service: Service, tiny_onnx: Path) -> None:
    shutil.rmtree(service.repository / "missing" / "1")
    write_model(service.repository, "missing", tiny_onnx)
    service.wait_for(lambda: service.infer("grpc", "missing", images()).shape == (1, 2))
    service.wait_for(lambda: "missing" not in service.status()["refused"])
