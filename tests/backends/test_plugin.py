"""The plugin itself, with the module that a stub gives it: of Tritons that take parameters in answers, and others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fpga_ops
from fpga_ops.errors import DeviceError
from tests.fpga_ops.onnx_models import quantise, resnet
from tests.support.triton_stand_ins import Failure, Request, pb_utils, plugin, write_tree
from triton_server.plugin.provenance import provenance
from triton_server.repository.model_version import describe_onnx
from triton_server.server.abilities import Ability, takes_parameters


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder with version 3."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    (folder / "3").mkdir(parents=True)
    quantise(resnet((1,), 16, (3, 32, 32), classes=2, softmax=True), folder / "3" / "model.onnx")
    return folder


def arguments(repository: Path) -> dict[str, str]:
    inputs, outputs = describe_onnx(repository / "3" / "model.onnx")
    tensors = {"input": [t.as_config(batched=True) for t in inputs],
               "output": [t.as_config(batched=True) for t in outputs]}  # fmt: skip
    parameters = {"device": {"string_value": "reference"}}
    return {
        "model_name": "tiny", "model_version": "3", "model_repository": str(repository),
        "model_instance_name": "tiny_0_0",
        "model_config": json.dumps({**tensors, "max_batch_size": 8, "parameters": parameters}),
    }  # fmt: skip


@pytest.fixture(params=[True, False], ids=["with parameters", "without parameters"])
def utils(request: pytest.FixtureRequest) -> ModuleType:
    return pb_utils(parameters=request.param)


@pytest.fixture
def model(utils: ModuleType, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An instance that serves, in a stub that knows the numpy of the tests."""
    with plugin(utils) as module:
        monkeypatch.setattr(module, "_THIS_PROGRAM", write_tree(tmp_path / "stub", {Ability.NUMPY_2})["stub"])
        instance = module.TritonPythonModel()
        instance.initialize(arguments(repository))
        yield instance
        instance.finalize()


def answers(model: Any, *batches: np.ndarray) -> list[Any]:
    """The answers to requests of one batch, also that which is sent afterwards."""
    requests = [Request({"images": images}) for images in batches]
    returned = model.execute(requests)
    model._late_response.close()
    return [*returned[:-1], *requests[-1].answers]


def test_each_answer_says_what_gave_it(model: Any, utils: ModuleType, repository: Path) -> None:
    images = np.random.default_rng(1).random((3, 3, 32, 32)).astype(np.float32)
    first, second, bad = answers(model, images[:1], images[1:], np.full((1, 3, 32, 32), np.nan, np.float32))
    with fpga_ops.load(repository / "3" / "model.onnx", "reference") as network:
        (expected,) = network.run({"images": images}).values()
        kernel = network.describe()["kernel"]
    np.testing.assert_array_equal(first.output_tensors[0].values, expected[:1])
    np.testing.assert_array_equal(second.output_tensors[0].values, expected[1:])
    assert bad.error.code == "invalid"
    told = {"device": "reference", "precision": "int8", "kernel": kernel, "version": "3"}
    for answer in (first, second):
        assert getattr(answer, "parameters", None) == (told if takes_parameters(utils) else None)


def test_answers_go_out_later_where_the_device_leaves_the_processor_alone(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the supervisor alone, which ends the server with an instance that dies with requests in hand."""
    images = np.random.default_rng(1).random((3, 3, 32, 32)).astype(np.float32)
    requests = [Request({"images": images[:1]}), Request({"images": np.full((1, 3, 32, 32), np.nan, np.float32)})]
    choices = {}
    for device in ("fpga", "gpu:1", "cpu", "cpu:1", "reference", "fpga-emulator", "fpga-rtl"):
        for supervised in (True, False):
            monkeypatch.setattr(model, "_supervised", supervised)
            monkeypatch.setattr(model._failover, "device", device)
            choices[device, supervised] = model._overlaps()
    assert {key for key, overlaps in choices.items() if overlaps} == {("fpga", True), ("gpu:1", True)}
    monkeypatch.setattr(model, "_overlap_wanted", "true")
    assert model.execute(requests) == [None, None]
    model._overlap.close()
    (good,), (bad,) = (request.answers for request in requests)
    (expected,) = model._failover.run({"images": images[:1]})[0].values()
    np.testing.assert_array_equal(good.output_tensors[0].values, expected)
    assert bad.error.code == "invalid"


def test_provenance_has_the_instruction_set_where_there_is_one() -> None:
    described = {"device": "cpu", "precision": "int8", "kernel": "ab", "isa": "avx2", "max_batch": 8}
    assert provenance(described, "2") == {
        "device": "cpu", "precision": "int8", "kernel": "ab", "isa": "avx2", "version": "2",
    }  # fmt: skip
    assert provenance({"device": "fpga", "isa": None}, "2") == {"device": "fpga", "version": "2"}


def test_a_model_is_ready_while_a_device_is_left(
    utils: ModuleType, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = fpga_ops.load
    lost: list[bool] = []

    class Breaking:
        """The reference, until it is lost."""

        def __init__(self, network: Any) -> None:
            self.network = network

        def run_timed(self, inputs: Any) -> Any:
            if lost:
                raise DeviceError("device lost")
            return self.network.run_timed(inputs)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.network, name)

    given = arguments(repository)
    monkeypatch.setattr(fpga_ops, "load", lambda *a, **k: Breaking(load(*a, **k)))
    images = np.zeros((1, 3, 32, 32), np.float32)
    with plugin(utils) as module:
        monkeypatch.setattr(module, "_THIS_PROGRAM", write_tree(tmp_path / "stub", {Ability.NUMPY_2})["stub"])
        instance = module.TritonPythonModel()
        instance.initialize(given)
        assert instance.is_ready() is True
        lost.append(True)
        (answer,) = answers(instance, images)
        assert answer.error.code == "unavailable"
        assert instance.is_ready() is False
        instance.finalize()


def test_numpy_2_is_refused_in_a_stub_that_does_not_know_it(
    utils: ModuleType, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with plugin(utils) as module:
        monkeypatch.setattr(module.np, "__version__", "2.1.0")
        monkeypatch.setattr(module, "_THIS_PROGRAM", write_tree(tmp_path / "old")["stub"])
        with pytest.raises(Failure, match=r"numpy 2\.1\.0 corrupts tensors"):
            module.TritonPythonModel().initialize(arguments(repository))
        monkeypatch.setattr(module, "_THIS_PROGRAM", write_tree(tmp_path / "new", {Ability.NUMPY_2})["stub"])
        instance = module.TritonPythonModel()
        instance.initialize(arguments(repository))
        assert instance.is_ready()
        instance.finalize()
