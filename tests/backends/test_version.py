"""A version folder: what the ONNX file says, and that its files are what the card describes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fpga_ops.errors import ModelError
from triton_server.repository.admission import sha256
from triton_server.repository.known_answers import read_golden
from triton_server.repository.model_version import check_files, describe_onnx


def write_model(path: Path, batch: object = "N") -> Path:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["images"], ["probabilities"])],
        "test",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, 3, 8, 8])],
    )
    onnx.save(helper.make_model(graph), path)
    return path


def test_a_dynamic_first_dimension_is_the_batch(tmp_path: Path) -> None:
    inputs, outputs = describe_onnx(write_model(tmp_path / "model.onnx"))
    assert [(t.name, t.data_type, t.dims, t.batched) for t in inputs] == [("images", "TYPE_FP32", (3, 8, 8), True)]
    entry = {"name": "probabilities", "data_type": "TYPE_FP32", "dims": [3, 8, 8]}
    assert outputs[0].as_config(batched=True) == entry
    assert outputs[0].as_config(batched=False) == {**entry, "dims": [-1, 3, 8, 8]}, "another output has none"
    assert outputs[0].rank == 4


def test_a_fixed_first_dimension_is_not(tmp_path: Path) -> None:
    inputs, _ = describe_onnx(write_model(tmp_path / "model.onnx", 1))
    assert (inputs[0].dims, inputs[0].batched) == ((1, 3, 8, 8), False)
    for batched in (True, False):
        assert inputs[0].as_config(batched=batched)["dims"] == [1, 3, 8, 8]


@pytest.mark.parametrize("content", [None, b"", b"not a model", b"\x08\x07" * 50])
def test_a_file_that_is_no_model_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.onnx"):
        describe_onnx(path)


def card(folder: Path, files: object) -> None:
    (folder / "model_card.json").write_text(json.dumps({"files": files}))


def test_hashes(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.onnx")
    check_files(tmp_path, required=False)
    with pytest.raises(ModelError, match="require_hashes"):
        check_files(tmp_path, required=True)
    card(tmp_path, {"model.onnx": sha256(path)})
    check_files(tmp_path, required=True)
    card(tmp_path, {"model.onnx": "sha256:" + sha256(path)})
    check_files(tmp_path, required=True)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.onnx is not the file"):
        check_files(tmp_path, required=False)


@pytest.mark.parametrize("files", [{"../model.onnx": "0"}, {"missing.onnx": "0"}, ["model.onnx"]])
def test_cards_that_lie_are_refused(tmp_path: Path, files: object) -> None:
    card(tmp_path, files)
    with pytest.raises(ModelError, match=r"model_card\.json"):
        check_files(tmp_path, required=False)


def test_golden_files_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "golden.npz", input=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ModelError, match=r"golden\.npz cannot be read"):
        read_golden(tmp_path, ["images"], ["probabilities"])


def test_golden_takes_few_rows(tmp_path: Path) -> None:
    np.savez(tmp_path / "golden.npz", input=np.ones((5, 3)), probabilities=np.ones((5, 2)))
    golden = read_golden(tmp_path, ["images"], ["probabilities"], rows=2)
    assert golden is not None
    assert golden.inputs["images"].shape == (2, 3)
    assert golden.outputs["probabilities"].shape == (2, 2)
