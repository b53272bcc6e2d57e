"""Models of a user's own: several inputs and outputs, other batches, configurations that say little or too much."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc
import tritonclient.http
from onnx import TensorProto, helper, numpy_helper
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

import fpga_ops
from tests.e2e.conftest import Service, complete, images, serving, write_golden, write_model

pytestmark = pytest.mark.server
MODULES = {"grpc": tritonclient.grpc, "http": tritonclient.http}


def with_extra(file: Path, path: Path) -> Path:
    """A second input that is added to the scores, and a second output."""
    model = onnx.load(file)
    (scores,) = model.graph.output
    model.graph.input.append(helper.make_tensor_value_info("extra", TensorProto.FLOAT, ["batch", 2]))
    model.graph.node.append(helper.make_node("Add", [scores.name, "extra"], ["sum"], name="add"))
    model.graph.output.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["batch", 2]))
    onnx.save(model, path)
    return path


def with_table(file: Path, path: Path) -> Path:
    """A second output that is the same for every batch."""
    model = onnx.load(file)
    model.graph.initializer.append(numpy_helper.from_array(np.arange(7, dtype=np.float32), "numbers"))
    model.graph.node.append(helper.make_node("Identity", ["numbers"], ["table"], name="identity"))
    model.graph.output.append(helper.make_tensor_value_info("table", TensorProto.FLOAT, [7]))
    onnx.save(model, path)
    return path


def with_batch(file: Path, path: Path, size: int) -> Path:
    """A fixed batch."""
    model = onnx.load(file)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tiny_onnx: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    two = with_extra(tiny_onnx, folder / "two.onnx")
    table = with_table(tiny_onnx, folder / "table.onnx")
    four = with_batch(tiny_onnx, folder / "four.onnx", 4)
    return {"plain": tiny_onnx, "two": two, "bare_two": two, "table": table, "four": four, "whole": tiny_onnx}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, files: dict[str, Path]) -> Iterator[Service]:
    repository = tmp_path_factory.mktemp("own") / "models"
    batching = "dynamic_batching { max_queue_delay_microseconds: 100000 }\n"
    write_model(repository, "two", files["two"], golden=False, more=complete(files["two"]) + batching)
    write_model(repository, "bare_two", files["two"], golden=False)
    write_model(repository, "table", files["table"], golden=False)
    version = write_model(repository, "four", files["four"], golden=False, card=False)
    write_golden(
        version,
        (4, 3, 32, 32),
    )
    (score,) = (output.name for output in onnx.load(files["plain"]).graph.output)
    write_model(repository, "whole", files["plain"], golden=False, more=(
        'input [ { name: "images" data_type: TYPE_FP32 dims: [ -1, 3, 32, 32 ] } ]\n'
        'parameters { key: "contract" value { string_value: "images" } }\n'
    ))  # fmt: skip
    write_model(repository, "lies", files["plain"], golden=False, more=complete(files["plain"]).replace(score, "other"))
    write_model(repository, "contradicts", files["plain"], more="dynamic_batching { preferred_batch_size: [ 8 ] }")
    write_model(repository, "streams", files["plain"], more="model_transaction_policy { decoupled: true }")
    write_model(repository, "remembers", files["plain"], more="response_cache { enable: true }")
    with serving(repository, "--probe-interval", "0.5") as running:
        yield running
        assert not running.restarts()


def ask(
    service: Service, kind: str, model: str, outputs: list[str] | None = None, **inputs: np.ndarray
) -> dict[str, np.ndarray]:  # fmt: skip
    module: Any = MODULES[kind]
    tensors = []
    for name, values in inputs.items():
        tensor = module.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
        tensor.set_data_from_numpy(values)
        tensors.append(tensor)
    wanted = None if outputs is None else [module.InferRequestedOutput(name) for name in outputs]
    result = service.client(kind).infer(model, tensors, outputs=wanted)
    response = result.get_response()
    entries = response["outputs"] if kind == "http" else [{"name": output.name} for output in response.outputs]
    return {entry["name"]: result.as_numpy(entry["name"]) for entry in entries}


def expected(file: Path, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    with fpga_ops.load(file, "reference") as network:
        return network.run(inputs)


@pytest.mark.parametrize(
    ("model", "rows"), [("two", 3), ("bare_two", 8), ("table", 2), ("four", 4), ("whole", 1), ("whole", 8)]
)
def test_the_answers_are_the_files(service: Service, files: dict[str, Path], model: str, rows: int) -> None:
    given = {"images": images(rows, 3, 32, 32)}
    if "two" in model:
        given["extra"] = np.random.default_rng(2).random((rows, 2)).astype(np.float32)
    wanted = expected(files[model], **given)
    for kind in MODULES:
        came = ask(service, kind, model, **given)
        assert came.keys() == wanted.keys()
        for name, values in wanted.items():
            np.testing.assert_array_equal(came[name], values)


def test_each_is_asked_its_known_answer(service: Service) -> None:
    states = {entry["model"]: entry["state"] for entry in service.status()["models"]}
    assert states == dict.fromkeys(("two", "bare_two", "table", "four", "whole"), "serving")
    assert all(service.get(f"/ready/{model}")[0] == 200 for model in states)


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("which", [[0], [1], [1, 0], [0, 0, 1]])
def test_some_of_the_outputs(service: Service, files: dict[str, Path], kind: str, which: list[int]) -> None:
    """Triton's sender of answers, which takes away what was not asked for, has ended the instance."""
    given = {"images": images(2, 3, 32, 32), "extra": np.ones((2, 2), np.float32)}
    wanted = expected(files["two"], **given)
    names = [list(wanted)[place] for place in which]
    for _ in range(5):
        came = ask(service, kind, "two", names, **given)
        assert came.keys() == set(names)
        for name in came:
            np.testing.assert_array_equal(came[name], wanted[name])


@pytest.mark.parametrize(
    ("model", "rows", "words"),
    [("whole", 0, "expected one row or more"), ("whole", 9, "a batch of 1 to 8 is expected"), ("four", 3, "four")],
)
def test_other_batches_are_refused(service: Service, model: str, rows: int, words: str) -> None:
    for kind in MODULES:
        with pytest.raises(InferenceServerException, match=words) as caught:
            ask(service, kind, model, images=images(9, 3, 32, 32)[:rows])
        assert str(caught.value.status()) in ("StatusCode.INVALID_ARGUMENT", "400")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("lies", ["config.pbtxt: outputs [", "['other'] came"]),
        ("contradicts", ["Triton does not take its config.pbtxt", "Poll failed for model directory 'contradicts'"]),
        ("streams", ["decoupled"]),
        ("remembers", ["response_cache"]),
    ],
)
def test_what_cannot_be_is_refused(service: Service, model: str, words: list[str]) -> None:
    reason = service.status()["refused"][model]
    assert all(word in reason for word in words), reason
    assert service.get(f"/ready/{model}")[0] == 503
